"""What stale gradients and local steps cost: fitted on the learning simulator, for the planner.

A gradient that is t steps old is worth 1 / (1 + `STALENESS` t) of a fresh one: so many more samples it takes to the same accuracy, each
method at the best rate of one grid. Fitted by `python benchmarks/penalties.py`; `docs/choosing-a-strategy.md` has the measurements and
how far off the curve is.
"""

STALENESS = 0.60


def staleness_efficiency(staleness: float) -> float:
    """Worth of a sample whose gradient is so many steps old, on average, against one at staleness 0."""
    return 1.0 / (1.0 + STALENESS * staleness)

"""Whether a run's robust rule can survive the faults that its own job declares."""

from collections.abc import Sequence

from mottle import aggregation, attacks
from mottle.actors.job import WorkerGroup
from mottle.aggregation.decisions.base import resolve_share
from mottle.core.naming import Spec, configured, parse
from mottle.strategies import KardamConfig


def survival_warning(rule: Spec | None, groups: Sequence[WorkerGroup], strategy: Spec = "sync") -> str | None:
    """What to tell the user before the run starts; None if there is nothing.

    It compares the rule's budget with the crew that the run starts with, of whom those with an attack are faulty. A crew that changes may
    come to survive more or less; a live run then skips the steps whose condition fails.

    Args:
        rule: of the job; without one nothing was promised.
        groups: the crew.
        strategy: of the job; one may filter by itself.
    """
    num_workers = sum(group.count for group in groups)
    num_faulty = sum(group.count for group in groups if group.attack is not None and attacks.build(group.attack).name != "honest")
    name, options = parse(strategy, "strategy")
    if name == "kardam":
        declared = configured(KardamConfig, {"batch_size": 1, **options}, "strategy kardam").num_byzantine
        return _kardam(resolve_share(declared, num_workers), num_workers, num_faulty)
    if rule is None:
        return None
    try:
        aggregation.build(rule, num_workers=num_workers)
    except aggregation.ConditionError as error:
        return f"{error}; until then no step is taken"
    return aggregation.breakdown(rule, num_workers).warning(num_faulty)


def _kardam(declared: int, num_workers: int, num_faulty: int) -> str | None:
    """The filter's own condition, n >= 3f + 1."""
    if num_workers < 3 * declared + 1:
        return f"kardam needs n >= 3f + 1, got n={num_workers} and f={declared}; until more workers join nothing is asked of anybody"
    if num_faulty <= declared:
        return None
    have = f"kardam survives {declared} faulty of {num_workers} workers as configured, the job has {num_faulty}"
    return f"{have}; declare more" if 3 * num_faulty < num_workers else f"{have}, too many for it; use zeno++ with trusted data"

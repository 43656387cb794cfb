"""What a fact costs does not grow with the crew: no machine looks at every worker or order because of one of them."""

import sys
from typing import Any

import pytest

from mottle import strategies
from mottle.core.brain import Brain
from mottle.core.config import BrainConfig
from mottle.core.health import HealthConfig
from mottle.simulate import Fleet, Simulation, Synthetic, Workers


def calls_per_fact(num_workers: int, spec: Any, sample_s: float = 0.001) -> float:
    """Function calls, Python's own included, for each fact of a run that is under way; the fastest worker's time of a sample."""
    batch = 8 * num_workers if spec == "sync" else 8
    brain = Brain(BrainConfig(num_positions=10**9, health=HealthConfig()), strategies.build(spec, {"batch_size": batch}))
    workers = tuple(Workers(name=f"g{i}", count=num_workers // 4, sample_s=sample_s * (i + 1), latency_s=1e-4) for i in range(4))
    run = Simulation(brain, Fleet(workers=workers), Synthetic(1000))
    run.run(until=lambda: run.num_brain_events >= 4 * num_workers)
    calls, before, until = 0, run.num_events, run.num_brain_events + 2 * num_workers

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        run.run(until=lambda: run.num_brain_events >= until)
    finally:
        sys.setprofile(None)
    return calls / (run.num_events - before)


@pytest.mark.parametrize("spec", ["async", {"fedbuff": {"buffer_size": 10}}, "sync", "abs_sgd", {"ssp": {"slack": 2}}], ids=str)
def test_a_fact_of_ten_times_as_many_workers_costs_no_more(spec: Any) -> None:
    assert calls_per_fact(320, spec) < 1.25 * calls_per_fact(32, spec)


def test_nor_does_one_of_orders_that_take_many_seconds_though_less_than_a_deadline() -> None:
    assert calls_per_fact(320, "async", 0.3) < 1.25 * calls_per_fact(32, "async", 0.3)

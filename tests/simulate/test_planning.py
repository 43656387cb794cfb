"""Plans: the fleet that was measured, how candidates are rated, and what is said about it."""

from typing import Any

import pytest

from mottle import strategies
from mottle.core.brain import Brain
from mottle.core.config import BrainConfig
from mottle.core.protocol import Planned
from mottle.simulate import Fault, Fleet, Lognormal, Simulation, Synthetic, Workers
from mottle.simulate.penalties import staleness_efficiency
from mottle.simulate.planning import batch_worth, fleet_of, planner_of

JOB = {"batch_size": 64}


def measured(*sample_s: float, exchange_s: float = 0.0, noise: float | None = None, running: Any = "lb_bsp", **more: Any) -> dict[str, Any]:
    numbers = {
        str(slot): {"sample_s": each, "overhead_s": 0.0, "exchange_s": exchange_s, "jitter": 0.0} for slot, each in enumerate(sample_s)
    }
    crew = list(range(len(sample_s)))
    candidates = ["sync", "backup", "lb_bsp", "abs_sgd"]
    facts = {"crew": crew, "workers": numbers, "noise_scale": noise, "running": running, "robust": False, "candidates": candidates}
    return {**facts, **more}


def answer(facts: dict[str, Any], optimizer: Any = "sgd") -> Planned:
    planner = planner_of(strategies.config_of("auto", JOB), 8, optimizer)
    assert planner is not None
    return planner(facts)


def rating(planned: Planned, name: str) -> dict[str, Any]:
    (found,) = [each for each in planned.ranking if each["strategy"] == name]
    return dict(found)


def test_only_auto_is_planned_for() -> None:
    assert planner_of(strategies.config_of("sync", JOB), 8, "sgd") is None


def test_the_fleet_is_what_was_measured_and_who_is_new_is_like_the_others() -> None:
    facts = measured(0.001, 0.003, 0.002, exchange_s=0.01)
    facts["workers"]["1"] |= {"jitter": 0.2, "overhead_s": 0.004}
    fleet = fleet_of({**facts, "crew": [0, 1, 2, 7]})
    assert fleet.workers == (
        Workers(name="w0", sample_s=0.001, latency_s=0.005),
        Workers(name="w1", sample_s=Lognormal(median_s=0.003, sigma=0.2), latency_s=0.007),
        Workers(name="w2", sample_s=0.002, latency_s=0.005),
        Workers(name="w7", sample_s=0.002, latency_s=0.005),
    )


def test_on_unequal_machines_with_a_quick_network_balanced_shares_win() -> None:
    planned = answer(measured(0.002, 0.002, 0.002, 0.008, noise=100.0))
    assert planned.spec == "lb_bsp"
    assert rating(planned, "sync")["samples_per_s"] == pytest.approx(64 / (16 * 0.008), rel=0.01)
    assert rating(planned, "lb_bsp")["samples_per_s"] == pytest.approx(1625, rel=0.05), "the sum of the speeds"
    abs_sgd = rating(planned, "abs_sgd")
    assert abs_sgd["staleness"] == pytest.approx(1.0, abs=0.05)
    assert abs_sgd["staleness_worth"] == pytest.approx(staleness_efficiency(1.0), abs=0.01)


def test_coded_computing_that_is_allowed_wins_where_others_straggle_every_time() -> None:
    coded = {"gradient_coding": {"num_stragglers": 3, "code": "fractional"}}
    facts = measured(*[0.002] * 8, candidates=["sync", "backup", "lb_bsp", "abs_sgd", coded], noise=0.0, running="sync")
    for numbers in facts["workers"].values():
        numbers["jitter"] = 2.0
    planner = planner_of(strategies.config_of({"auto": {"allow": [coded]}}, JOB), 8, "adam")
    assert planner is not None
    planned = planner(facts)
    assert planned.spec == coded
    assert rating(planned, "gradient_coding")["samples_per_s"] > 2 * rating(planned, "sync")["samples_per_s"]


def test_a_change_must_promise_more_than_what_is_not_known() -> None:
    planned = answer(measured(0.002, 0.002, running="sync"))
    assert planned.spec == "sync"
    assert "stays with sync" in planned.why


def test_it_says_why_in_numbers() -> None:
    planned = answer(measured(0.002, 0.002, 0.002, 0.008, exchange_s=0.01, noise=500.0, running="sync"))
    assert planned.spec == "lb_bsp"
    assert planned.why.startswith("auto goes on with lb_bsp: 4 workers, measured at 500, 500, 500, 125 samples/s with 10.0 ms of exchange")
    assert "the noise scale is 500 samples" in planned.why
    assert "useful samples/s (" in planned.why
    assert planned.ranking[0]["strategy"] == "lb_bsp"


def test_under_a_robust_rule_no_step_is_scaled() -> None:
    facts = measured(0.002, 0.008, candidates=["abs_sgd"], running="abs_sgd")
    assert answer(facts).spec == "abs_sgd", "no gain over the running one, whose options are others"
    assert answer({**facts, "running": "sync"}).spec == {"abs_sgd": {"linear_batch": 128, "linear_cap": 4.0}}
    assert answer({**facts, "running": "sync", "robust": True}).spec == "abs_sgd"


def test_larger_batches_count_for_less_where_the_step_cannot_grow_with_them() -> None:
    assert batch_worth(256, 64, noise=1000.0, scales=True) == pytest.approx((1000 + 64) / (1000 + 256))
    assert batch_worth(256, 64, noise=1000.0, scales=False) == 64 / 256
    assert batch_worth(6400, 64, noise=1e9, scales=True) == 8 * 64 / 6400, "as far as the step may grow"
    assert batch_worth(16, 64, noise=1000.0, scales=True) == 1.0


def test_a_run_changes_its_strategy_when_its_crew_does() -> None:
    config = strategies.config_of("auto", {"batch_size": 64})
    fleet = Fleet(
        workers=(Workers(name="fast", count=2, sample_s=0.02, latency_s=0.01), Workers(name="slow", count=0, sample_s=0.16)),
        faults=(Fault(kind="crash", worker="fast-1", at_s=20), *(Fault(kind="join", group="slow", at_s=30) for _ in range(6))),
    )
    brain = Brain(BrainConfig(num_positions=10**6, max_ns=70 * 10**9), config.build())
    plans: list[Planned] = []

    def note(event: Any, commands: Any) -> None:
        if isinstance(event, Planned):
            plans.append(event)

    run = Simulation(brain, fleet, Synthetic(0), micro_batch=8, checks=True, planner=planner_of(config, 8, "sgd"), on_event=note)
    run.run()
    assert len(plans) >= 3, "at the start, after the crash, and when the slow ones have been measured"
    assert "7 workers" in plans[-1].why

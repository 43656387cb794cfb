"""The worked clusters of `heterogeneous.md` section 10, in closed form and event by event."""

from collections import Counter
from itertools import pairwise

import pytest

from mottle import strategies
from mottle.core import protocol as p
from mottle.core.brain import Brain
from mottle.core.config import BrainConfig
from mottle.core.strategy import Fragmented
from mottle.simulate import Fault, Fleet, Servers, Simulation, Synthetic, Trace, Validator, Workers
from mottle.simulate.closed_form import apart, ring_s, together
from mottle.simulate.compare import timing_task
from mottle.simulate.fleet import Workload

MODEL_BYTES = 44_695_848
SAMPLE_S = (0.002, 0.002, 0.004, 0.008)
LATENCY_S = 50e-6
FAST, SLOW = 1.25e9, 1.25e8


def cluster(bandwidth: float | None = FAST, **settings: object) -> Fleet:
    """The four workers of 10.9."""
    groups = tuple(
        Workers(name=f"w{i}", sample_s=sample_s, bandwidth_bytes_per_s=bandwidth, latency_s=LATENCY_S)
        for i, sample_s in enumerate(SAMPLE_S)
    )
    return Fleet(workers=groups, **settings)


def simulate(spec, fleet: Fleet, *, seconds: float = 600.0, batch: int = 32, micro: int | None = None, **config) -> Simulation:
    config = {"num_positions": 10**7, "max_ns": round(seconds * 1e9), "lease_floor_ns": None, **config}
    brain = Brain(BrainConfig(**config), strategies.build(spec, {"batch_size": batch, "lr": 0.1, "rho": 1e-4, "optimizer": "sgd"}))
    number = brain.strategy.fragmentation.number if isinstance(brain.strategy, Fragmented) else 0
    numbers = Synthetic(MODEL_BYTES, num_shards=brain.config.num_shards, num_fragments=number)
    run = Simulation(brain, fleet, numbers, micro_batch=micro, trace=True)
    return run.run(until=lambda: run.clock.now_ns > seconds * 1e9)


def verdicts_per_s(run: Simulation, worker: int, seconds: float) -> float:
    return sum(run.tally.workers[worker].verdicts.values()) / seconds


# --- closed forms -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bandwidth", "exchange_s", "transfer_s"), [(FAST, 0.053935018, 0.035806678), (SLOW, 0.536650176, 0.357616784)], ids=["10Gb/s", "1Gb/s"]
)
def test_an_exchange_takes_as_long_as_the_specification_says(bandwidth: float, exchange_s: float, transfer_s: float) -> None:
    assert ring_s(MODEL_BYTES, [bandwidth] * 4, [LATENCY_S] * 4) == pytest.approx(exchange_s, abs=5e-10)
    assert LATENCY_S + MODEL_BYTES / bandwidth == pytest.approx(transfer_s, abs=5e-10)


@pytest.mark.parametrize(
    ("bandwidth", "batches", "period_s", "steps_per_s", "samples_per_s", "utilisation"),
    [
        (FAST, (32, 32, 32, 32), 0.309935, 3.226483, 412.990, (0.2065, 0.2065, 0.4130, 0.8260)),
        (FAST, (47, 47, 23, 11), 0.147935, 6.759725, 865.245, (0.6354, 0.6354, 0.6219, 0.5949)),
        (SLOW, (32, 32, 32, 32), 0.792650, 1.261591, 161.484, (0.0807, 0.0807, 0.1615, 0.3230)),
        (SLOW, (47, 47, 23, 11), 0.630650, 1.585665, 202.965, (0.1491, 0.1491, 0.1459, 0.1395)),
    ],
)
def test_closed_form_of_those_who_step_together(bandwidth, batches, period_s, steps_per_s, samples_per_s, utilisation) -> None:
    compute_s = [b * c for b, c in zip(batches, SAMPLE_S, strict=True)]
    steady = together(compute_s, batches, ring_s(MODEL_BYTES, [bandwidth] * 4, [LATENCY_S] * 4))
    assert steady.period_s == pytest.approx((period_s,) * 4, abs=1e-6)
    assert steady.steps_per_s == pytest.approx(steps_per_s, abs=1e-6)
    assert steady.samples_per_s == pytest.approx(samples_per_s, abs=1e-3)
    assert steady.utilisation == pytest.approx(utilisation, abs=1e-4)


ASYNC = {
    FAST: ((0.135613, 0.135613, 0.199613, 0.327613), 22.809873, 729.916, (0.4719, 0.4719, 0.6412, 0.7814)),
    SLOW: ((0.779234, 0.779234, 0.843234, 0.971234), 4.782154, 153.029, (0.0821, 0.0821, 0.1518, 0.2636)),
}


def async_oracle(bandwidth: float):
    compute_s = [32 * c for c in SAMPLE_S]
    return apart(compute_s, [32] * 4, [LATENCY_S + MODEL_BYTES / bandwidth] * 4)


@pytest.mark.parametrize("bandwidth", [FAST, SLOW])
def test_closed_form_of_those_who_step_apart(bandwidth: float) -> None:
    steady = async_oracle(bandwidth)
    periods, updates_per_s, samples_per_s, utilisation = ASYNC[bandwidth]
    assert steady.period_s == pytest.approx(periods, abs=1e-6)
    assert steady.steps_per_s == pytest.approx(updates_per_s, abs=1e-6)
    assert steady.samples_per_s == pytest.approx(samples_per_s, abs=1e-3)
    assert steady.utilisation == pytest.approx(utilisation, abs=1e-4)
    mean = sum(tau / period for tau, period in zip(steady.staleness, steady.period_s, strict=True)) / steady.steps_per_s
    assert mean == pytest.approx(3)
    if bandwidth == FAST:
        assert steady.staleness == pytest.approx((2.0933, 2.0933, 3.5532, 6.4728), abs=1e-4)


# --- event by event ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bandwidth", "updates_per_s"), [(FAST, 22.8067), (SLOW, 4.7767)])
def test_asynchronous_events_give_the_oracles_rates(bandwidth: float, updates_per_s: float) -> None:
    run = simulate("async", cluster(bandwidth))
    steady = async_oracle(bandwidth)
    assert sum(verdicts_per_s(run, i, 600) for i in range(4)) == pytest.approx(updates_per_s, abs=0.002)
    for i, worker in run.tally.workers.items():
        assert verdicts_per_s(run, i, 600) == pytest.approx(1 / steady.period_s[i], rel=5e-3)
        assert worker.compute_ns / 600e9 == pytest.approx(steady.utilisation[i], rel=5e-3)
        assert worker.staleness_sum / worker.verdicts["accepted"] == pytest.approx(steady.staleness[i], rel=2e-2)
    updates = sum(worker.verdicts["accepted"] for worker in run.tally.workers.values())
    assert sum(worker.staleness_sum for worker in run.tally.workers.values()) / updates == pytest.approx(3, rel=5e-3)


@pytest.mark.parametrize(
    ("bandwidth", "period_s", "samples_per_s", "utilisation"),
    [(FAST, 12.853935, 497.902, (0.2490, 0.2490, 0.4979, 0.9958)), (SLOW, 13.336650, 479.881, (0.2399, 0.2399, 0.4799, 0.9598))],
)
def test_rounds_of_fifty_local_steps_give_the_oracles_period(bandwidth, period_s, samples_per_s, utilisation) -> None:
    run = simulate({"diloco": {"local_steps": 50}}, cluster(bandwidth, exchange="ring"), seconds=10 * period_s, batch=128)
    made = [mark.now_ns for mark in run.tally.judged if mark.slot == 0]
    assert (made[-1] - made[0]) / 1e9 / (len(made) - 1) == pytest.approx(period_s, abs=1e-6)
    elapsed_s = len(made) * period_s
    assert sum(worker.samples for worker in run.tally.workers.values()) / elapsed_s == pytest.approx(samples_per_s, abs=1e-3)
    assert len(made) >= 9
    for i, worker in run.tally.workers.items():
        assert worker.compute_ns / run.clock.now_ns == pytest.approx(utilisation[i], rel=0.02)


@pytest.mark.parametrize(("spec", "steps"), [("sync", 1), ({"local_sgd": {"local_steps": 8}}, 8), ({"diloco": {"local_steps": 50}}, 50)])
def test_an_update_travels_once_in_so_many_inner_steps(spec, steps: int) -> None:
    run = simulate(spec, cluster(), seconds=300, batch=128, max_samples=128 * 200)
    for i in range(4):
        side = run.crew.all[i].side
        assert side.up.num_bytes / 200 == pytest.approx(MODEL_BYTES / steps, rel=0.02)
        assert side.down.num_bytes / 200 == pytest.approx(MODEL_BYTES / steps, rel=0.02)


@pytest.mark.parametrize(("bandwidth", "overlap"), [(FAST, 1), (SLOW, 0), (SLOW, 1), (SLOW, 5)])
def test_fragments_travel_behind_so_many_inner_steps(bandwidth: float, overlap: int) -> None:
    """`heterogeneous.md` 10.6: of each exchange, only what takes longer than the overlap is waited for."""
    steps, fragments = 48, 4
    spec = {"streaming_diloco": {"local_steps": steps, "fragments": fragments, "overlap": overlap}}
    run = simulate(spec, cluster(bandwidth, exchange="ring"), batch=128, seconds=100)
    slowest_s = 32 * max(SAMPLE_S)
    exchange_s = ring_s(MODEL_BYTES / fragments, [bandwidth] * 4, [LATENCY_S] * 4)
    period_s = steps * slowest_s + fragments * max(0.0, exchange_s - overlap * slowest_s)
    made = [judged.now_ns / 1e9 for judged in run.tally.judged if judged.slot == 0]
    periods = [b - a for a, b in zip(made, made[fragments:], strict=False)]
    assert periods == pytest.approx([period_s] * len(periods), abs=1e-6)
    assert len(periods) > 10


def test_a_fragment_travels_once_in_so_many_inner_steps() -> None:
    spec = {"streaming_diloco": {"local_steps": 20, "fragments": 4, "overlap": 1}}
    run = simulate(spec, cluster(), seconds=300, batch=128, max_samples=128 * 400)
    for i in range(4):
        side = run.crew.all[i].side
        assert side.up.num_bytes / 400 == pytest.approx(MODEL_BYTES / 20, rel=0.02)
        assert (side.down.num_bytes - MODEL_BYTES) / 400 == pytest.approx(MODEL_BYTES / 20, rel=0.02), "and the first base"


def test_the_first_update_arrives_to_the_nanosecond() -> None:
    run = simulate("async", cluster(), seconds=0.2)
    transfer_ns = 50_000 + round(MODEL_BYTES / FAST * 1e9)
    first = run.tally.judged[0]
    assert (first.slot, first.now_ns, first.staleness) == (0, 2 * transfer_ns + 64_000_000, 0)
    assert (run.tally.judged[1].slot, run.tally.judged[1].now_ns, run.tally.judged[1].staleness) == (1, first.now_ns, 1)


@pytest.mark.parametrize("bandwidth", [FAST, SLOW])
def test_synchronous_events_over_a_ring_have_the_closed_forms_period(bandwidth: float) -> None:
    run = simulate("sync", cluster(bandwidth, exchange="ring"), batch=128, seconds=100)
    steady = together([32 * c for c in SAMPLE_S], [32] * 4, ring_s(MODEL_BYTES, [bandwidth] * 4, [LATENCY_S] * 4))
    moments = [judged.now_ns / 1e9 for judged in run.tally.judged if judged.slot == 0]
    assert [b - a for a, b in pairwise(moments)] == pytest.approx([steady.period_s[0]] * (len(moments) - 1), abs=2e-9)
    assert moments[0] == pytest.approx(steady.period_s[0], abs=2e-9)
    for i, worker in run.tally.workers.items():
        assert worker.compute_ns / (moments[-1] * 1e9) == pytest.approx(steady.utilisation[i], rel=2e-2)


def test_synchronous_events_over_servers_push_and_pull() -> None:
    run = simulate("sync", cluster(), batch=128, seconds=100)
    period_s = together([32 * c for c in SAMPLE_S], [32] * 4, 2 * (LATENCY_S + MODEL_BYTES / FAST)).period_s[0]
    assert run.tally.num_versions == int(100 / period_s)


def test_fedbuff_steps_once_for_each_full_buffer() -> None:
    run = simulate({"fedbuff": {"buffer_size": 5}}, cluster(), seconds=300)
    updates = sum(worker.verdicts["accepted"] for worker in run.tally.workers.values())
    assert updates == 5 * run.tally.num_versions
    pushing_only = apart([32 * c for c in SAMPLE_S], [32] * 4, [(LATENCY_S + MODEL_BYTES / FAST) / 2] * 4)
    # whoever finds no newer version than its own reads none
    assert 300 * async_oracle(FAST).steps_per_s < updates < 300 * pushing_only.steps_per_s


def test_zeno_with_agreeing_gradients_is_as_fast_as_async() -> None:
    run = simulate({"zeno++": {"refresh_every": 10, "ahead": 5, "validation_samples": 64}}, cluster(), seconds=300)
    updates = Counter(judged.verdict for judged in run.tally.judged)
    assert set(updates) == {"accepted"}
    assert updates["accepted"] == pytest.approx(300 * async_oracle(FAST).steps_per_s, rel=5e-3)


def test_a_slow_validator_holds_zeno_up() -> None:
    quick, slow = (
        simulate({"zeno++": {"refresh_every": 10, "validation_samples": 64}}, cluster(validator=Validator(sample_s=each)), seconds=100)
        for each in (0.0, 0.01)
    )
    assert slow.tally.num_versions < 0.7 * quick.tally.num_versions


# --- strategies that step for all at once, without waiting ------------------------------------------------------------------------------


def rounds_of(run: Simulation, num_rounds: int) -> list[tuple[float, list[int]]]:
    """When a round was applied, and the samples of each worker in it."""
    rounds: dict[int, Counter[int]] = {}
    for judged in run.tally.judged:
        rounds.setdefault(judged.now_ns, Counter())[judged.slot] += judged.samples
    return [(at_ns / 1e9, [counts[slot] for slot in range(4)]) for at_ns, counts in list(rounds.items())[:num_rounds]]


def test_abs_sgd_takes_the_rounds_of_the_event_trace() -> None:
    run = simulate("abs_sgd", cluster(exchange="ring"), batch=8, micro=8, seconds=2)
    assert rounds_of(run, 5) == [
        (0.117935018, [8, 8, 8, 8]),
        (0.181935018, [56, 56, 24, 8]),
        (0.245935018, [32, 32, 16, 8]),
        (0.309935018, [32, 32, 16, 8]),
        (0.373935018, [32, 32, 16, 8]),
    ]


def test_abs_sgd_on_a_slow_network_keeps_everybody_busy() -> None:
    run = simulate("abs_sgd", cluster(SLOW, exchange="ring"), batch=8, micro=8, seconds=20)
    (before_s, _), (after_s, counts) = rounds_of(run, 12)[-2:]
    assert counts == [288, 288, 144, 72]
    assert after_s - before_s == pytest.approx(0.576)
    assert run.tally.workers[0].compute_ns > 0.97 * run.clock.now_ns  # but for what it is lent no more at the end


@pytest.mark.parametrize(("bandwidth", "period_s"), [(FAST, 0.147935), (SLOW, 0.630650)])
def test_lb_bsp_comes_to_the_best_split(bandwidth: float, period_s: float) -> None:
    run = simulate("lb_bsp", cluster(bandwidth, exchange="ring"), batch=128, seconds=100 * period_s)
    (before_s, _), (after_s, counts) = rounds_of(run, 60)[-2:]
    assert counts == [47, 47, 23, 11]
    assert after_s - before_s == pytest.approx(period_s, abs=1e-6)


@pytest.mark.parametrize(("bandwidth", "updates_per_s"), [(FAST, 12.2095), (SLOW, 4.118474)])
def test_ssp_runs_at_the_pace_of_the_slowest(bandwidth: float, updates_per_s: float) -> None:
    run = simulate({"ssp": {"slack": 3}}, cluster(bandwidth), seconds=600)
    assert sum(verdicts_per_s(run, i, 600) for i in range(4)) == pytest.approx(updates_per_s, rel=5e-3)


# --- links ------------------------------------------------------------------------------------------------------------------------------


def test_transfers_share_a_servers_link_first_come_first_served() -> None:
    fleet = Fleet(workers=(Workers(count=3, sample_s=1e-6),), servers=Servers(bandwidth_bytes_per_s=MODEL_BYTES))  # one second each
    run = simulate("async", fleet, seconds=4.5, batch=1)
    pulls = [(span.slot, span.stop_ns) for span in run.tally.spans if span.doing == "pull"][:3]
    assert pulls == [(0, 10**9), (1, 2 * 10**9), (2, 3 * 10**9)]


def test_more_shards_bring_more_links() -> None:
    fleet = Fleet(workers=(Workers(count=8, sample_s=1e-6),), servers=Servers(bandwidth_bytes_per_s=MODEL_BYTES))
    one, four = (simulate("async", fleet, seconds=60, batch=1, num_shards=num_shards) for num_shards in (1, 4))
    assert four.tally.num_versions == pytest.approx(4 * one.tally.num_versions, rel=0.1)


# --- faults -----------------------------------------------------------------------------------------------------------------------------


def one_worker(*faults: Fault, **group: object) -> Fleet:
    return Fleet(workers=(Workers(**{"sample_s": 1.0, **group}),), faults=faults)


def moments_of(run: Simulation) -> list[float]:
    return [judged.now_ns / 1e9 for judged in run.tally.judged]


def test_a_pause_in_the_middle_of_work_lasts_as_long_as_it_says() -> None:
    fleet = one_worker(Fault(kind="pause", worker="worker-0", at_s=2.5, for_s=10))
    run = simulate("async", fleet, batch=2, micro=1, max_samples=10, num_positions=10)
    assert moments_of(run) == [2.0, 14.0, 16.0, 18.0, 20.0]
    assert run.tally.workers[0].compute_ns == 10 * 10**9


def test_a_slow_down_begins_and_ends_between_micro_batches() -> None:
    fleet = one_worker(Fault(kind="slow", worker="worker-0", at_s=2.5, factor=3, for_s=3))
    run = simulate("async", fleet, batch=4, seconds=12, micro=1)
    # 1, 2, 3 at full speed; 6 at a third, during which the slow-down ends
    assert moments_of(run) == [6.0, 10.0]


def test_a_measured_speed_holds_until_the_next_measurement() -> None:
    fleet = one_worker(sample_s=Trace(at_s=(0.0, 2.5), sample_s=(1.0, 0.5)))
    assert moments_of(simulate("async", fleet, batch=4, seconds=8, micro=1)) == [3.5, 5.5, 7.5]


def test_a_crash_is_noticed_later_and_its_samples_are_lent_again() -> None:
    fleet = Fleet(workers=(Workers(count=2, sample_s=1.0),), detect_s=5.0, faults=(Fault(kind="crash", worker="worker-1", at_s=1.5),))
    run = simulate("async", fleet, batch=2, seconds=100, max_samples=10, num_positions=10)
    assert run.finished == p.Finished("samples")
    assert run.tally.workers[1].left_ns == 1_500_000_000
    assert run.tally.workers[1].compute_ns == 1_500_000_000
    assert run.tally.workers[0].samples == 10
    assert [mark.kind for mark in run.tally.marks] == ["killed"]


def test_when_all_are_gone_the_run_says_so() -> None:
    fleet = Fleet(
        workers=(Workers(count=2, sample_s=1.0),), faults=tuple(Fault(kind="crash", worker=f"worker-{i}", at_s=3) for i in (0, 1))
    )
    run = simulate("sync", fleet, batch=2)
    assert run.finished is None
    assert run.deserted
    assert run.clock.now_ns == 4 * 10**9


def test_a_newcomer_revives_a_run_that_all_have_left() -> None:
    faults = (Fault(kind="crash", worker="worker-0", at_s=3), Fault(kind="join", group="worker", at_s=50))
    run = simulate("sync", Fleet(workers=(Workers(sample_s=1.0),), faults=faults), batch=1, max_samples=10, seconds=600)
    assert run.finished == p.Finished("samples")
    assert run.clock.now_ns == 57 * 10**9
    assert [worker.name for worker in run.tally.workers.values()] == ["worker-0", "worker-1"]


def test_one_who_leaves_finishes_what_it_has() -> None:
    run = simulate("async", one_worker(Fault(kind="leave", worker="worker-0", at_s=0.5)), batch=4, seconds=100)
    assert moments_of(run) == [4.0]
    assert run.tally.workers[0].left_ns == 4 * 10**9
    assert run.deserted


def test_an_order_carries_one_of_the_models_in_rotation_and_none_of_them_is_late() -> None:
    """Two tasks a round, each of which reads and pushes 40 kB."""
    work = Workload(model_bytes=40_000, batch_size=32, num_samples=3200)
    fleet = Fleet(workers=(Workers(name="w", count=4, sample_s=0.001, bandwidth_bytes_per_s=1e6),), workload=work)
    run = timing_task(fleet, seconds=5).run(fleet, {"m_sgc": {"models": 2}})
    worker = run.crew.all[0]
    assert worker.side.down.num_bytes == worker.side.up.num_bytes == 2 * 40_000 * run.brain.version.number
    assert {tally.staleness_sum for tally in run.tally.workers.values()} == {0}

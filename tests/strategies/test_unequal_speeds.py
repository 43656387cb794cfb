"""The worked clusters of `heterogeneous.md` 6.9 and 10.9, event by event, for the strategies that are made for unequal workers."""

import heapq
from collections import defaultdict
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mottle import strategies
from mottle.core.brain import Brain
from mottle.core.config import BrainConfig
from mottle.simulate import Fault, Fleet, Simulation, Synthetic, Workers
from mottle.simulate.closed_form import apart, first_of, ring_s, together

MODEL_BYTES = 44_695_848
SAMPLE_S = (0.002, 0.002, 0.004, 0.008)
LATENCY_S = 50e-6
FAST, SLOW = 1.25e9, 1.25e8


def cluster(sample_s=SAMPLE_S, bandwidth: float = FAST, exchange: str = "ring", faults: tuple[Fault, ...] = ()) -> Fleet:
    groups = (Workers(name=f"w{i}", sample_s=c, bandwidth_bytes_per_s=bandwidth, latency_s=LATENCY_S) for i, c in enumerate(sample_s))
    return Fleet(workers=tuple(groups), exchange=exchange, faults=faults)


def simulate(spec, fleet: Fleet, *, seconds: float, batch: int, micro: int | None = None) -> Simulation:
    brain = Brain(BrainConfig(num_positions=10**7), strategies.build(spec, {"batch_size": batch, "lr": 0.1}))
    run = Simulation(brain, fleet, Synthetic(MODEL_BYTES, num_shards=1), micro_batch=micro, trace=True)
    run.run(until=lambda: run.clock.now_ns > seconds * 1e9)
    run.crew.settle()  # what is being computed counts as well
    return run


def rounds_of(run: Simulation) -> list[tuple[int, list[int]]]:
    """(time of its version in ns, samples of each worker) of every step."""
    steps = defaultdict(lambda: defaultdict(int))
    for judged in run.tally.judged:
        steps[judged.now_ns][judged.slot] += judged.samples
    return [(now_ns, [step[slot] for slot in sorted(step)]) for now_ns, step in sorted(steps.items())]


# --- ABS-SGD ----------------------------------------------------------------------------------------------------------------------------


def abs_oracle(tau_s, u: int, exchange_s: float, rounds: int) -> list[tuple[int, list[int]]]:
    """The specification's event rules (10.7): (end of the collective in ns, samples of each worker), without any machine of ours."""
    n, exchange_ns = len(tau_s), round(exchange_s * 1e9)
    tau_ns = [round(each * 1e9) for each in tau_s]
    count, joined, parts, complete, log = [0] * n, [0] * n, defaultdict(dict), {-1}, []
    queue = [(tau_ns[i], 1, i) for i in range(n)]
    heapq.heapify(queue)
    while len(log) < rounds:
        now, kind, i = heapq.heappop(queue)
        if kind == 0:
            complete.add(i)
            continue
        count[i] += u
        if joined[i] - 1 in complete:
            parts[joined[i]][i], count[i] = count[i], 0
            if len(parts[joined[i]]) == n:
                heapq.heappush(queue, (now + exchange_ns, 0, joined[i]))
                log.append((now + exchange_ns, [parts[joined[i]][j] for j in range(n)]))
            joined[i] += 1
        heapq.heappush(queue, (now + tau_ns[i], 1, i))
    return log


def exchange_of(n: int, bandwidth: float) -> float:
    return ring_s(MODEL_BYTES, [bandwidth] * n, [LATENCY_S] * n)


def abs_run(fleet: Fleet, seconds: float, **options) -> Simulation:
    return simulate({"abs_sgd": {"least": 8, **options}}, fleet, seconds=seconds, batch=8, micro=8)


def test_the_events_of_the_worked_example() -> None:
    run = abs_run(cluster(), 0.45)
    assert rounds_of(run) == [
        (117_935_018, [8, 8, 8, 8]),
        (181_935_018, [56, 56, 24, 8]),
        (245_935_018, [32, 32, 16, 8]),
        (309_935_018, [32, 32, 16, 8]),
        (373_935_018, [32, 32, 16, 8]),
        (437_935_018, [32, 32, 16, 8]),
    ]


TYPES = {"mild": (1, 1, 1.25, 1.5), "moderate": (1, 1, 2, 2), "severe": (1, 2, 4, 8)}


@pytest.mark.parametrize("bandwidth", [FAST, SLOW], ids=["10Gb/s", "1Gb/s"])
@pytest.mark.parametrize("kind", TYPES)
def test_on_every_type_of_cluster_it_computes_as_fast_as_all_workers_together(kind: str, bandwidth: float) -> None:
    sample_s = [2e-3 * each for each in TYPES[kind]]
    run = abs_run(cluster(sample_s, bandwidth), 30)
    steps = rounds_of(run)
    assert steps == abs_oracle([8 * each for each in sample_s], 8, exchange_of(4, bandwidth), len(steps))
    rate = sum(samples for _, step in steps[5:] for samples in step) / (steps[-1][0] - steps[4][0]) * 1e9
    assert rate == pytest.approx(sum(1 / each for each in sample_s), rel=5e-3)
    for worker in run.tally.workers.values():
        assert worker.compute_ns == pytest.approx(run.clock.now_ns, rel=1e-3), "nobody ever waits"
    assert {judged.staleness for judged in run.tally.judged} == {0, 1}
    assert all(judged.staleness == 1 for judged in run.tally.judged[4:])


def test_it_follows_a_worker_that_slows_down_and_recovers() -> None:
    run = abs_run(cluster((2e-3,) * 4, SLOW, faults=(Fault(kind="slow", worker="w3-0", at_s=10, for_s=10, factor=4),)), 30)
    share = {}
    for begin in (5, 15, 25):
        steps = [step for now_ns, step in rounds_of(run) if begin - 4 < now_ns / 1e9 < begin + 4]
        share[begin] = sum(step[3] for step in steps) / sum(step[0] for step in steps)
    assert share == pytest.approx({5: 1.0, 15: 0.25, 25: 1.0}, rel=0.1)


def test_an_order_that_grows_is_not_overdue_because_others_take_long_but_one_that_was_cut_may_be() -> None:
    """One worker gets so slow that a micro-batch takes 6 s; orders are expected back within 10 s. Then it stands still for a while."""
    slow = Fault(kind="slow", worker="w3-0", at_s=5, for_s=60, factor=375)
    run = abs_run(cluster((2e-3,) * 4, faults=(slow,)), 60)
    assert [mark.text for mark in run.tally.marks if mark.kind == "overdue"] == []
    assert {judged.verdict for judged in run.tally.judged} == {"accepted"}
    run = abs_run(cluster((2e-3,) * 4, faults=(Fault(kind="pause", worker="w3-0", at_s=5, for_s=40),)), 60)
    overdue = [mark.text for mark in run.tally.marks if mark.kind == "overdue"]
    assert {text.split(" has been")[0] for text in overdue} == {"worker 3"}
    assert all(len(step) == 4 for now_ns, step in rounds_of(run) if now_ns > 50e9), "it is back"


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(
    sample_ms=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    exchange_ms=st.integers(0, 400),
)
def test_any_cluster_goes_as_the_event_rules_say(sample_ms: list[int], exchange_ms: int) -> None:
    """Bandwidths are chosen so that the ring takes about `exchange_ms`; one worker has no ring."""
    n = len(sample_ms)
    bandwidth = max(1.0, 2 * (n - 1) * MODEL_BYTES / n / (exchange_ms / 1e3 + 1e-9)) if n > 1 else FAST
    fleet = cluster([each / 1e3 for each in sample_ms], min(bandwidth, 1e14))
    run = abs_run(fleet, 5)
    steps = rounds_of(run)
    if n > 1:  # one worker without a ring makes a version at every micro-batch; rounds of one time are told apart by nothing
        assert steps == abs_oracle([8 * each / 1e3 for each in sample_ms], 8, exchange_of(n, min(bandwidth, 1e14)), len(steps))
    assert sum(sum(step) for _, step in steps) == run.brain.samples


# --- LB-BSP -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bandwidth", "period_s"), [(FAST, 0.147935), (SLOW, 0.630650)])
def test_load_balancing_has_the_closed_forms_period(bandwidth: float, period_s: float) -> None:
    run = simulate("lb_bsp", cluster(bandwidth=bandwidth), seconds=30, batch=128)
    steady = together([b * c for b, c in zip((47, 47, 23, 11), SAMPLE_S, strict=True)], [47, 47, 23, 11], exchange_of(4, bandwidth))
    assert steady.period_s[0] == pytest.approx(period_s, abs=1e-6)
    steps = rounds_of(run)
    assert {sum(step) for _, step in steps} == {128}
    assert all(step == [47, 47, 23, 11] for _, step in steps[3:])
    moments = [now_ns / 1e9 for now_ns, _ in steps[3:]]
    assert [b - a for a, b in pairwise(moments)] == pytest.approx([steady.period_s[0]] * (len(moments) - 1), abs=3e-9)


# --- SSP --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bandwidth", "pushes", "blocked_s", "updates_per_s"), [(FAST, 6, 0.813680, 12.2095), (SLOW, 16, 12.467737088, 4.118474)]
)
def test_ssp_first_blocks_when_the_oracle_says_and_then_keeps_the_pace_of_the_slowest(bandwidth, pushes, blocked_s, updates_per_s) -> None:
    run = simulate({"ssp": {"slack": 3}}, cluster(bandwidth=bandwidth, exchange="servers"), seconds=600, batch=32)
    mine = [judged.now_ns for judged in run.tally.judged if judged.slot == 0]
    period_ns = round(apart([0.064], [32], [LATENCY_S + MODEL_BYTES / bandwidth]).period_s[0] * 1e9)
    gaps = [b - a for a, b in pairwise([0, *mine])]
    assert all(gap == pytest.approx(period_ns, abs=3) for gap in gaps[:pushes])
    assert gaps[pushes] > period_ns + 10**6, "it waited"
    assert mine[pushes - 1] / 1e9 == pytest.approx(blocked_s, abs=2e-6)
    updates = sum(worker.verdicts["accepted"] for worker in run.tally.workers.values())
    assert updates / 600 == pytest.approx(updates_per_s, rel=5e-3)


# --- backup workers ---------------------------------------------------------------------------------------------------------------------


def test_backup_workers_make_the_step_as_long_as_the_nth_fastest() -> None:
    """N = 3 of 4, 32 samples each: P = t_(3) + T (10.3)."""
    run = simulate("backup", cluster(), seconds=30, batch=96, micro=1)
    period_s = 0.128 + exchange_of(4, FAST)
    moments = [now_ns / 1e9 for now_ns, step in rounds_of(run) if len(step) == 3]
    assert moments[0] == pytest.approx(period_s, abs=1e-8)
    assert [b - a for a, b in pairwise(moments)] == pytest.approx([period_s] * (len(moments) - 1), abs=1e-8)


# --- gradient coding --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bandwidth", "exchange_s"), [(FAST, 0.053935018), (SLOW, 0.536650176)], ids=["10Gb/s", "1Gb/s"])
@pytest.mark.parametrize(
    ("spec", "load", "num_needed"),
    [
        ({"gradient_coding": {"num_stragglers": 0, "code": "cyclic"}}, 1 / 4, 4),
        ({"gradient_coding": {"num_stragglers": 1, "code": "cyclic"}}, 2 / 4, 3),
        ({"gradient_coding": {"num_stragglers": 2, "code": "cyclic"}}, 3 / 4, 2),
        ({"gradient_coding": {"num_stragglers": 1}}, 2 / 4, 3),  # of the pair 0.004, 0.008 the first, after both of the other
        ({"backup": {"num_backups": 2}}, 1 / 2, 2),
    ],
    ids=str,
)
def test_a_step_of_the_first_that_are_enough_takes_the_closed_forms_time(bandwidth, exchange_s, spec, load, num_needed) -> None:
    """10.3 on the cluster of 10.9, a batch of 128."""
    steady = first_of([load * 128 * c for c in SAMPLE_S], 128, num_needed, exchange_s)
    run = simulate(spec, cluster(bandwidth=bandwidth), seconds=40 * steady.period_s[0], batch=128, micro=1)
    made = sorted({judged.now_ns for judged in run.tally.judged if judged.verdict == "accepted"})
    assert (made[-1] - made[0]) / 1e9 / (len(made) - 1) == pytest.approx(steady.period_s[0], abs=1e-6)
    elapsed_s = run.clock.now_ns / 1e9
    assert sum(worker.samples for worker in run.tally.workers.values()) / elapsed_s == pytest.approx(steady.samples_per_s, rel=0.03)
    for worker, utilisation in zip(run.tally.workers.values(), steady.utilisation, strict=True):
        assert worker.compute_ns / 1e9 / elapsed_s == pytest.approx(utilisation, rel=0.06)

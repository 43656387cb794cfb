"""Sequential gradient coding: the burst model, both schedules by themselves, and whole runs against delayed SGD."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mottle.core import protocol as p
from mottle.core import strategy as s
from mottle.core.errors import ConfigError
from mottle.strategies import MSGCConfig, SRSGCConfig
from mottle.strategies.bursts import BurstModel, Bursts
from mottle.strategies.m_sgc import CODED, PLAIN
from mottle.strategies.schemes import Task
from mottle.strategies.sequential import apportioned

START = p.Version(0, 0)

# --- stragglers -------------------------------------------------------------------------------------------------------------------------


def test_a_window_bears_so_many_distinct_stragglers() -> None:
    bursts = Bursts(BurstModel(burst=1, window=3, num_stragglers=2))
    assert not bursts.bears({0, 1, 2})
    bursts.note({0})
    bursts.note({1})
    assert bursts.bears(frozenset())
    assert not bursts.bears({2}), "three in three rounds"
    assert not bursts.bears({0}), "round 0 and round 2 are no burst of one round"
    bursts.note(frozenset())
    assert bursts.bears({0}), "round 0 is out of the window"
    assert not bursts.bears({1})


def test_a_burst_is_of_consecutive_rounds_in_a_window() -> None:
    bursts = Bursts(BurstModel(burst=2, window=4, num_stragglers=4))
    bursts.note({0})
    assert bursts.bears({0})
    bursts.note(frozenset())
    assert not bursts.bears({0}), "rounds 0 and 2 do not lie within two"


@pytest.mark.parametrize("model", [{"burst": 0, "window": 2}, {"burst": 2, "window": 2}, {"burst": 1, "window": 2, "num_stragglers": -1}])
def test_impossible_burst_models_are_refused(model) -> None:
    with pytest.raises(ConfigError, match="1 <= burst < window"):
        BurstModel(**{"num_stragglers": 1, **model})


# --- loads and sizes --------------------------------------------------------------------------------------------------------------------


def load(scheme, num_workers: int) -> float:
    """Largest part of a batch that a worker computes in a round in which nothing was lost."""
    whole = sum(scheme.chunk_weights)
    sums = dict.fromkeys(range(num_workers), 0.0)
    done = {number: {key for tasks in everything(scheme, number) for key in tasks} for number in range(scheme.delay + 1)}
    for place, tasks in enumerate(scheme.plan(scheme.delay, done)):
        sums[place] = sum(scheme.chunk_weights[chunk] for task in tasks for chunk, _ in scheme.row(task.key)) / whole
    return max(sums.values())


def everything(scheme, number: int) -> list[list[tuple[int, ...]]]:
    """Results of a job in the order of its rounds, when nothing is lost."""
    done: set[tuple[int, ...]] = set()
    rounds = []
    for later in range(scheme.delay + 1):
        keys = [task.key for tasks in scheme.plan(number + later, {number: done}) for task in tasks]
        done.update(keys)
        rounds.append(keys)
    return rounds


@pytest.mark.parametrize(
    ("config", "num_workers", "expected"),
    [
        (MSGCConfig(batch_size=1, burst=1, window=2, num_stragglers=27), 256, 0.007543),
        (MSGCConfig(batch_size=1, burst=1, window=2, num_stragglers=1), 3, 4 / 9),
        (MSGCConfig(batch_size=1, burst=1, window=2, num_stragglers=3), 3, 1 / 3),  # without a retry
        (MSGCConfig(batch_size=1, burst=2, window=3, num_stragglers=1), 4, 8 / (4 * 6)),
    ],
)
def test_the_loads_of_m_sgc_are_those_of_the_specification(config, num_workers: int, expected: float) -> None:
    assert load(config.scheme(num_workers), num_workers) == pytest.approx(expected, rel=1e-3)  # a group of 28 does not divide 256


def test_the_code_of_sr_sgc_bears_as_many_as_the_specification_says() -> None:
    published = SRSGCConfig(batch_size=1, burst=2, window=3, num_stragglers=23)
    assert published.code_stragglers == 12
    assert (published.code_stragglers + 1) / 256 == pytest.approx(0.050781, abs=1e-6)
    assert (published.delay, MSGCConfig(batch_size=1, burst=1, window=2, num_stragglers=27).delay) == (2, 1)


@given(st.integers(0, 500), st.lists(st.integers(1, 9), min_size=1, max_size=12))
def test_chunks_share_a_batch_out_by_weight(total: int, weights: list[int]) -> None:
    sizes = apportioned(total, tuple(weights))
    assert sum(sizes) == total
    assert all(abs(size - total * weight / sum(weights)) < 1 for size, weight in zip(sizes, weights, strict=True))


# --- the schedules by themselves ---------------------------------------------------------------------------------------------------------


def test_the_worked_example_of_m_sgc() -> None:
    """n = 3, B = 1, W = 2, lambda = 1: worker 1 straggles in round 0."""
    scheme = MSGCConfig(batch_size=9, burst=1, window=2, num_stragglers=1).scheme(3)
    assert scheme.delay == 1
    assert scheme.chunk_weights == (2, 2, 2, 1, 1, 1), "d1 = 2/9, d2 = 1/9"
    assert scheme.plan(0, {0: set()}) == [[Task(0, (PLAIN, place, 0))] for place in range(3)]
    assert scheme.bears({1})
    scheme.ended({1})
    came = {(PLAIN, 0, 0), (PLAIN, 2, 0)}
    second = scheme.plan(1, {0: came, 1: set()})
    assert second == [
        [Task(1, (PLAIN, 0, 0)), Task(0, (CODED, 0, 0))],
        [Task(1, (PLAIN, 1, 0)), Task(0, (PLAIN, 1, 0))],
        [Task(1, (PLAIN, 2, 0)), Task(0, (CODED, 0, 2))],
    ]
    assert scheme.decode(came) is None
    weights = scheme.decode(came | {task.key for tasks in second for task in tasks if task.job == 0})
    assert decoded_chunks(scheme, weights) == pytest.approx([1.0] * 6)


def decoded_chunks(scheme, weights) -> list[float]:
    """How often each chunk of the batch is in the decoded sum."""
    times = [0.0] * len(scheme.chunk_weights)
    for key, factor in weights:
        for chunk, coefficient in scheme.row(key):
            times[chunk] += factor * coefficient
    return times


SCHEMES = [
    SRSGCConfig(batch_size=1, burst=1, window=2, num_stragglers=3),
    SRSGCConfig(batch_size=1, burst=2, window=3, num_stragglers=4),
    SRSGCConfig(batch_size=1, burst=1, window=4, num_stragglers=5),
    MSGCConfig(batch_size=1, burst=1, window=2, num_stragglers=2),
    MSGCConfig(batch_size=1, burst=2, window=4, num_stragglers=3),
    MSGCConfig(batch_size=1, burst=1, window=2, num_stragglers=8),
    MSGCConfig(batch_size=1, burst=3, window=4, num_stragglers=7),
]


@pytest.mark.parametrize("config", SCHEMES, ids=repr)
def test_every_job_is_decoded_in_time_whoever_straggles_as_the_model_bears(config) -> None:
    """Eight workers of whom 12 % straggle at random; what the model does not bear is waited out."""
    dice, scheme = random.Random(5), config.scheme(8)
    results: dict[int, set[tuple[int, ...]]] = {}
    waited = 0
    for number in range(300):
        results[number] = set()
        stragglers = {place for place in range(8) if dice.random() < 0.12}
        plan = scheme.plan(number, results)
        if not scheme.bears(stragglers):
            waited += 1
            stragglers = set()
        for place, tasks in enumerate(plan):
            if place not in stragglers:
                for task in tasks:
                    results[task.job].add(task.key)
        scheme.ended(frozenset(stragglers))
        due = results.pop(number - scheme.delay, None)
        if due is not None:
            assert decoded_chunks(scheme, scheme.decode(due)) == pytest.approx([1.0] * len(scheme.chunk_weights), abs=1e-9)
    assert waited < 200


def test_without_more_stragglers_than_its_code_bears_sr_sgc_repeats_nothing() -> None:
    scheme = SRSGCConfig(batch_size=1, burst=1, window=2, num_stragglers=4).scheme(6)
    results: dict[int, set[tuple[int, ...]]] = {}
    for number in range(20):
        results[number] = set()
        plan = scheme.plan(number, results)
        assert {task.job for tasks in plan for task in tasks} == {number}
        late = {number % 6, (number + 1) % 6}
        results[number] = {task.key for place, tasks in enumerate(plan) for task in tasks if place not in late}
        scheme.ended(frozenset(late))


# --- whole runs -------------------------------------------------------------------------------------------------------------------------


def delayed_sgd(problem, batch: int, num_samples: int, delay: int, lr: float = 0.1) -> list[np.ndarray]:
    """Each step with the gradient at the parameters of `delay` steps ago."""
    size = len(problem.targets_N)
    path = [problem.start]
    for _ in range(num_samples // size):
        for start in range(0, size, batch):
            stop = min(start + batch, size)
            x_D = path[max(0, len(path) - 1 - delay)]
            path.append(path[-1] - lr * problem.gradient_sum(x_D, start, stop) / (stop - start))
    return path


SPECS = [
    ({"sr_sgc": {"num_stragglers": 2}}, 1),
    ({"sr_sgc": {"burst": 2, "window": 3, "num_stragglers": 2}}, 2),
    ({"m_sgc": {}}, 1),
    ({"m_sgc": {"burst": 1, "window": 3, "num_stragglers": 2}}, 2),
    ({"m_sgc": {"num_stragglers": 4}}, 1),
]


@pytest.mark.parametrize(("spec", "delay"), SPECS, ids=str)
@pytest.mark.parametrize("speeds", [(1, 1, 1, 1), (2, 1, 3, 1), (1, 40, 1, 1)], ids=str)
def test_it_is_sgd_delayed_by_its_steps(train, least_squares, spec, delay: int, speeds) -> None:
    """Also where one straggles in every round, which is soon more than a burst and is waited for."""
    problem = least_squares(num_samples=47, dim=5, seed=51)
    run = train(spec, problem, speeds=speeds, defaults={"batch_size": 12}, num_positions=47, max_samples=141, num_shards=2, lr=0.05)
    run.run()
    assert run.finished == p.Finished("samples")
    path = delayed_sgd(problem, 12, 141, delay, lr=0.05)
    assert sorted(run.history) == list(range(len(path)))
    for number, params_D in run.history.items():
        np.testing.assert_allclose(params_D, path[number], rtol=1e-9, atol=1e-11)
    assert set(run.used.values()) == {1}
    assert len(run.used) == 141
    assert [n.text for n in run.notices if "late by" in n.text] == [
        f"{next(iter(spec))} trains one model: its steps are late by {delay} others"
    ]


@pytest.mark.parametrize(("spec", "delay"), SPECS, ids=str)
def test_a_worker_that_dies_costs_no_job_and_one_that_joins_is_in_the_next_code(train, least_squares, spec, delay: int) -> None:
    problem = least_squares(num_samples=60, dim=4, seed=52)
    run = train(spec, problem, speeds=(1, 2, 1, 1, 2), defaults={"batch_size": 10}, num_positions=60, max_samples=600, lr=0.02)
    run.run(until=lambda: run.brain.samples >= 100)
    run.kill(1)
    run.run(until=lambda: run.brain.samples >= 200)
    joined = run.join(1)
    run.run()
    assert run.finished == p.Finished("samples")
    assert len(run.history) == 61, "no batch was begun again"
    assert set(run.used.values()) == {1}
    assert {verdict.worker for verdict in run.verdicts[-20:]} >= {0, joined}
    assert problem.loss(run.params) < 0.2 * problem.loss(problem.start)


def test_a_straggler_is_given_up_once_and_waited_for_the_next_time(alone) -> None:
    """Plain chunks and retries (lambda = n), W = 2, B = 1: worker 3 may straggle in round 0, but not in round 1 too."""
    machine = alone(MSGCConfig(batch_size=8, num_stragglers=4))
    machine.view.crew = (0, 1, 2, 3)
    begun = machine.hear(s.VersionPublished(START))
    assert begun[1:] == [*(s.LendChunk(chunk, 2) for chunk in range(4)), *(s.AssignChunks(chunk, ((chunk, 1.0),)) for chunk in range(4))]
    machine.hear(*(s.OrderIssued(worker, worker, 2) for worker in range(4)))
    machine.view.now_ns = 100
    assert machine.hear(came(0, 0)) == [s.SetAlarm("round-1", 100)]
    assert machine.hear(came(1, 1), came(2, 2)) == []

    machine.view.now_ns = 200
    given_up, *begun = machine.hear(s.AlarmRang("round-1"))
    assert given_up == s.AbandonOrder(3, "a straggler: its round ended without it")
    assert begun[4:] == [*(s.AssignChunks(worker, ((4 + worker, 1.0),)) for worker in range(4)), s.AssignChunks(3, ((3, 1.0),))]
    machine.hear(*(s.OrderIssued(10 + worker, worker, 2) for worker in range(4)), s.OrderIssued(14, 3, 2), s.OrderEnded(3, 3, "no update"))
    machine.view.now_ns = 250
    assert machine.hear(came(10, 0)) == [s.SetAlarm("round-2", 50)]
    machine.hear(came(11, 1), came(12, 2), came(14, 3))
    assert machine.hear(s.AlarmRang("round-2")) == [], "its burst would be of two rounds"
    assert machine.hear(came(13, 3)) == [s.Apply(((0, 1 / 8), (1, 1 / 8), (2, 1 / 8), (14, 1 / 8)), chunks=(0, 1, 2, 3))]


def came(work_id: int, worker: int) -> s.UpdateArrived:
    return s.UpdateArrived(s.Update(work_id, worker, START, 2, norm2=1.0))


@pytest.mark.parametrize("spec", ["sr_sgc", "m_sgc"])
def test_samples_that_nobody_can_compute_end_as_rejected_and_the_run_goes_on(train, least_squares, spec) -> None:
    problem = least_squares(num_samples=60, dim=3, seed=54)
    problem.rows_ND[17] = np.nan
    run = train(spec, problem, speeds=(1, 2, 1), defaults={"batch_size": 12}, num_positions=60, max_samples=60).run()
    assert run.finished == p.Finished("samples")
    (epoch,) = run.brain.book.epochs
    assert 0 < epoch.rejected < 12
    assert epoch.applied + epoch.rejected == 60
    assert np.isfinite(run.params).all()


@pytest.mark.parametrize("config", [SRSGCConfig, MSGCConfig])
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"models": 3}, "trains 1 model, or 2 in rotation: its delay of 1, and one; got models 3"),
        ({"models": True}, "got models True"),
        ({"models": 2, "model_settings": [{"lr": 0.1}]}, "model_settings for each of 2 models in rotation, got 1 for 2"),
        ({"model_settings": [{}, {}]}, "got 2 for 1"),
        ({"models": 2, "model_settings": [{}, 3]}, "as model_settings of model 1, got 3"),
        ({"models": 2, "model_settings": [{"seed": -1}, {}]}, "as seed of model 0, got -1"),
        ({"models": 2, "model_settings": [{}, {"lr": "fast"}]}, "as lr of model 1, got 'fast'"),
        ({"models": 2, "model_settings": [{}, {"lr": float("nan")}]}, "as lr of model 1, got nan"),
        ({"mu": 0.0}, "mu > 0"),
        ({"batch_size": 0}, "batch_size >= 1"),
        ({"burst": 3}, "burst < window"),
    ],
)
def test_impossible_settings_are_refused(config, options, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        config(**{"batch_size": 6, **options})


def test_a_window_of_sr_sgc_is_a_multiple_of_its_burst_and_one() -> None:
    with pytest.raises(ConfigError, match="got burst 2 and window 4"):
        SRSGCConfig(batch_size=6, burst=2, window=4)

"""Zeno++: the worked table of the specification, literal events, and how old a reference may get."""

import random
from collections import deque
from itertools import pairwise

import numpy as np
import pytest
from tests.strategies.asynchronous_study import Study

from mottle.core import strategy as s
from mottle.core.errors import ConfigError
from mottle.core.protocol import Version
from mottle.strategies import ZenoPPConfig

V0 = Version(0, 0)
LR = 0.1


@pytest.fixture
def zenopp(alone):
    defaults = {"batch_size": 1, "lr": LR, "rho": 0.02, "refresh_every": 4}
    return lambda **options: alone(ZenoPPConfig(**{**defaults, **options}))


def candidate(work_id: int, worker: int = 0, *, norm2: float = 1.0, **dots: float) -> s.Update:
    """`first=...`: inner product with reference/1, `second=...` with reference/2."""
    names = {"first": "reference/1", "second": "reference/2"}
    return s.Update(work_id, worker, V0, 1, norm2, {names[key]: value for key, value in dots.items()})


# --- the worked table -------------------------------------------------------------------------------------------------------------------


class Candidates:
    """Loss 0.5 * |x - a|^2 of the trusted data; the worker sends the table's candidates one after the other."""

    start = np.zeros(2)
    table = np.array([[6.0, 8.0], [5.0, 0.0], [4.0, -3.0], [-30.0, -40.0], [1.0, 1.0], [0.0, -2.0]])

    def gradient_sum(self, x_D: np.ndarray, start: int, stop: int) -> np.ndarray:
        return self.table[start:stop].sum(axis=0)

    def trusted_gradient(self, x_D: np.ndarray) -> np.ndarray:
        return x_D - np.array([-3.0, -4.0])


@pytest.mark.parametrize(
    ("epsilon", "scores", "path", "refreshed_at"),
    [
        (
            0.0,
            [2.0, 1.0, -0.5, -3.0, 1.374306331, -1.874841664],
            [(-0.3, -0.4), (-0.8, -0.4), None, None, (-1.098328678, -0.698328678), None],
            [0, 2],
        ),
        (
            6.0,
            [2.0, 1.0, -0.5, -3.0, 1.362243051, -2.044185064],
            [(-0.3, -0.4), (-0.8, -0.4), (-1.2, -0.1), None, (-1.503726851, -0.403726851), None],
            [0, 3],
        ),
    ],
)
@pytest.mark.parametrize("num_shards", [1, 2])
def test_the_worked_table(train, epsilon: float, scores: list[float], path: list, refreshed_at: list[int], num_shards: int) -> None:
    spec = {"zeno++": {"rho": 0.02, "epsilon": epsilon, "refresh_every": 4}}
    run = train(spec, Candidates(), defaults={"batch_size": 1}, num_positions=6, max_samples=6, num_shards=num_shards).run()
    assert [verdict.score for verdict in run.verdicts] == pytest.approx(scores, abs=1e-9)
    assert [verdict.verdict for verdict in run.verdicts] == ["rejected" if after is None else "accepted" for after in path]
    expected = [(0.0, 0.0), *(after for after in path if after is not None)]
    for number, after in enumerate(expected):
        np.testing.assert_allclose(run.history[number], after, atol=1e-9)
    assert len(run.history) == len(expected)
    assert [number for _, number in run.references[:2]] == refreshed_at


def test_the_trusted_loss_never_grows_whatever_the_workers_send(train, least_squares) -> None:
    """The safety lemma: exact reference for every candidate, rho >= L lr^2 / 2, epsilon 0."""
    problem = least_squares(num_samples=64, dim=4, seed=7)
    smoothness = float(np.linalg.eigvalsh(problem.rows_ND.T @ problem.rows_ND / 64).max())
    rng = np.random.default_rng(8)
    liars = {0: lambda sum_D: -5 * sum_D, 1: lambda sum_D: rng.normal(size=4) * 1e6, 2: lambda sum_D: np.zeros(4)}
    spec = {"zeno++": {"rho": smoothness * 0.1**2 / 2, "refresh_every": 1}}
    speeds, defaults = (2, 3, 1, 2), {"batch_size": 4}
    run = train(spec, problem, speeds=speeds, tamper=liars, defaults=defaults, num_positions=64, max_samples=256).run()
    losses = [problem.loss(run.history[number]) for number in sorted(run.history)]
    assert all(after <= before + 1e-12 for before, after in pairwise(losses))
    assert losses[-1] < 0.7 * losses[0]
    assert {verdict.verdict for verdict in run.verdicts if verdict.worker in (0, 2)} == {"rejected"}


@pytest.mark.parametrize(
    ("share", "error", "accepted", "honest_rejected", "faulty_accepted"),
    [
        (0.0, 0.0318, 0.554, 0.446, None),
        (0.3, 0.0628, 0.530, 0.406, 0.377),
        (0.6, 0.109, 0.451, 0.324, 0.283),
        (0.8, 0.180, 0.309, 0.152, 0.153),
    ],
)
def test_it_trains_with_up_to_four_fifths_faulty(
    zenopp, share: float, error: float, accepted: float, honest_rejected: float, faulty_accepted: float | None
) -> None:
    """The recorded study: without a defence any share of these attackers destroys training."""
    machine = zenopp(lr=0.02, rho=0.0002, refresh_every=10)
    versions = [np.zeros(20)]
    study, verdicts = Study(share, versions), []
    (request,) = machine.hear(s.VersionPublished(V0))
    for number, (worker, base, g_D) in enumerate(study.messages()):
        if number % 10 == 0:
            v_D = study.gradient(versions[-1], 50)
            machine.hear(s.ReferenceReady(request.name, Version(0, len(versions) - 1), float(v_D @ v_D)))
            name = request.name
        update = s.Update(number, worker, Version(0, base), 1, float(g_D @ g_D), {name: float(v_D @ g_D)})
        decisions = machine.hear(s.UpdateArrived(update))
        applied = [each for each in decisions if isinstance(each, s.Apply)]
        for decision in applied:
            versions.append(versions[-1] - 0.02 * decision.terms[0][1] * g_D)
            decisions = [*decisions, *machine.hear(machine.view.publish(len(versions) - 1))]
        verdicts.append((study.faulty(worker), bool(applied)))
        request = next((each for each in decisions if isinstance(each, s.RequestReference)), request)
    assert study.error == pytest.approx(error, rel=0.012)
    assert np.mean([passed for _, passed in verdicts]) == pytest.approx(accepted, abs=6e-4)
    assert np.mean([not passed for faulty, passed in verdicts if not faulty]) == pytest.approx(honest_rejected, abs=6e-4)
    if faulty_accepted is not None:
        assert np.mean([passed for faulty, passed in verdicts if faulty]) == pytest.approx(faulty_accepted, abs=6e-4)


# --- references -------------------------------------------------------------------------------------------------------------------------


def test_the_first_reference_is_asked_for_at_once_and_candidates_wait_for_it(zenopp) -> None:
    machine = zenopp(validation_samples=32)
    assert machine.hear(s.WorkerIdle(0)) == [s.Assign(0, 1), s.RequestReference("reference/1", 32)]
    assert machine.hear(s.UpdateArrived(candidate(7))) == []
    assert machine.hear(s.WorkerIdle(0)) == []
    assert machine.hear(s.ReferenceReady("reference/1", V0, 25.0)) == [s.MeasureDots("reference/1:7", (7,), "reference/1")]
    assert machine.hear(s.DotsMeasured("reference/1:7", (5.0,))) == [
        s.Apply(((7, 5.0),), scores={7: pytest.approx(0.1 * 25 - 0.02 * 25)}, buffers="reference/1")
    ]


def test_candidates_that_were_measured_on_arrival_are_judged_at_once(zenopp) -> None:
    machine = zenopp()
    machine.hear(s.WorkerIdle(0), s.ReferenceReady("reference/1", V0, 25.0))
    applied = s.Apply(((7, 0.5),), scores={7: pytest.approx(2.0)}, buffers="reference/1")
    assert machine.hear(s.UpdateArrived(candidate(7, norm2=100.0, first=50.0))) == [applied]


def test_buffers_are_those_of_the_reference_once_and_it_is_kept_until_the_step_that_takes_them_is_made(zenopp) -> None:
    machine = zenopp(refresh_every=2, ahead=1)
    machine.hear(s.WorkerIdle(0), s.ReferenceReady("reference/1", V0, 25.0))
    first = machine.hear(s.UpdateArrived(candidate(7, first=5.0)))[0]
    assert isinstance(first, s.Apply)
    assert first.buffers == "reference/1"
    machine.view.head = Version(0, 1)
    assert not [each for each in machine.hear(s.ReferenceReady("reference/2", V0, 25.0)) if isinstance(each, s.Forget)]
    machine.view.version = Version(0, 1)
    assert s.Forget("reference/1") in machine.hear(s.VersionPublished(Version(0, 1)))


def test_a_second_step_of_the_same_reference_leaves_the_buffers_as_they_are(zenopp) -> None:
    machine = zenopp()
    machine.hear(s.WorkerIdle(0), s.ReferenceReady("reference/1", V0, 25.0), s.UpdateArrived(candidate(7, first=5.0)))
    (second,) = machine.hear(s.UpdateArrived(candidate(8, 1, first=5.0)))
    assert second.buffers == ""


def test_a_rejected_worker_goes_on_at_once(zenopp) -> None:
    machine = zenopp()
    machine.hear(s.WorkerIdle(3), s.ReferenceReady("reference/1", V0, 25.0))
    rejected = s.Reject(7, "fails the Zeno++ test", pytest.approx(-0.5 - 0.5))
    assert machine.hear(s.UpdateArrived(candidate(7, 3, first=-1.0))) == [rejected, s.Assign(3, 1)]


def test_an_accepted_worker_waits_for_the_version_that_has_its_update(zenopp) -> None:
    machine = zenopp()
    machine.hear(s.WorkerIdle(3), s.ReferenceReady("reference/1", V0, 25.0), s.UpdateArrived(candidate(7, 3, first=5.0)))
    machine.view.head = Version(0, 1)
    assert machine.hear(s.WorkerIdle(3)) == []
    assert machine.hear(machine.view.publish(1)) == [s.Assign(3, 1)]


def test_a_new_reference_waits_until_the_model_has_every_step_decided_so_far(zenopp) -> None:
    machine = zenopp(refresh_every=1)
    machine.hear(s.WorkerIdle(0), s.ReferenceReady("reference/1", V0, 25.0), s.UpdateArrived(candidate(7, first=5.0)))
    machine.view.head = Version(0, 1)
    assert machine.hear(s.UpdateArrived(candidate(8, 1, first=5.0))) == []
    assert machine.hear(machine.view.publish(1)) == [s.Assign(0, 1), s.RequestReference("reference/2", 128)]
    ready = s.ReferenceReady("reference/2", Version(0, 1), 16.0)
    assert machine.hear(ready) == [s.Forget("reference/1"), s.MeasureDots("reference/2:8", (8,), "reference/2")]


def test_a_reference_that_nobody_waits_for_is_ignored(zenopp) -> None:
    machine = zenopp()
    machine.hear(s.WorkerIdle(0))
    assert machine.hear(s.ReferenceReady("reference/9", V0, 25.0), s.UpdateArrived(candidate(7, first=1.0))) == []


def test_measurements_of_another_request_are_ignored(zenopp) -> None:
    machine = zenopp()
    machine.hear(s.WorkerIdle(0), s.UpdateArrived(candidate(7)), s.ReferenceReady("reference/1", V0, 25.0))
    assert machine.hear(s.DotsMeasured("reference/0:7", (5.0,))) == []


def test_three_references_that_fail_in_a_row_halt_the_run(zenopp) -> None:
    machine = zenopp()
    machine.hear(s.WorkerIdle(0))
    for number in (1, 2):
        again = s.RequestReference(f"reference/{number + 1}", 128)
        assert machine.hear(s.ReferenceFailed(f"reference/{number}", "not finite")) == [again]
    (halt,) = machine.hear(s.ReferenceFailed("reference/3", "not finite"))
    assert halt == s.Halt("3 reference gradients in a row failed; the last one: not finite")


def test_a_restored_machine_names_its_references_on(zenopp) -> None:
    machine = zenopp()
    machine.hear(s.WorkerIdle(0))
    restored = zenopp()
    restored.strategy.restore(machine.strategy.state())
    assert restored.hear(s.WorkerIdle(0))[-1] == s.RequestReference("reference/2", 128)


def drive_at_random(machine, seed: int) -> list[int]:
    """Candidates, versions and references in random order; the age of the reference at every candidate judged.

    Reference number i has norm i and every candidate norm 1, so the factor that a candidate was given tells its reference; rho is next to
    nothing, so a score is lr * factor * (1 or -1). The age of a reference is the number of candidates judged since its model was the
    newest one decided.
    """
    rng = random.Random(seed)
    view = machine.view
    judged = 0
    judged_when_left: dict[int, int] = {}  # version -> candidates judged before the one that made its successor
    references: deque[tuple[str, int]] = deque()
    born: dict[int, int] = {}
    ages: list[int] = []
    work_id = 0

    def obey(decisions: list[s.Decision]) -> None:
        nonlocal judged
        for decision in decisions:
            match decision:
                case s.RequestReference(name):
                    references.append((name, view.version.number))
                    born[int(name.split("/")[1])] = judged_when_left.get(view.version.number, judged)
                case s.Apply(((_, scale),)):
                    judged_when_left[view.head.number] = judged
                    ages.append(judged - born[round(scale)])
                    view.head = view.head.next()
                    judged += 1
                case s.Reject(score=score):
                    ages.append(judged - born[round(score / (LR * -1.0))])
                    judged += 1
                case s.MeasureDots(tag, ids):
                    obey(machine.hear(s.DotsMeasured(tag, tuple(dots[each] for each in ids))))

    dots: dict[int, float] = {}
    obey(machine.hear(s.WorkerIdle(0)))
    for _ in range(300):
        action = rng.choice(("candidate", "candidate", "publish", "reference"))
        if action == "candidate":
            work_id += 1
            dots[work_id] = rng.choice((1.0, 1.0, -1.0))
            obey(machine.hear(s.UpdateArrived(candidate(work_id, work_id % 7))))
        elif action == "publish" and view.version != view.head:
            view.version = view.version.next()
            obey(machine.hear(s.VersionPublished(view.version)))
        elif action == "reference" and references:
            name, number = references.popleft()
            norm2 = float(int(name.split("/")[1])) ** 2
            obey(machine.hear(s.ReferenceReady(name, Version(0, number), norm2)))
    return ages


@pytest.mark.parametrize(("refresh_every", "ahead"), [(1, 0), (4, 0), (4, 1), (4, 2), (4, 3), (10, 4), (10, 9)])
def test_a_reference_is_never_more_than_refresh_every_candidates_old(zenopp, refresh_every: int, ahead: int) -> None:
    for seed in range(20):
        ages = drive_at_random(zenopp(refresh_every=refresh_every, ahead=ahead, rho=1e-9), seed)
        assert len(ages) > 30, f"seed {seed} judged {len(ages)} candidates only"
        assert max(ages) < refresh_every, f"seed {seed}"


def test_ahead_asks_for_the_next_reference_before_this_one_has_served_its_time(zenopp) -> None:
    machine = zenopp(refresh_every=5, ahead=2)  # serves 3 candidates, the next is asked for after the first
    machine.hear(s.WorkerIdle(0), s.ReferenceReady("reference/1", V0, 25.0))
    rejected = s.Reject(7, "fails the Zeno++ test", pytest.approx(-1.0))
    assert machine.hear(s.UpdateArrived(candidate(7, first=-1.0))) == [rejected, s.Assign(0, 1), s.RequestReference("reference/2", 128)]
    machine.hear(s.ReferenceReady("reference/2", V0, 25.0))
    for work_id in (8, 9):
        judged = machine.hear(s.UpdateArrived(candidate(work_id, first=-1.0, second=-1.0)))
        assert judged[0].work_id == work_id
    assert s.Forget("reference/1") in judged


# --- the test of a candidate ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm2", [0.0, float("inf"), 5e-324, 1e-80])
def test_a_candidate_whose_length_is_no_usable_number_is_rejected_even_with_slack(zenopp, norm2: float) -> None:
    """A tiny one would be stretched by a factor that float32 cannot hold, and the parameters would be infinite."""
    machine = zenopp(epsilon=1e6)
    machine.hear(s.WorkerIdle(0), s.ReferenceReady("reference/1", V0, 25.0))
    (reject, _) = machine.hear(s.UpdateArrived(candidate(7, norm2=norm2, first=1e-40)))
    assert reject == s.Reject(7, "zero or immeasurable gradient, or zero trusted gradient")


def test_nothing_is_accepted_on_a_trusted_gradient_of_zero(zenopp) -> None:
    machine = zenopp(epsilon=1e6)
    machine.hear(s.WorkerIdle(0), s.ReferenceReady("reference/1", V0, 0.0))
    (reject, _) = machine.hear(s.UpdateArrived(candidate(7, first=0.0)))
    assert isinstance(reject, s.Reject)


@pytest.mark.parametrize("factor", [1e-12, 1.0, 1e12])
def test_the_length_of_a_candidate_carries_no_information(zenopp, factor: float) -> None:
    machine = zenopp()
    machine.hear(s.WorkerIdle(0), s.ReferenceReady("reference/1", V0, 25.0))
    (apply,) = machine.hear(s.UpdateArrived(candidate(7, norm2=factor**2, first=3.0 * factor)))
    assert apply.scores[7] == pytest.approx(0.1 * 5 * 3 - 0.02 * 25)
    assert apply.terms[0][1] * factor == pytest.approx(5.0)


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"lr": 0.0},
        {"rho": 0.0},
        {"epsilon": -1.0},
        {"refresh_every": 0},
        {"ahead": 4},
        {"ahead": -1},
        {"validation_samples": 0},
        {"max_in_flight": 3},
        {"rho": 0.1},
        {"rho": float("nan")},
    ],
)
def test_impossible_settings_are_refused(zenopp, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"zeno\+\+ needs"):
        zenopp(**options)


def test_all_mistakes_are_named_at_once(zenopp) -> None:
    with pytest.raises(ConfigError, match=r"lr > 0, got -1.*; rho > 0, got 0"):
        zenopp(lr=-1.0, rho=0.0)

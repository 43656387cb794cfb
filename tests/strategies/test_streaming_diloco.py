"""Streaming DiLoCo: literal events, the formulas in plain loops, and its neutral references step for step."""

import numpy as np
import pytest

from mottle.core import protocol as p
from mottle.core import strategy as s
from mottle.core.errors import ConfigError
from mottle.core.protocol import LocalSteps, Version
from mottle.strategies import StreamingDiLoCoConfig

SGD = {"sgd": {"lr": 0.1}}
LR = 0.1


@pytest.fixture
def streaming(alone):
    """Two fragments, sent after steps 1 and 3 of every three."""

    def build(*crew: int, free: int = 100, **options):
        machine = alone(
            StreamingDiLoCoConfig(**{"batch_size": 4, "optimizer": SGD, "local_steps": 3, "fragments": 2, "overlap": 0, **options})
        )
        machine.view.crew, machine.view.free_samples = crew, free
        return machine

    return build


def assigned(decisions: list[s.Decision]) -> dict[int, s.Assign]:
    return {each.worker: each for each in decisions if isinstance(each, s.Assign)}


def issue(machine, decisions: list[s.Decision], first: int) -> list[s.Decision]:
    """Issue the orders that were asked for, numbered `first` + worker; the decisions on the last one."""
    asked = assigned(decisions)
    return machine.hear(*(s.OrderIssued(first + worker, worker, each.samples) for worker, each in asked.items()))


def update(work_id: int, worker: int, samples: int) -> s.Update:
    return s.Update(work_id, worker, Version(0, 0), samples, norm2=1.0)


def start(machine) -> None:
    """Two stretches are out: orders 10 + worker and 20 + worker."""
    issue(machine, issue(machine, machine.hear(s.VersionPublished(machine.view.version)), 10), 20)


# --- literal events ---------------------------------------------------------------------------------------------------------------------


def test_two_stretches_are_ordered_ahead_and_the_second_goes_on_from_the_first(streaming) -> None:
    machine = streaming(0, 1)
    first = machine.hear(s.VersionPublished(Version(0, 0)))
    local = LocalSteps(2, SGD, 1, advance=4, send=0)
    assert first == [s.Assign(0, 2, local=local), s.Assign(1, 2, local=local)]
    second = assigned(issue(machine, first, 10))
    behind = LocalSteps(2, SGD, 2, advance=4, samples=4, send=1, adopt_after=0)
    assert second[0] == s.Assign(0, 4, local=LocalSteps(**{**as_dict(behind), "follows": 10}))
    assert second[1] == s.Assign(1, 4, local=LocalSteps(**{**as_dict(behind), "follows": 11}))
    assert issue(machine, list(second.values()), 20) == []


def as_dict(local: LocalSteps) -> dict[str, object]:
    return {name: getattr(local, name) for name in LocalSteps.__slots__}


def test_a_complete_stretch_steps_its_fragment_and_its_version_is_mixed_in_behind(streaming) -> None:
    machine = streaming(0, 1)
    start(machine)
    machine.hear(s.UpdateArrived(update(11, 1, 2)))
    assert machine.hear(s.UpdateArrived(update(10, 0, 2))) == [s.Apply(((10, 0.25), (11, 0.25)), fragment=0)]
    decisions = machine.hear(machine.view.publish(1))
    assert decisions[:2] == [s.MixIn(20, 0, 0.5), s.MixIn(21, 0, 0.5)]
    third = assigned(decisions[2:])
    assert {worker: (each.local.send, each.local.follows, each.samples) for worker, each in third.items()} == {0: (0, 20, 2), 1: (0, 21, 2)}


def test_a_joiner_begins_at_the_newest_version_with_the_next_stretch_that_is_ordered(streaming) -> None:
    machine = streaming(0)
    start(machine)
    machine.view.crew = (0, 5)
    assert machine.hear(s.WorkerIdle(5)) == []
    machine.hear(s.UpdateArrived(update(10, 0, 4)))
    asked = assigned(machine.hear(machine.view.publish(1)))
    assert {worker: (each.local.follows, each.local.adopt_after) for worker, each in asked.items()} == {0: (20, 0), 5: (None, 0)}


def test_a_pseudo_gradient_weighs_by_the_samples_of_its_worker_since_the_fragment_was_sent(streaming) -> None:
    """Worker 0 has taken a stretch of two samples and one of four, worker 5 the second one only."""
    machine = streaming(0, 5)
    machine.view.crew = (0,)
    start(machine)
    machine.hear(s.UpdateArrived(update(10, 0, 2)))
    machine.view.crew = (0, 5)
    third = machine.hear(machine.view.publish(1))
    issue(machine, third, 30)
    machine.hear(s.UpdateArrived(update(20, 0, 4)))
    machine.hear(machine.view.publish(2))
    machine.hear(s.UpdateArrived(update(35, 5, 3)))
    (step,) = machine.hear(s.UpdateArrived(update(30, 0, 2)))
    assert step == s.Apply(((30, 6 / 9 / 2), (35, 3 / 9 / 3)), fragment=0)


def test_what_was_to_go_on_from_an_order_that_came_to_nothing_goes_with_it(streaming) -> None:
    machine = streaming(0, 1)
    start(machine)
    broken = machine.hear(s.OrderEnded(10, 0, "not finite"))
    assert broken == [s.AbandonOrder(20, "the order before it came to nothing")]
    assert machine.hear(s.OrderEnded(20, 0, "no update")) == []
    assert machine.hear(s.UpdateArrived(update(11, 1, 2))) == [s.Apply(((11, 0.5),), fragment=0)]
    asked = assigned(machine.hear(machine.view.publish(1)))
    assert {worker: each.local.follows for worker, each in asked.items()} == {0: None, 1: 21}


def test_a_stretch_of_which_nothing_came_is_begun_anew_by_everybody(streaming) -> None:
    machine = streaming(0, 1)
    start(machine)
    machine.hear(s.OrderEnded(10, 0, "died"))
    decisions = machine.hear(s.OrderEnded(11, 1, "died"))
    assert decisions[0] == s.AbandonOrder(21, "the order before it came to nothing")
    assert {worker: (each.local.send, each.local.follows) for worker, each in assigned(decisions).items()} == {0: (0, None), 1: (0, None)}


def test_when_no_step_can_be_made_the_fragment_is_tried_again(streaming) -> None:
    machine = streaming(0, 1, rule={"median": {}})
    start(machine)
    machine.hear(s.UpdateArrived(update(11, 1, 2)))
    assert machine.hear(s.UpdateArrived(update(10, 0, 2))) == [s.ApplyRule(((10, 2.0), (11, 2.0)), {"median": {}}, 2, fragment=0)]
    decisions = machine.hear(machine.view.publish(0))
    reason = "no step was made of the fragment"
    assert decisions[:2] == [s.AbandonOrder(20, reason), s.AbandonOrder(21, reason)]
    assert {each.local.send for each in assigned(decisions).values()} == {0}
    assert machine.hear(s.UpdateArrived(update(20, 0, 2))) == [s.Discard(20, "its stretch was begun anew")]


def test_the_last_stretches_take_what_is_left(streaming) -> None:
    machine = streaming(0, 1, free=6)
    first = machine.hear(s.VersionPublished(Version(0, 0)))
    machine.view.free_samples = 2
    second = assigned(issue(machine, first, 10))
    assert {worker: (each.samples, each.local.steps) for worker, each in second.items()} == {0: (1, 1), 1: (1, 1)}
    machine.view.free_samples = 0
    issue(machine, list(second.values()), 20)
    machine.hear(s.UpdateArrived(update(10, 0, 2)), s.UpdateArrived(update(11, 1, 2)))
    assert machine.hear(machine.view.publish(1)) == [s.MixIn(20, 0, 0.5), s.MixIn(21, 0, 0.5)]


def test_workers_that_find_nothing_are_asked_again_when_they_are_heard_of(streaming) -> None:
    machine = streaming(0)
    issue(machine, machine.hear(s.VersionPublished(Version(0, 0))), 10)
    assert machine.hear(s.NoWork(0)) == []
    assert list(assigned(machine.hear(s.WorkerIdle(0)))) == [0]


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"fragments": 0},
        {"fragments": 4},
        {"overlap": 1},
        {"overlap": -1},
        {"pattern": "odd"},
        {"alpha": 1.5},
        {"outer_lr": 0},
    ],
    ids=str,
)
def test_impossible_options_are_refused(options) -> None:
    with pytest.raises(ConfigError):
        StreamingDiLoCoConfig(**{"batch_size": 4, "optimizer": SGD, "local_steps": 3, "fragments": 2, "overlap": 0, **options})


# --- references -------------------------------------------------------------------------------------------------------------------------


def path_of(problem, crew: int, steps: int, fragments: int, tau: int, alpha: float, batch: int, stretches: int, *, inner: float = 0.0):
    """Parameters of every version in plain loops; outer rate 0.4, momentum 0.9; coordinate i is in fragment i mod F."""
    share, size, dim = batch // crew, len(problem.targets_N), len(problem.start)
    theta_D, outer_D = problem.start.copy(), np.zeros(dim)
    xs = [theta_D.copy() for _ in range(crew)]
    inners = [np.zeros(dim) for _ in range(crew)]
    path, first = [theta_D.copy()], 0
    for number in range(1, stretches + 1):
        sent = (number - 1) % fragments
        length = steps * (sent + 1) // fragments - steps * sent // fragments
        for worker in range(crew):
            begin = first + worker * share * length
            for step in range(length):
                if number > 1 and step == tau:
                    mine = np.arange((number - 2) % fragments, dim, fragments)
                    xs[worker][mine] = alpha * xs[worker][mine] + (1 - alpha) * theta_D[mine]
                start = (begin + step * share) % size
                inners[worker] = inner * inners[worker] + problem.gradient_sum(xs[worker], start, start + share) / share
                xs[worker] = xs[worker] - LR * inners[worker]
        first += batch * length
        mine = np.arange(sent, dim, fragments)
        delta_D = theta_D[mine] - sum(x_D[mine] for x_D in xs) / crew
        outer_D[mine] = 0.9 * outer_D[mine] + delta_D
        theta_D[mine] -= 0.4 * (delta_D + 0.9 * outer_D[mine])
        path.append(theta_D.copy())
    return path


def same(run, path) -> None:
    assert sorted(run.history) == list(range(len(path)))
    for number, params in run.history.items():
        np.testing.assert_allclose(params, path[number], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("steps", "fragments", "tau", "alpha"), [(4, 2, 1, 0.5), (4, 2, 0, 0.0), (6, 3, 1, 0.25), (4, 1, 3, 0.5), (4, 2, 1, 1.0)], ids=str
)
@pytest.mark.parametrize("step_ns", [0, 50])
def test_three_workers_take_the_path_of_the_formulas(train, least_squares, steps, fragments, tau, alpha, step_ns) -> None:
    """However long the exchange takes; on two shards with replicas, so that fragments are cut and held twice."""
    problem = least_squares(num_samples=72, dim=6, seed=3)
    options = {"local_steps": steps, "fragments": fragments, "overlap": tau, "alpha": alpha}
    inner = {"sgd": {"lr": LR, "momentum": 0.5}}
    settings = {"defaults": {"batch_size": 6, "optimizer": inner}, "num_positions": 72, "max_samples": 144, "num_shards": 2, "replicas": 1}
    run = train({"streaming_diloco": options}, problem, speeds=(1, 2, 5), step_ns=step_ns, **settings).run()
    assert run.finished == p.Finished("samples")
    same(run, path_of(problem, 3, steps, fragments, tau, alpha, 6, 24 * fragments // steps, inner=0.5))
    assert {verdict.verdict for verdict in run.verdicts} == {"accepted"}


def test_with_one_fragment_and_no_overlap_it_is_diloco(train, least_squares) -> None:
    problem = least_squares(num_samples=72, dim=4, seed=5)
    settings = {"speeds": (1, 2, 5), "defaults": {"batch_size": 6}, "num_positions": 72, "max_samples": 144}
    outer = {"local_steps": 4, "outer_lr": 0.7, "outer_momentum": 0.9}
    ours = train({"streaming_diloco": {**outer, "fragments": 1, "overlap": 0, "alpha": 0.0}}, problem, **settings).run()
    theirs = train({"diloco": outer}, problem, **settings).run()
    same(ours, [theirs.history[number] for number in sorted(theirs.history)])


def test_one_worker_with_neutral_outer_settings_is_its_inner_optimizer(train, least_squares) -> None:
    """Of version n, the fragment that moved is the inner optimizer's after as many steps; the others are older."""
    problem = least_squares(num_samples=60, dim=4, seed=2)
    neutral = {"local_steps": 4, "fragments": 2, "overlap": 0, "alpha": 0.0, "outer_lr": 1.0, "outer_momentum": 0.0}
    inner = {"sgd": {"lr": LR, "momentum": 0.9}}
    run = train(
        {"streaming_diloco": neutral}, problem, defaults={"batch_size": 5, "optimizer": inner}, num_positions=60, max_samples=120
    ).run()
    x_D, buffer_D = problem.start.copy(), np.zeros(4)
    for step in range(24):
        start = step * 5 % 60
        buffer_D = 0.9 * buffer_D + problem.gradient_sum(x_D, start, start + 5) / 5
        x_D = x_D - LR * buffer_D
        if step % 2:
            number = (step + 1) // 2
            moved = (number - 1) % 2
            np.testing.assert_allclose(run.history[number][moved::2], x_D[moved::2], rtol=1e-12)


def test_the_version_made_when_a_worker_has_died_is_of_the_survivors(train, least_squares) -> None:
    problem = least_squares(num_samples=48, dim=4, seed=5)
    options = {"local_steps": 4, "fragments": 1, "overlap": 1, "alpha": 0.0}
    run = train({"streaming_diloco": options}, problem, speeds=(1, 9), defaults={"batch_size": 4}, num_positions=48, max_samples=48)
    run.run(until=lambda: run.now_ns >= 12)
    run.kill(1)
    run.run()
    assert run.finished == p.Finished("samples")
    x_D = problem.start
    for start in range(0, 8, 2):
        x_D = x_D - LR * problem.gradient_sum(x_D, start, start + 2) / 2
    delta_D = problem.start - x_D
    np.testing.assert_allclose(run.history[1], problem.start - 0.4 * 1.9 * delta_D, rtol=1e-12)
    assert sorted(run.used.values()) == [1] * 48


def test_a_robust_rule_takes_the_place_of_the_mean_on_each_fragment(train, least_squares) -> None:
    """A liar among four is outvoted by the median; norms and the median are taken on the fragment alone."""
    problem = least_squares(num_samples=96, dim=4, seed=7)
    options = {"local_steps": 4, "fragments": 2, "overlap": 1, "alpha": 0.0, "rule": {"median": {}}}
    settings = {"defaults": {"batch_size": 8}, "num_positions": 96, "max_samples": 192, "num_shards": 2}
    run = train({"streaming_diloco": options}, problem, speeds=(1, 1, 1, 1), tamper={3: lambda sum_D: -100 * sum_D}, **settings).run()
    assert problem.loss(run.params) < 0.5 * problem.loss(problem.start)
    assert run.count("accepted") == len(run.verdicts)

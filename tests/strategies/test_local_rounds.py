"""Rounds of local steps: literal events, the worked numbers of the specification, and neutral references step for step."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mottle.core import protocol as p
from mottle.core import strategy as s
from mottle.core.errors import ConfigError
from mottle.core.protocol import LocalSteps, Version
from mottle.strategies import DiLoCoConfig, LocalSGDConfig, SignMomentumConfig, SlowMoConfig, SLSGDConfig

V0 = Version(0, 0)
SGD = {"sgd": {"lr": 0.1}}
LR = 0.1


@pytest.fixture
def rounds(alone):
    def build(*crew: int, free: int = 100, config=LocalSGDConfig, **options):
        machine = alone(config(**{"batch_size": 4, "optimizer": SGD, "local_steps": 3, **options}))
        machine.view.crew, machine.view.free_samples = crew, free
        return machine

    return build


def update(work_id: int, worker: int, samples: int) -> s.Update:
    return s.Update(work_id, worker, V0, samples, norm2=1.0)


def begin(machine, first: int = 10) -> dict[int, int]:
    """Begin a round and issue its orders: worker -> samples; order ids are first + worker."""
    asked = [each for each in machine.hear(s.VersionPublished(machine.view.version)) if isinstance(each, s.Assign)]
    machine.hear(*(s.OrderIssued(first + each.worker, each.worker, each.samples) for each in asked))
    return {each.worker: each.samples for each in asked}


# --- literal events ---------------------------------------------------------------------------------------------------------------------


def test_a_round_is_an_even_share_of_every_inner_step(rounds) -> None:
    local = LocalSteps(2, SGD, 3, advance=4)
    assert rounds(0, 1).hear(s.VersionPublished(V0)) == [s.Assign(0, 6, local=local), s.Assign(1, 6, local=local)]
    assert begin(rounds(0, 1, 2)) == {0: 6, 1: 3, 2: 3}
    assert begin(rounds(0, 1, 2, 3, 4)) == {0: 3, 1: 3, 2: 3, 3: 3}, "four samples a step are not enough for five workers"


def test_the_step_is_the_mean_over_samples_at_the_rate_of_the_last_inner_step(rounds) -> None:
    machine = rounds(0, 1, 2)
    begin(machine)
    machine.hear(s.UpdateArrived(update(12, 2, 3)), s.UpdateArrived(update(10, 0, 6)))
    assert machine.hear(s.UpdateArrived(update(11, 1, 3))) == [s.Apply(((10, 1 / 12), (11, 1 / 12), (12, 1 / 12)), lead=8)]


def test_a_worker_that_dies_contributes_nothing_and_one_that_joins_waits(rounds) -> None:
    machine = rounds(0, 1)
    begin(machine)
    machine.view.crew = (0, 2)
    assert machine.hear(s.OrderEnded(11, 1, "no update"), s.WorkerGone(1), s.WorkerIdle(2)) == []
    assert machine.hear(s.UpdateArrived(update(10, 0, 6))) == [s.Apply(((10, 1 / 6),), lead=8)]
    machine.view.publish(1)
    assert begin(machine, first=20) == {0: 6, 2: 6}


def test_a_round_that_lost_everybody_begins_again(rounds) -> None:
    machine = rounds(0)
    begin(machine)
    machine.view.crew = (1,)
    assert [each.worker for each in machine.hear(s.OrderEnded(10, 0, "no update"))] == [1]


@pytest.mark.parametrize(("free", "shares", "lead"), [(7, {0: 4, 1: 3}, 4), (4, {0: 2, 1: 2}, 0), (3, {0: 2, 1: 1}, 0), (1, {0: 1}, 0)])
def test_the_last_round_of_an_epoch_has_fewer_steps(rounds, free: int, shares: dict[int, int], lead: int) -> None:
    machine = rounds(0, 1, free=free)
    assert begin(machine) == shares
    decisions = machine.hear(*(s.UpdateArrived(update(10 + worker, worker, samples)) for worker, samples in shares.items()))
    assert [each.lead for each in decisions] == [lead]


@given(batch=st.integers(1, 20), steps=st.integers(1, 6), crew=st.integers(1, 9), free=st.integers(1, 150), participants=st.integers(1, 9))
def test_no_share_is_lost_and_nobody_takes_more_steps_than_the_round_has(batch, steps, crew, free, participants) -> None:
    strategy = SLSGDConfig(batch_size=batch, local_steps=steps, optimizer=SGD, participants=participants).build()

    class View:
        crew: tuple[int, ...]
        version = head = V0
        free_samples = free

    view = View()
    view.crew = tuple(range(crew))
    asked = [each for each in strategy.handle(s.VersionPublished(V0), view) if isinstance(each, s.Assign)]
    assert sum(each.samples for each in asked) == min(batch * steps, free)
    assert len(asked) <= min(crew, participants)
    for each in asked:
        assert each.local is not None
        assert -(-each.samples // each.local.batch) <= steps


def test_at_the_deadline_whoever_is_out_pushes_what_it_has_and_weighs_less(rounds) -> None:
    machine = rounds(0, 1, deadline_s=2.0)
    assert machine.hear(s.VersionPublished(V0))[-1] == s.SetAlarm("round-0", 2_000_000_000)
    machine.hear(*(s.OrderIssued(10 + worker, worker, 6) for worker in (0, 1)), s.UpdateArrived(update(10, 0, 6)))
    assert machine.hear(s.AlarmRang("round-0")) == [s.CutOrder(11)]
    assert machine.hear(s.AlarmRang("round-7")) == []
    assert machine.hear(s.UpdateArrived(update(11, 1, 2))) == [s.Apply(((10, 1 / 8), (11, 1 / 8)), lead=8)]


def test_a_rule_gets_the_pseudo_gradients_as_rows(rounds) -> None:
    machine = rounds(0, 1, 2, rule={"phocas": {"trim": 1}})
    begin(machine)
    machine.hear(s.UpdateArrived(update(10, 0, 6)), s.UpdateArrived(update(12, 2, 3)), s.RuleChanged({"median": {}}))
    assert machine.hear(s.OrderEnded(11, 1, "no update")) == [s.ApplyRule(((10, 6.0), (12, 3.0)), {"median": {}}, 3, lead=8)]


def test_participants_take_turns(rounds) -> None:
    machine = rounds(0, 1, 2, config=SLSGDConfig, participants=2)
    chosen = []
    for number in range(4):
        asked = begin(machine, first=10 * number)
        chosen.append(sorted(asked))
        machine.hear(*(s.UpdateArrived(update(10 * number + worker, worker, asked[worker])) for worker in asked))
        machine.view.publish(number + 1)
    assert chosen == [[0, 1], [0, 2], [1, 2], [0, 1]]
    machine.view.crew = (1, 2, 3)
    assert begin(machine, first=90).keys() == {2, 3}


def test_the_outer_steps(rounds) -> None:
    def server(config, **options):
        return rounds(0, config=config, **options).strategy.server_optimizer

    assert server(LocalSGDConfig) == {"outer_sgd": {"lr": 1.0}}
    assert server(DiLoCoConfig) == {"outer_sgd": {"lr": 0.7, "momentum": 0.9, "nesterov": True}}
    assert server(DiLoCoConfig, outer_lr=1.0, outer_momentum=0.0) == {"outer_sgd": {"lr": 1.0}}
    assert server(SlowMoConfig, lr=0.1) == {"slow_momentum": {"lr": 0.1, "beta": 0.2, "alpha": 1.0}}
    options = {"beta1": 0.95, "beta2": 0.98, "weight_decay": 0.1, "eta": 1.0}
    assert server(SignMomentumConfig, lr=0.1) == {"sign_momentum": {"lr": 0.1, **options}}
    assert server(SLSGDConfig, alpha=0.8) == {"outer_sgd": {"lr": 0.8}}


def test_a_warm_up_of_single_steps(rounds) -> None:
    machine = rounds(0, 1, warmup_rounds=1)
    assert begin(machine) == {0: 2, 1: 2}
    machine.hear(s.UpdateArrived(update(10, 0, 2)), s.UpdateArrived(update(11, 1, 2)))
    machine.view.publish(1)
    assert begin(machine, first=20) == {0: 6, 1: 6}


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (LocalSGDConfig, {"batch_size": 0}),
        (LocalSGDConfig, {"local_steps": 0}),
        (LocalSGDConfig, {"inner_state": "average"}),
        (LocalSGDConfig, {"deadline_s": 0.0}),
        (LocalSGDConfig, {"warmup_rounds": -1}),
        (DiLoCoConfig, {"outer_lr": 0.0}),
        (DiLoCoConfig, {"outer_momentum": 1.0}),
        (SlowMoConfig, {"lr": 0.1, "beta": 1.0}),
        (SignMomentumConfig, {"lr": 0.1, "beta1": 1.1}),
        (SignMomentumConfig, {"lr": 0.0}),
        (SLSGDConfig, {"alpha": 1.5}),
        (SLSGDConfig, {"trim": 2, "participants": 4}),
        (SLSGDConfig, {"trim": 1, "rule": {"median": {}}}),
    ],
)
def test_impossible_options_are_refused(config, options) -> None:
    with pytest.raises(ConfigError):
        config(**{"batch_size": 4, "optimizer": SGD, **options})


# --- references -------------------------------------------------------------------------------------------------------------------------


def local_path(problem, crew: int, steps: int, batch: int, num_rounds: int, outer, *, momentum: float = 0.0) -> list[np.ndarray]:
    """Parameters after every round, in plain loops. `outer(x_D, mean_end_D)` gives the next x_D; batch divides by the crew."""
    share, size = batch // crew, len(problem.targets_N)
    path, buffers = [problem.start], [np.zeros_like(problem.start) for _ in range(crew)]
    for number in range(num_rounds):
        ends = []
        for worker in range(crew):
            x_D = path[-1].copy()
            first = (number * batch * steps + worker * share * steps) % size
            for step in range(steps):
                start = first + step * share
                gradient_D = problem.gradient_sum(x_D, start, start + share) / share
                buffers[worker] = momentum * buffers[worker] + gradient_D
                x_D = x_D - LR * buffers[worker]
            ends.append(x_D)
        path.append(outer(path[-1], sum(ends) / crew))
    return path


def same(run, path: list[np.ndarray]) -> None:
    assert sorted(run.history) == list(range(len(path)))
    for number, params in run.history.items():
        np.testing.assert_allclose(params, path[number], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("num_shards", [1, 3])
def test_with_one_local_step_local_sgd_is_synchronous_sgd(train, least_squares, num_shards: int) -> None:
    problem = least_squares(num_samples=50, dim=5, seed=1)
    settings = {"speeds": (1, 2, 5), "defaults": {"batch_size": 8}, "num_positions": 50, "max_samples": 100, "num_shards": num_shards}
    ours, theirs = (train(spec, problem, **settings).run() for spec in ({"local_sgd": {"local_steps": 1}}, "sync"))
    same(ours, [theirs.history[number] for number in sorted(theirs.history)])


def test_with_one_worker_local_sgd_is_the_inner_optimizer_whatever_the_local_steps(train, least_squares) -> None:
    """Its momentum goes on from round to round."""
    problem = least_squares(num_samples=60, dim=4, seed=2)
    inner = {"sgd": {"lr": LR, "momentum": 0.9}}
    path = local_path(problem, 1, 1, 5, 24, lambda x_D, end_D: end_D, momentum=0.9)
    for steps in (1, 3, 4):
        settings = {"defaults": {"batch_size": 5, "optimizer": inner}, "num_positions": 60, "max_samples": 120}
        run = train({"local_sgd": {"local_steps": steps}}, problem, **settings).run()
        same(run, path[::steps])


def test_the_inner_state_begins_anew_each_round_where_that_is_asked_for(train, least_squares) -> None:
    problem = least_squares(num_samples=60, dim=4, seed=2)
    inner = {"sgd": {"lr": LR, "momentum": 0.9}}
    settings = {"defaults": {"batch_size": 5, "optimizer": inner}, "num_positions": 60, "max_samples": 60}
    run = train({"local_sgd": {"local_steps": 4, "inner_state": "reset"}}, problem, **settings).run()
    x_D = problem.start
    for first in (0, 20, 40):
        buffer_D = np.zeros(4)
        for start in range(first, first + 20, 5):
            buffer_D = 0.9 * buffer_D + problem.gradient_sum(x_D, start, start + 5) / 5
            x_D = x_D - LR * buffer_D
    np.testing.assert_allclose(run.params, x_D, rtol=1e-12)


def nesterov(lr: float, momentum: float):
    """PyTorch's SGD on pseudo-gradients."""
    buffers: list[np.ndarray] = []

    def outer(x_D: np.ndarray, end_D: np.ndarray) -> np.ndarray:
        delta_D = x_D - end_D
        buffers.append(delta_D if not buffers else momentum * buffers[-1] + delta_D)
        return x_D - lr * (delta_D + momentum * buffers[-1])

    return outer


def slow_momentum(beta: float, alpha: float):
    buffers = [0.0]

    def outer(x_D: np.ndarray, end_D: np.ndarray) -> np.ndarray:
        buffers.append(beta * buffers[-1] + (x_D - end_D) / LR)
        return x_D - alpha * LR * buffers[-1]

    return outer


def sign_momentum(beta1: float, beta2: float, lam: float, eta: float):
    buffers = [np.zeros(())]

    def outer(x_D: np.ndarray, end_D: np.ndarray) -> np.ndarray:
        delta_D = (x_D - end_D) / LR
        step_D = eta * LR * np.sign(beta1 * buffers[-1] + (1 - beta1) * delta_D)
        buffers.append(beta2 * buffers[-1] + (1 - beta2) * delta_D)
        return (1 - lam * eta * LR) * x_D - step_D

    return outer


@pytest.mark.parametrize(
    ("spec", "outer"),
    [
        ({"local_sgd": {}}, lambda: lambda x_D, end_D: end_D),
        ({"diloco": {}}, lambda: nesterov(0.7, 0.9)),
        ({"diloco": {"outer_lr": 1.0, "outer_momentum": 0.0}}, lambda: lambda x_D, end_D: end_D),
        ({"slowmo": {"beta": 0.5, "alpha": 0.9}}, lambda: slow_momentum(0.5, 0.9)),
        ({"slowmo": {"beta": 0.0}}, lambda: lambda x_D, end_D: end_D),
        ({"sign_momentum": {}}, lambda: sign_momentum(0.95, 0.98, 0.1, 1.0)),
        ({"slsgd": {"alpha": 0.5}}, lambda: lambda x_D, end_D: 0.5 * x_D + 0.5 * end_D),
    ],
    ids=lambda each: "" if callable(each) else str(each),
)
def test_three_workers_take_the_path_of_the_formulas(train, least_squares, spec, outer) -> None:
    problem = least_squares(num_samples=72, dim=4, seed=3)
    ((name, options),) = spec.items()
    settings = {"defaults": {"batch_size": 6}, "num_positions": 72, "max_samples": 144, "num_shards": 2, "replicas": 1}
    run = train({name: {"local_steps": 4, **options}}, problem, speeds=(1, 2, 5), **settings).run()
    same(run, local_path(problem, 3, 4, 6, 6, outer()))


def test_sign_momentum_of_one_worker_and_one_plain_step_is_lion(train, least_squares) -> None:
    problem = least_squares(num_samples=40, dim=3, seed=4)
    spec = {"sign_momentum": {"local_steps": 1, "eta": 0.3, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.2}}
    run = train(spec, problem, defaults={"batch_size": 4}, num_positions=40, max_samples=80).run()
    x_D, momentum_D, rate = problem.start, np.zeros(3), 0.3 * LR
    path = [x_D]
    for number in range(20):
        start = 4 * number % 40
        gradient_D = problem.gradient_sum(x_D, start, start + 4) / 4
        x_D = x_D - rate * (np.sign(0.9 * momentum_D + 0.1 * gradient_D) + 0.2 * x_D)
        momentum_D = 0.99 * momentum_D + 0.01 * gradient_D
        path.append(x_D)
    same(run, path)


def test_the_model_of_a_round_in_which_a_worker_died_is_that_of_the_survivors(train, least_squares) -> None:
    problem = least_squares(num_samples=40, dim=3, seed=5)
    run = train({"local_sgd": {"local_steps": 5}}, problem, speeds=(1, 3), defaults={"batch_size": 4}, num_positions=40, max_samples=40)
    run.run(until=lambda: run.now_ns >= 12)
    run.kill(1)
    run.run()
    assert run.finished == p.Finished("samples")
    x_D = problem.start
    for start in range(0, 10, 2):
        x_D = x_D - LR * problem.gradient_sum(x_D, start, start + 2) / 2
    np.testing.assert_allclose(run.history[1], x_D, rtol=1e-12)


def test_a_worker_that_is_cut_pushes_the_whole_steps_it_took(train, least_squares) -> None:
    """Worker 1 takes 3 ns a sample: at 14 ns it is in its third step of two samples, and ends it."""
    problem = least_squares(num_samples=40, dim=3, seed=6)
    spec = {"local_sgd": {"local_steps": 5, "deadline_s": 14e-9}}
    run = train(spec, problem, speeds=(1, 3), defaults={"batch_size": 4}, num_positions=40, max_samples=40)
    run.run(until=lambda: len(run.history) == 2)
    assert [(each.worker, each.samples) for each in run.verdicts] == [(0, 10), (1, 6)]
    ends = []
    for first, steps in ((0, 5), (10, 3)):
        x_D = problem.start
        for start in range(first, first + 2 * steps, 2):
            x_D = x_D - LR * problem.gradient_sum(x_D, start, start + 2) / 2
        ends.append(x_D)
    np.testing.assert_allclose(run.history[1], (10 * ends[0] + 6 * ends[1]) / 16, rtol=1e-12)


def halving(samples: int) -> float:
    return 1.0 / (1.0 + samples / 20)


@pytest.mark.parametrize(
    "spec", [{"local_sgd": {}}, {"diloco": {"outer_lr": 1.0, "outer_momentum": 0.0}}, {"slowmo": {"beta": 0.0}}], ids=str
)
def test_the_schedule_counts_the_samples_of_inner_steps(train, least_squares, spec) -> None:
    problem = least_squares(num_samples=40, dim=3, seed=7)
    ((name, options),) = spec.items()
    run = train(
        {name: {"local_steps": 5, **options}}, problem, defaults={"batch_size": 4}, num_positions=40, max_samples=80, schedule=halving
    ).run()
    x_D, path = problem.start, [problem.start]
    for number in range(20):
        start = 4 * number % 40
        x_D = x_D - LR * halving(4 * number) * problem.gradient_sum(x_D, start, start + 4) / 4
        path.append(x_D)
    same(run, path[::5])


def test_gamma_is_the_rate_of_the_last_inner_step(train, least_squares) -> None:
    """A coordinate moves by eta gamma in a round of sign momentum."""
    problem = least_squares(num_samples=40, dim=3, seed=7)
    spec = {"sign_momentum": {"local_steps": 5, "weight_decay": 0.0}}
    run = train(spec, problem, speeds=(1, 1), defaults={"batch_size": 4}, num_positions=40, max_samples=80, schedule=halving).run()
    for number in range(4):
        moved = np.abs(run.history[number + 1] - run.history[number])
        np.testing.assert_allclose(moved, LR * halving(20 * number + 16), rtol=1e-12)


def test_a_learning_rate_changed_on_the_way_is_that_of_the_next_rounds_steps(train, least_squares) -> None:
    problem = least_squares(num_samples=40, dim=3, seed=8)
    run = train(
        {"diloco": {"local_steps": 2, "outer_momentum": 0.0}}, problem, defaults={"batch_size": 4}, num_positions=40, max_samples=24
    )
    run.run(until=lambda: len(run.history) == 2)
    run.tell(p.Configured({"lr": 0.01}))
    run.run()
    x_D = problem.start
    for lr, first in ((0.1, 0), (0.1, 8), (0.01, 16)):  # the second round had begun
        y_D = x_D
        for start in (first, first + 4):
            y_D = y_D - lr * problem.gradient_sum(y_D, start, start + 4) / 4
        x_D = x_D - 0.7 * (x_D - y_D)
    np.testing.assert_allclose(run.params, x_D, rtol=1e-12)


class Targets:
    """Sample i pulls towards target i: one inner step at rate 1 is the target itself."""

    def __init__(self, *targets: float) -> None:
        self._targets = np.array(targets)
        self.start = np.zeros(1)

    def gradient_sum(self, x_D: np.ndarray, start: int, stop: int) -> np.ndarray:
        return np.asarray((x_D - self._targets[start:stop]).sum(keepdims=True))

    def loss(self, x_D: np.ndarray) -> float:
        return float(0.5 * np.mean((x_D - self._targets) ** 2))


def test_the_worked_example_of_slsgd(train) -> None:
    spec = {"slsgd": {"local_steps": 1, "trim": 1, "alpha": 0.8}}
    settings = {"speeds": (1,) * 5, "lr": 1.0, "defaults": {"batch_size": 5}, "num_positions": 5, "max_samples": 5}
    run = train(spec, Targets(1, 2, 3, 4, 100), **settings).run()
    np.testing.assert_allclose(run.params, 2.4, rtol=1e-12)
    assert run.brain.ledger.counts.accepted + run.brain.ledger.counts.unselected == 5


def test_a_liar_among_local_steps_does_not_leave_the_range_of_the_honest(train) -> None:
    settings = {"speeds": (1,) * 4, "lr": 1.0, "defaults": {"batch_size": 4}, "num_positions": 4, "max_samples": 12}
    spec = {"local_sgd": {"local_steps": 1, "rule": {"median": {}}}}
    run = train(spec, Targets(1, 2, 3, 4), tamper={3: lambda sum_D: sum_D * 0 + 1e6}, **settings).run()
    assert all(1 <= run.history[number] <= 3 for number in (1, 2, 3))


def test_an_optimizer_that_met_nan_begins_anew(train, least_squares) -> None:
    """Adam's moments would stay NaN for ever; the update itself is refused by the gate."""

    class Spoilt(least_squares):
        spoilt = True

        def gradient_sum(self, x_D: np.ndarray, start: int, stop: int) -> np.ndarray:
            scale, self.spoilt = (np.nan if self.spoilt else 1.0), False
            return super().gradient_sum(x_D, start, stop) * scale

    problem = Spoilt(num_samples=40, dim=3, seed=9)
    settings = {"speeds": (1, 1), "defaults": {"batch_size": 4, "optimizer": {"adam": {"lr": 0.05}}}}
    run = train({"local_sgd": {"local_steps": 2}}, problem, **settings, num_positions=40, max_samples=400).run()
    assert run.finished == p.Finished("samples")
    assert run.count("rejected") == 1
    assert problem.loss(run.params) < 0.5 * problem.loss(problem.start)


def test_adamw_inside_and_diloco_outside_learns(train, least_squares) -> None:
    problem = least_squares(num_samples=80, dim=4, seed=10)
    settings = {"speeds": (1, 2), "defaults": {"batch_size": 4, "optimizer": {"adamw": {"lr": 0.02}}}, "num_positions": 80}
    run = train({"diloco": {"local_steps": 5}}, problem, max_samples=1600, **settings).run()
    assert problem.loss(run.params) < 0.2 * problem.loss(problem.start)
    assert all(torch.isfinite(torch.from_numpy(params)).all() for params in run.history.values())

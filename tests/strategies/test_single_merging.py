"""Single global merging: literal events, plain loops of its rounds, and lives with deaths and arrivals."""

import numpy as np
import pytest

from mottle import strategies
from mottle.core import protocol as p
from mottle.core import strategy as s
from mottle.core.errors import ConfigError
from mottle.core.protocol import LocalSteps, Version
from mottle.strategies import SingleMergingConfig

SGD = {"sgd": {"lr": 0.1}}
V0 = Version(0, 0)


@pytest.fixture
def merging(alone):
    return lambda **options: alone(SingleMergingConfig(**{"batch_size": 4, "optimizer": SGD, "exchange": 1.0, **options}))


def ample(machine):
    machine.view.free_samples = 10**6
    return machine


def update(work_id: int, worker: int, samples: int = 4) -> s.Update:
    return s.Update(work_id, worker, V0, samples, norm2=1.0)


def order(worker: int, steps: int = 1) -> s.Assign:
    return s.Assign(worker, 4 * steps, local=LocalSteps(4, SGD, steps, advance=8, whole=True))


# --- literal events ---------------------------------------------------------------------------------------------------------------------


def begun(machine):
    assert [machine.hear(s.WorkerIdle(worker)) for worker in (0, 1)] == [[order(0)], [order(1)]]
    machine.hear(s.OrderIssued(1, 0, 4), s.OrderIssued(2, 1, 4))
    return machine


def test_the_faster_of_a_pair_waits_and_their_mean_is_where_both_go_on(merging) -> None:
    machine = begun(merging())
    assert machine.hear(s.UpdateArrived(update(1, 0)), s.WorkerIdle(0)) == []
    assert machine.hear(s.UpdateArrived(update(2, 1))) == [s.Apply(((1, 1 / 8), (2, 1 / 8)))]
    assert machine.hear(s.WorkerIdle(1)) == []
    assert machine.hear(machine.view.publish(1)) == [order(0), order(1)]


def test_no_version_is_made_before_those_of_the_last_one_have_their_orders(merging) -> None:
    machine = ample(merging(exchange=0.0))
    machine.hear(s.WorkerIdle(0), s.OrderIssued(1, 0, 400), s.WorkerIdle(1), s.OrderIssued(2, 1, 400))
    assert machine.hear(s.UpdateArrived(update(1, 0, 400))) == [s.Apply(((1, 1 / 400),))]
    assert machine.hear(s.UpdateArrived(update(2, 1, 400))) == []
    assert machine.hear(machine.view.publish(1)) == [order(0, 100)]
    assert machine.hear(s.OrderIssued(3, 0, 400)) == [s.Apply(((2, 1 / 400),))]


def test_who_found_nothing_at_its_own_version_keeps_it_until_there_is_something(merging) -> None:
    machine = ample(merging(exchange=0.0))
    machine.hear(s.WorkerIdle(0), s.OrderIssued(1, 0, 400), s.WorkerIdle(1), s.OrderIssued(2, 1, 400))
    machine.hear(s.UpdateArrived(update(1, 0, 400)), s.UpdateArrived(update(2, 1, 400)))
    machine.hear(machine.view.publish(1))
    assert machine.hear(s.NoWork(0)) == []
    assert machine.hear(s.WorkerIdle(0)) == [order(0, 100)]


def test_the_last_samples_are_shared_so_that_both_of_a_pair_push_once_more(merging) -> None:
    machine = begun(merging(local_steps=1))
    machine.view.free_samples = 3
    machine.hear(s.UpdateArrived(update(1, 0)), s.UpdateArrived(update(2, 1)))
    assert [(each.worker, each.samples) for each in machine.hear(machine.view.publish(1))] == [(0, 2), (1, 1)]


def test_an_order_that_ended_early_is_gone_on_with(merging) -> None:
    machine = ample(merging(exchange=0.0, local_steps=2))
    assert machine.hear(s.WorkerIdle(0)) == [order(0, 200)]
    machine.hear(s.OrderIssued(1, 0, 6))
    assert machine.hear(s.UpdateArrived(update(1, 0, 6))) == [s.Apply(((1, 1 / 6),))]
    assert machine.hear(machine.view.publish(1)) == [order(0, 198)]


def test_whose_partner_is_gone_goes_on_alone(merging) -> None:
    machine = begun(merging())
    machine.hear(s.UpdateArrived(update(1, 0)))
    machine.view.crew = (0,)
    assert machine.hear(s.WorkerGone(1)) == [s.Apply(((1, 1 / 4),))]


def test_a_model_that_was_pushed_before_its_worker_died_is_merged(merging) -> None:
    machine = begun(merging())
    machine.hear(s.UpdateArrived(update(1, 0)))
    machine.view.crew = (1,)
    machine.hear(s.WorkerGone(0))
    assert machine.hear(s.UpdateArrived(update(2, 1))) == [s.Apply(((1, 1 / 8), (2, 1 / 8)))]
    assert [each.worker for each in machine.hear(machine.view.publish(1))] == [1]


def test_models_that_waited_for_samples_go_on_when_there_are_some(merging) -> None:
    machine = begun(merging())
    machine.view.free_samples = 0
    machine.hear(s.UpdateArrived(update(1, 0)), s.NoWork(0), s.UpdateArrived(update(2, 1)), s.NoWork(1))
    machine.view.free_samples = 8
    assert machine.hear(s.WorkerIdle(0)) == [s.Apply(((1, 1 / 8), (2, 1 / 8)))]


def test_what_comes_when_nothing_is_left_is_merged_once(merging) -> None:
    machine = begun(merging())
    machine.view.free_samples = 0
    assert machine.hear(s.UpdateArrived(update(1, 0))) == [s.Assign(0, 4)], "so that the brain says when there is something again"
    assert machine.hear(s.NoWork(0)) == []
    machine.hear(s.UpdateArrived(update(2, 1, 2)), s.NoWork(1))
    assert machine.hear(s.NothingLeft()) == [s.Apply(((1, 1 / 8), (2, 1 / 4)))]
    assert machine.hear(machine.view.publish(1)) == []


# --- plain loops ------------------------------------------------------------------------------------------------------------------------


def test_two_that_meet_after_every_step_are_synchronous_sgd(train, least_squares) -> None:
    problem = least_squares(num_samples=48, dim=4, seed=41)
    spec = {"single_merging": {"exchange": 1.0}}
    run = train(spec, problem, speeds=(1, 3), defaults={"batch_size": 4}, num_positions=48, max_samples=96).run()
    x_D = problem.start
    for number in range(12):
        np.testing.assert_allclose(run.history[number], x_D, rtol=1e-12, atol=1e-14)
        start = 8 * number % 48
        x_D = x_D - 0.1 * problem.gradient_sum(x_D, start, start + 8) / 8
    np.testing.assert_allclose(run.params, x_D, rtol=1e-12, atol=1e-14)


def test_one_worker_is_the_inner_optimizer(train, least_squares) -> None:
    problem = least_squares(num_samples=48, dim=4, seed=42)
    momentum = {"sgd": {"lr": 0.1, "momentum": 0.9}}
    defaults = {"batch_size": 4, "optimizer": momentum}
    run = train({"single_merging": {"exchange": 0.5}}, problem, defaults=defaults, num_positions=48, max_samples=96).run()
    x_D, velocity_D = problem.start, np.zeros(4)
    for start in [*range(0, 48, 4)] * 2:
        velocity_D = 0.9 * velocity_D + problem.gradient_sum(x_D, start, start + 4) / 4
        x_D = x_D - 0.1 * velocity_D
    np.testing.assert_allclose(run.params, x_D, rtol=1e-11, atol=1e-13)


def pairs_of(seed: int, number: int, crew: range, exchange: float) -> list[tuple[int, int]]:
    """Who meets after a round, as the specification says it: slots ascending, who is matched is skipped."""
    rng = np.random.default_rng([seed, number])
    pairs: list[tuple[int, int]] = []
    for worker in crew:
        others = [each for each in crew if each != worker]
        partner = others[rng.integers(len(others))] if rng.random() < exchange else None
        if partner is not None and not {worker, partner} & {each for pair in pairs for each in pair}:
            pairs.append((worker, partner))
    return pairs


@pytest.mark.parametrize("speeds", [(1, 1, 1, 1), (1, 2, 3, 7)], ids=str)
@pytest.mark.parametrize("steps", [1, 3])
def test_unequal_workers_take_the_path_of_a_plain_loop_of_rounds(train, least_squares, speeds: tuple[int, ...], steps: int) -> None:
    problem = least_squares(num_samples=240, dim=4, seed=43)
    spec = {"single_merging": {"exchange": 0.3, "seed": 5, "local_steps": steps}}
    run = train(spec, problem, speeds=speeds, defaults={"batch_size": 4}, num_positions=240, max_samples=240).run()
    batches: dict[int, list[tuple[int, int]]] = {worker: [] for worker in range(4)}
    for given in (run.orders[work_id] for work_id in sorted(run.orders)):
        for part in given.parts:
            lease = part.lease
            batches[given.worker] += [(start, min(start + 4, lease.stop)) for start in range(lease.start, lease.stop, 4)]
    models = dict.fromkeys(range(4), problem.start)
    for number in range(max(map(len, batches.values())) // steps + 1):
        for worker, mine in batches.items():
            for start, stop in mine[number * steps : (number + 1) * steps]:
                models[worker] = models[worker] - 0.1 * problem.gradient_sum(models[worker], start, stop) / (stop - start)
        for pair in pairs_of(5, number, range(4), 0.3):
            models |= dict.fromkeys(pair, (models[pair[0]] + models[pair[1]]) / 2)
    np.testing.assert_allclose(run.params, np.mean([*models.values()], axis=0), rtol=1e-10, atol=1e-12)
    assert run.count("accepted") == len(run.orders)


def test_one_merging_at_the_end_is_better_than_the_models_it_is_made_of(train, least_squares) -> None:
    """Noisy steps scatter the models around what they have in common."""
    problem = least_squares(num_samples=240, dim=4, seed=44)
    spec = {"single_merging": {"exchange": 0.2}}
    run = train(spec, problem, speeds=(1,) * 8, defaults={"batch_size": 2}, num_positions=240, max_samples=2400).run()
    last = max(run.history)
    models = [problem.loss(run.history[number]) for number in range(last - 20, last)]
    assert problem.loss(run.params) < min(np.mean(models), np.median(models))


def test_deaths_and_arrivals_lose_no_sample_and_hold_nobody_up(train, least_squares) -> None:
    problem = least_squares(num_samples=60, dim=3, seed=45)
    spec = {"single_merging": {"exchange": 0.6}}
    run = train(spec, problem, speeds=(1, 2, 3), defaults={"batch_size": 3, "lr": 0.05}, num_positions=60, max_samples=600)
    run.run(until=lambda: run.brain.samples >= 150)
    run.kill(1)
    late = run.join(2)
    run.run(until=lambda: run.brain.samples >= 400)
    run.kill(0)
    run.run()
    assert run.finished == p.Finished("samples")
    assert set(run.used.values()) == {1}
    assert len(run.used) == 600
    assert sum(verdict.worker == late for verdict in run.verdicts) > 3
    assert problem.loss(run.params) < 0.1 * problem.loss(problem.start)


def test_a_run_goes_on_from_a_checkpoint_with_one_model_for_all(train, least_squares) -> None:
    problem = least_squares(num_samples=60, dim=3, seed=46)
    spec = {"single_merging": {"exchange": 0.6}}
    settings = {"defaults": {"batch_size": 3, "lr": 0.05}, "num_positions": 60, "max_samples": 300, "checkpoint_every": 100}
    killed = train(spec, problem, speeds=(1, 2), **settings)
    killed.run(until=lambda: killed.brain.samples >= 200)
    resumed = train(spec, problem, speeds=(1, 1, 2), resume=killed.checkpoint, coordination_epoch=1, **settings).run()
    assert resumed.finished == p.Finished("samples")
    assert set(resumed.used.values()) == {1}
    assert len(resumed.used) == 300


def test_a_stop_merges_what_there_is(train, least_squares) -> None:
    problem = least_squares(num_samples=60, dim=3, seed=47)
    run = train({"single_merging": {}}, problem, speeds=(1, 1, 1), defaults={"batch_size": 3}, num_positions=60)
    run.run(until=lambda: run.brain.samples >= 100)
    run.tell(p.StopAsked("enough"))
    run.run()
    assert run.finished == p.Finished("enough")
    last = [verdict for verdict in run.verdicts if verdict.verdict == "accepted"][-3:]
    assert {verdict.worker for verdict in last} == {0, 1, 2}


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"local_steps": 0}, {"exchange": 1.5}, {"exchange": -0.1}, {"seed": -1}], ids=str)
def test_options_that_cannot_be_are_refused(wrong) -> None:
    with pytest.raises(ConfigError, match="single_merging needs"):
        strategies.build({"single_merging": wrong}, {"batch_size": 4, "optimizer": SGD})

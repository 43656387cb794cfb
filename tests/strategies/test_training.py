"""Whole runs on numbers: clipping over shards, replicas, liars, and going on from a checkpoint."""

import numpy as np
import pytest

from mottle.core import protocol as p


def plain_sgd(problem, batch: int, num_steps: int, *, max_norm: float | None = None, lr: float = 0.1) -> list[np.ndarray]:
    """Parameters after every step, batches in the order of the data."""
    size = len(problem.targets_N)
    path = [problem.start]
    for number in range(num_steps):
        start = number * batch % size
        gradient_D = problem.gradient_sum(path[-1], start, start + batch) / batch
        if max_norm is not None:
            gradient_D = gradient_D * min(1.0, max_norm / (np.linalg.norm(gradient_D) + 1e-6))
        path.append(path[-1] - lr * gradient_D)
    return path


def same(run, path: list[np.ndarray], first: int = 0) -> None:
    assert sorted(run.history) == list(range(first, len(path)))
    for number, params in run.history.items():
        np.testing.assert_allclose(params, path[number], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("num_shards", [1, 2, 5])
def test_the_norm_that_clips_is_that_of_the_whole_direction(train, least_squares, num_shards: int) -> None:
    problem = least_squares(num_samples=40, dim=5, seed=11)
    path = plain_sgd(problem, 10, 8, max_norm=0.7)
    assert not np.allclose(path[1], plain_sgd(problem, 10, 8)[1])
    numbers = {"num_positions": 40, "max_samples": 80, "max_grad_norm": 0.7, "num_shards": num_shards}
    same(train("sync", problem, speeds=(1, 2, 2), defaults={"batch_size": 10}, **numbers).run(), path)


@pytest.mark.parametrize("num_shards", [2, 5, 7])
def test_the_cut_of_the_parameters_changes_no_bit(train, least_squares, num_shards: int) -> None:
    """Decisions rest on exact sums, so the same updates are accepted and clipped alike however the vector is cut."""
    problem = least_squares(num_samples=60, dim=7, seed=12)
    spec = {"zeno++": {"rho": 0.02, "refresh_every": 3, "ahead": 1}}
    settings = {"speeds": (2, 3, 3), "defaults": {"batch_size": 3}, "num_positions": 60, "max_samples": 120, "max_grad_norm": 0.5}
    whole, cut = (train(spec, problem, num_shards=number, **settings).run() for number in (1, num_shards))
    assert whole.count("rejected") > 0
    assert [(v.work_id, v.verdict, v.score) for v in whole.verdicts] == [(v.work_id, v.verdict, v.score) for v in cut.verdicts]
    assert all((cut.history[number] == params).all() for number, params in whole.history.items())


@pytest.mark.parametrize("lost", [p.ReplicaId(0, 0), p.ReplicaId(1, 1)])
def test_losing_a_replica_changes_no_bit(train, least_squares, lost: p.ReplicaId) -> None:
    problem = least_squares(num_samples=40, dim=6, seed=13)
    settings = {"speeds": (2, 3), "defaults": {"batch_size": 4}, "num_positions": 40, "max_samples": 120, "num_shards": 2}
    alone = train("async", problem, **settings).run()
    run = train("async", problem, replicas=1, **settings)
    run.run(until=lambda: run.brain.samples >= 60)
    for shard in (0, 1):
        primary, backup = (run.shards[p.ReplicaId(shard, replica)] for replica in (0, 1))
        assert (primary.values == backup.values).all()
    run.kill_replica(lost)
    run.run()
    assert run.finished == p.Finished("samples")
    assert sorted(run.history) == sorted(alone.history)
    assert all((run.history[number] == params).all() for number, params in alone.history.items())


def test_a_learning_rate_changed_on_the_way_holds_from_the_next_step(train, least_squares) -> None:
    problem = least_squares(num_samples=40, dim=4, seed=14)
    run = train("async", problem, defaults={"batch_size": 8}, num_positions=40, max_samples=40)
    run.run(until=lambda: len(run.history) == 3)
    run.tell(p.Configured({"lr": 0.01}))
    run.run()
    path = plain_sgd(problem, 8, 2)
    x_D = path[-1]
    for start in (16, 24, 32):
        x_D = x_D - 0.01 * problem.gradient_sum(x_D, start, start + 8) / 8
        path.append(x_D)
    same(run, path)


def test_a_target_metric_ends_the_run_before_its_samples_do(train, least_squares) -> None:
    problem = least_squares(num_samples=50, dim=3, seed=15)
    target = ("negative_loss", -0.5 * problem.loss(problem.start))
    run = train("async", problem, defaults={"batch_size": 5}, num_positions=50, max_samples=5000, evaluate_every=20, target=target).run()
    assert run.finished.reason.startswith("target negative_loss")
    assert run.brain.samples < 500
    assert problem.loss(run.params) <= -target[1]


def test_the_time_limit_ends_the_run_with_what_is_out(train, least_squares) -> None:
    problem = least_squares(num_samples=50, dim=3, seed=16)
    run = train("async", problem, defaults={"batch_size": 5}, num_positions=50, max_samples=None, max_ns=42).run()
    assert run.finished == p.Finished("time")
    assert run.brain.samples == 45
    assert run.now_ns == 45


@pytest.mark.parametrize("liar", ["sign", "huge", "random"])
def test_zeno_trains_where_a_majority_lies(train, least_squares, liar: str) -> None:
    problem = least_squares(num_samples=100, dim=4, seed=17)
    rng = np.random.default_rng(18)
    lies = {"sign": lambda sum_D: -10 * sum_D, "huge": lambda sum_D: -1e200 * sum_D, "random": lambda sum_D: 1e6 * rng.normal(size=4)}
    tamper = dict.fromkeys((0, 1, 2), lies[liar])
    spec = {"zeno++": {"rho": 0.03, "refresh_every": 5}}
    settings = {"speeds": (1, 1, 1, 2), "defaults": {"batch_size": 10}, "num_positions": 100, "max_samples": 600}
    honest = train(spec, problem, **settings).run()
    attacked = train(spec, problem, tamper=tamper, **settings).run()
    assert attacked.finished == honest.finished == p.Finished("samples")
    assert problem.loss(attacked.params) < 0.5 * problem.loss(problem.start)
    assert sum(v.verdict == "rejected" for v in attacked.verdicts if v.worker < 3) > 0


# --- checkpoints ------------------------------------------------------------------------------------------------------------------------


def test_a_barriered_run_that_goes_on_from_a_checkpoint_takes_the_same_path(train, least_squares) -> None:
    problem = least_squares(num_samples=40, dim=5, seed=19)
    settings = {"defaults": {"batch_size": 8}, "num_positions": 40, "max_samples": 120, "checkpoint_every": 48}
    path = plain_sgd(problem, 8, 15)
    killed = train("sync", problem, speeds=(1, 2), num_shards=2, **settings)
    killed.run(until=lambda: killed.brain.samples >= 80)
    assert killed.checkpoint.version == p.Version(0, 6)
    resumed = train("sync", problem, speeds=(1, 1, 3), num_shards=3, resume=killed.checkpoint, coordination_epoch=1, **settings).run()
    same(resumed, path, first=6)
    assert set(resumed.used.values()) == {1}
    assert len(resumed.used) == 120
    assert min(resumed.workers) == 2, "slots are never used again"


def test_a_learning_rate_that_was_changed_is_still_so_after_a_checkpoint(train, least_squares) -> None:
    problem = least_squares(num_samples=40, dim=5, seed=19)
    settings = {"defaults": {"batch_size": 8}, "num_positions": 40, "max_samples": 80}
    whole, killed = (train("sync", problem, **settings) for _ in range(2))
    for run in (whole, killed):
        run.run(until=lambda run=run: len(run.history) == 3)
        run.tell(p.Configured({"lr": 0.03}))
        run.run(until=lambda run=run: len(run.history) == 5)
        run.tell(p.CheckpointAsked())
    whole.run()
    killed.run(until=lambda: killed.checkpoint is not None)
    resumed = train("sync", problem, resume=killed.checkpoint, coordination_epoch=1, **settings).run()
    same(resumed, [whole.history[number] for number in sorted(whole.history)], first=killed.checkpoint.version.number)


@pytest.mark.parametrize(
    "spec",
    [
        "async",
        {"async": {"max_in_flight": 2}},
        {"fedbuff": {"buffer_size": 3}},
        {"zeno++": {"rho": 1e-9, "epsilon": 1e9, "refresh_every": 4, "ahead": 1}},
    ],
    ids=str,
)
def test_after_a_checkpoint_every_sample_is_used_exactly_once(train, least_squares, spec) -> None:
    problem = least_squares(num_samples=60, dim=3, seed=20)
    spoilt = {1: lambda sum_D: sum_D * float("nan")}
    settings = {"defaults": {"batch_size": 4, "lr": 0.01}, "num_positions": 60, "max_samples": 180, "checkpoint_every": 30, "step_ns": 3}
    run = train(spec, problem, speeds=(1, 2, 3), tamper=spoilt, num_shards=2, **settings)
    run.run(until=lambda: run.brain.samples >= 50)
    for epoch in (1, 2):  # twice: what was restored can be saved and restored again
        before = run.checkpoint
        run = train(spec, problem, speeds=(2, 3), resume=before, coordination_epoch=epoch, **settings)
        assert run.brain.samples >= len(run.used)
        if epoch == 1:
            run.run(until=lambda run=run: run.brain.samples >= 110)
            assert run.checkpoint.version.number > before.version.number
    run.run()
    assert run.finished == p.Finished("samples")
    kept = sum(order.samples for order in run.brain.ledger.undecided)
    rejected = sum(epoch.rejected for epoch in run.brain.book.epochs)
    assert set(run.used.values()) == {1}
    assert len(run.used) + rejected + kept == 180


def test_a_run_that_was_stopped_goes_on_to_the_same_end(train, least_squares) -> None:
    problem = least_squares(num_samples=40, dim=5, seed=21)
    settings = {"speeds": (1, 1), "defaults": {"batch_size": 8}, "num_positions": 40}
    run = train("sync", problem, max_samples=80, **settings)
    run.run(until=lambda: len(run.history) == 4)
    run.tell(p.StopAsked("user"))
    run.tell(p.CheckpointAsked())
    run.run()
    assert run.finished == p.Finished("user")
    resumed = train("sync", problem, max_samples=80, resume=run.checkpoint, **settings).run()
    same(resumed, plain_sgd(problem, 8, 10), first=run.checkpoint.version.number)
    assert len(resumed.used) == 80

"""Models in rotation: each is plain SGD on its own batches, whatever straggles, dies, joins or is resumed."""

import numpy as np
import pytest
import torch

from mottle.core import protocol as p
from mottle.core import strategy as s
from mottle.strategies import MSGCConfig, SRSGCConfig

PLAIN = {"m_sgc": {"num_stragglers": 4, "models": 2}}
"""Nothing is coded: results are plain sums over a quarter of a batch, whoever computes them."""
SPECS = [
    ({"sr_sgc": {"num_stragglers": 2, "models": 2}}, 2),
    ({"sr_sgc": {"burst": 2, "window": 3, "num_stragglers": 2, "models": 3}}, 3),
    ({"m_sgc": {"models": 2}}, 2),
    ({"m_sgc": {"burst": 1, "window": 3, "num_stragglers": 2, "models": 3}}, 3),
    (PLAIN, 2),
]


def by_itself(problem, model: int, number: int, batch: int, num_samples: int, *, chunks: int = 1, settings=None) -> list[np.ndarray]:
    """The path of one of `number` models by itself: torch's SGD on every `number`-th batch, gradients summed chunk by chunk."""
    size, params_D = len(problem.targets_N), torch.from_numpy(problem.start.copy())
    optimizer = torch.optim.SGD([params_D], **{"lr": 0.05, **(settings or {})})
    starts = [start for _ in range(num_samples // size) for start in range(0, size, batch)]
    path = [problem.start]
    for start in starts[model::number]:
        samples = min(batch, size - start)
        edges = [start + samples * i // chunks for i in range(chunks + 1)]
        total_D = problem.gradient_sum(params_D.numpy(), edges[0], edges[1])
        for i in range(1, chunks):
            total_D = total_D + problem.gradient_sum(params_D.numpy(), edges[i], edges[i + 1])
        params_D.grad = torch.from_numpy(total_D * (1 / samples))
        optimizer.step()
        path.append(params_D.numpy().copy())
    return path


def paths(run, number: int) -> list[list[np.ndarray]]:
    """Of each model, its parameters after each of its own steps; nobody else's step may have moved it."""
    found = [[run.history[0][model]] for model in range(number)]
    for version in range(1, len(run.history)):
        moved = [model for model in range(number) if not np.array_equal(run.history[version][model], run.history[version - 1][model])]
        assert moved == [(version - 1) % number], f"version {version} moved {moved}"
        found[moved[0]].append(run.history[version][moved[0]])
    return found


@pytest.mark.parametrize(("spec", "number"), SPECS, ids=str)
def test_each_model_is_sgd_on_its_own_batches_and_nothing_is_late(train, least_squares, spec, number: int) -> None:
    """One straggles in every round, which is soon more than a burst and is waited for."""
    problem = least_squares(num_samples=47, dim=5, seed=51)
    run = train(spec, problem, speeds=(2, 40, 3, 1), defaults={"batch_size": 12}, num_positions=47, max_samples=141, num_shards=2, lr=0.05)
    run.run()
    assert run.finished == p.Finished("samples")
    for model, path in enumerate(paths(run, number)):
        np.testing.assert_allclose(path, by_itself(problem, model, number, 12, 141), rtol=1e-9, atol=1e-11)
    assert {verdict.staleness for verdict in run.verdicts if verdict.verdict == "accepted"} == {0}
    assert set(run.used.values()) == {1}
    assert len(run.used) == 141
    assert not [notice.text for notice in run.notices if "late by" in notice.text]


@pytest.mark.parametrize("speeds", [(1, 1, 1, 1), (3, 1, 25, 2)], ids=str)
def test_uncoded_the_bits_are_those_of_each_model_alone_whoever_straggles(train, least_squares, speeds) -> None:
    """With momentum and a rate of its own for the second model."""
    problem = least_squares(num_samples=48, dim=5, seed=53)
    spec = {"m_sgc": {**PLAIN["m_sgc"], "model_settings": [{}, {"lr": 0.02, "momentum": 0.5}]}}
    defaults = {"batch_size": 12, "optimizer": {"sgd": {"lr": 0.05, "momentum": 0.9}}}
    run = train(spec, problem, speeds=speeds, defaults=defaults, num_positions=48, max_samples=240, num_shards=3, replicas=1).run()
    assert run.finished == p.Finished("samples")
    for model, (path, settings) in enumerate(zip(paths(run, 2), ({"momentum": 0.9}, {"lr": 0.02, "momentum": 0.5}), strict=True)):
        assert np.array_equal(path, by_itself(problem, model, 2, 12, 240, chunks=4, settings=settings))


@pytest.mark.parametrize(("spec", "number"), SPECS[1:4], ids=str)
def test_a_death_an_arrival_and_a_lost_replica_cost_no_model_a_step(train, least_squares, spec, number: int) -> None:
    problem = least_squares(num_samples=60, dim=4, seed=52)
    settings = {"defaults": {"batch_size": 10}, "num_positions": 60, "max_samples": 360, "num_shards": 2, "replicas": 1, "lr": 0.05}
    run = train(spec, problem, speeds=(1, 2, 1, 1, 2), **settings)
    run.run(until=lambda: run.brain.samples >= 100)
    run.kill(1)
    run.run(until=lambda: run.brain.samples >= 200)
    run.kill_replica(p.ReplicaId(0, 0))
    run.join(1)
    run.run()
    assert run.finished == p.Finished("samples")
    assert set(run.used.values()) == {1}
    for model, path in enumerate(paths(run, number)):
        np.testing.assert_allclose(path, by_itself(problem, model, number, 10, 360), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("optimizer", [{"sgd": {"lr": 0.05, "momentum": 0.9}}, {"adam": {"lr": 0.01}}], ids=str)
@pytest.mark.parametrize("at", [10, 30])
def test_a_resumed_run_goes_on_with_the_model_whose_turn_it_is_and_with_the_state_of_each(train, least_squares, optimizer, at: int) -> None:
    """From before the second model's first step, and from later."""
    problem = least_squares(num_samples=60, dim=4, seed=55)
    settings = {"defaults": {"batch_size": 10, "optimizer": optimizer}, "num_positions": 60, "max_samples": 120, "num_shards": 2}
    whole = train(PLAIN, problem, speeds=(1, 1, 1, 1), **settings).run()
    first = train(PLAIN, problem, speeds=(1, 1, 1, 1), **settings)
    first.run(until=lambda: first.brain.samples >= at)
    first.tell(p.CheckpointAsked())
    first.run(until=lambda: first.checkpoint is not None)
    second = train(PLAIN, problem, speeds=(1, 1, 1, 1), resume=first.checkpoint, coordination_epoch=1, **settings).run()
    assert second.finished == p.Finished("samples")
    assert len(whole.history) == 13
    assert min(second.history) == first.checkpoint.version.number == at // 10
    for version, params_MD in second.history.items():
        assert np.array_equal(params_MD, whole.history[version]), f"version {version}"


def test_samples_that_nobody_can_compute_cost_one_model_one_turn(train, least_squares) -> None:
    problem = least_squares(num_samples=60, dim=3, seed=54)
    problem.rows_ND[17] = np.nan
    run = train({"m_sgc": {"models": 2}}, problem, speeds=(1, 2, 1), defaults={"batch_size": 12}, num_positions=60, max_samples=120).run()
    assert run.finished == p.Finished("samples")
    assert np.isfinite(run.params).all()
    steps = [
        sum(not np.array_equal(run.history[v][model], run.history[v - 1][model]) for v in range(1, len(run.history))) for model in (0, 1)
    ]
    assert abs(steps[0] - steps[1]) <= 1, "the model that lost its turn has the next one"


def test_metrics_are_those_of_the_best_model_and_of_each(train, least_squares) -> None:
    problem = least_squares(num_samples=48, dim=5, seed=56)
    spec = {"m_sgc": {"models": 2, "model_settings": [{"lr": 0.001}, {"lr": 0.05}]}}
    said: list[p.Evaluated] = []
    run = train(spec, problem, speeds=(1, 1, 1), defaults={"batch_size": 12}, num_positions=48, max_samples=240, evaluate_every=48)
    handle = run.brain.handle

    def noted(event: p.Event, *, now_ns: int) -> list[p.Command]:
        if isinstance(event, p.Evaluated):
            said.append(event)
        return handle(event, now_ns=now_ns)

    run.brain.handle = noted
    run.run()
    last = said[-1].metrics
    assert last["best_model"] == 1.0
    assert last["test_loss"] == last["test_loss/1"] == problem.loss(run.params[1])
    assert last["test_loss/0"] == problem.loss(run.params[0])
    assert not any(event.error for event in said)


# --- by itself --------------------------------------------------------------------------------------------------------------------------


def test_a_job_of_the_next_model_begins_while_the_one_before_is_out(alone) -> None:
    """Plain chunks and retries (lambda = n), W = 2, B = 1, two workers."""
    machine = alone(MSGCConfig(batch_size=8, num_stragglers=2, models=2))
    begun = machine.hear(s.VersionPublished(p.Version(0, 0)))
    assert begun == [s.LendChunk(0, 4, 0), s.LendChunk(1, 4, 0), s.AssignChunks(0, ((0, 1.0),)), s.AssignChunks(1, ((1, 1.0),))]
    machine.hear(s.OrderIssued(0, 0, 4), s.OrderIssued(1, 1, 4), came(0, 0))
    begun = machine.hear(came(1, 1))
    assert begun[:2] == [s.LendChunk(2, 4, 1), s.LendChunk(3, 4, 1)]
    machine.hear(s.OrderIssued(2, 0, 4), s.OrderIssued(3, 1, 4), came(2, 0))
    assert machine.hear(came(3, 1)) == [s.Apply(((0, 1 / 8), (1, 1 / 8)), chunks=(0, 1), fragment=0)]
    assert machine.hear(machine.view.publish(1))[0] == s.LendChunk(4, 4, 0)
    assert machine.strategy.state() == {"turns": [1, 0]}, "what is out is not in a checkpoint"


def came(work_id: int, worker: int) -> s.UpdateArrived:
    return s.UpdateArrived(s.Update(work_id, worker, p.Version(0, 0), 4, norm2=1.0))


def test_one_model_says_so_and_is_no_rotation() -> None:
    for config in (SRSGCConfig(batch_size=6), MSGCConfig(batch_size=6)):
        assert config.build().models == ()
    assert MSGCConfig(batch_size=6, models=2).build().models == ({}, {})

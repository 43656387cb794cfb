"""On live Ray every strategy equals its neutral reference: plain PyTorch on the same batches, version for version."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.actors import live
from torch import Tensor

from mottle.observe import read_events
from mottle.sdk import Trainer, WorkerGroup

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


def parameters_after(job: Trainer) -> dict[str, Tensor]:
    """Train to the end; the parameters and buffers then."""
    with live.started(job) as run:
        live.wait_for_end(run)
        return run.parameters()


def assert_equal_losses(job: Trainer, losses: list[float]) -> None:
    """The loss on the test data is the reference's at every version that was evaluated, the first and the last among them."""
    measured = live.measured(job, "test_loss")
    assert {0, len(losses) - 1} <= measured.keys()
    for version, loss in measured.items():
        assert math.isclose(loss, losses[version], rel_tol=1e-4), f"version {version}"


def test_momentum_on_one_shard_though_the_model_destroys_its_own_parameters(tmp_path: Path) -> None:
    """The parameters travel as shared memory here; a forward pass that overwrites them with NaN reaches nobody."""
    test = live.blobs(50, seed=1)
    options: dict[str, Any] = {"lr": 0.01, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}
    job = live.trainer(tmp_path, live.Scribbler, optimizer={"sgd": options}, test_data=test, evaluate_every=20)
    ours = parameters_after(job)
    theirs = live.reference(job, live.HonestTwin, lambda model: torch.optim.SGD(model.parameters(), **options), test=test.tensors)
    torch.testing.assert_close(ours, theirs.parameters(), rtol=1e-4, atol=1e-6)
    assert_equal_losses(job, theirs.losses)


def test_adamw_with_a_schedule_and_parameter_groups_on_two_shards(tmp_path: Path) -> None:
    test = live.blobs(50, seed=1)
    job = live.trainer(
        tmp_path,
        live.perceptron,
        optimizer={"adamw": {"lr": 0.01, "weight_decay": 0.1, "param_groups": [{"params": ["*.bias"], "weight_decay": 0.0, "lr": 0.02}]}},
        lr_schedule={"cosine": {"samples": 200}},
        shards=2,
        test_data=test,
        evaluate_every=20,
        scaling_config=WorkerGroup(count=3, num_cpus=0.5),
    )
    ours = parameters_after(job)

    def adamw(model: Any) -> torch.optim.Optimizer:
        weights = [tensor for name, tensor in model.named_parameters() if not name.endswith("bias")]
        biases = [tensor for name, tensor in model.named_parameters() if name.endswith("bias")]
        groups: list[dict[str, Any]] = [{"params": weights, "lr": 0.01}, {"params": biases, "lr": 0.02, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, weight_decay=0.1)

    schedule = job.job.schedule
    assert schedule is not None
    theirs = live.reference(job, live.perceptron, adamw, factor=schedule, test=test.tensors)
    torch.testing.assert_close(ours, theirs.parameters(), rtol=1e-4, atol=1e-5)
    assert_equal_losses(job, theirs.losses)


def test_a_weighted_loss_clipped_by_its_global_norm_on_three_shards_one_of_them_empty(tmp_path: Path) -> None:
    """The clipping factor is one for all shards; the loss counts in units of its own, so shares of equal size weigh differently."""
    max_grad_norm = 0.5
    job = live.trainer(tmp_path, live.perceptron, live.class_weighted, shards=3, max_grad_norm=max_grad_norm, micro_batch_size=4)
    assert sum(owned.start == owned.stop for owned in job.job.layout.cut(3)) == 1
    ours = parameters_after(job)
    make = partial(live.reference, job, live.perceptron, lambda model: torch.optim.SGD(model.parameters(), lr=0.1))
    torch.testing.assert_close(ours, make(max_grad_norm=max_grad_norm).parameters(), rtol=1e-4, atol=1e-6)
    with pytest.raises(AssertionError):  # the bound was felt
        torch.testing.assert_close(ours, make().parameters(), rtol=1e-4, atol=1e-6)


def test_async_with_one_worker_through_a_pause_and_a_change_of_the_learning_rate_and_its_replay(tmp_path: Path) -> None:
    job = live.trainer(tmp_path, strategy="async", scaling_config=WorkerGroup(count=1, num_cpus=0.5, delay_s=0.002), until={"epochs": 6})
    with live.started(job) as run:
        live.wait_for(run, lambda snapshot: snapshot.version >= 3, "its third version")
        run.pause()
        paused = live.wait_for(run, lambda snapshot: not live.computing(snapshot), "the pause")
        assert [row.state for row in paused.workers] == ["paused"]
        run.set(lr=0.02)
        run.resume()
        live.wait_for_end(run)
        ours = run.parameters()
        assert run.progress.version == 30 > paused.version
        assert run.progress.samples == 600

    theirs = live.reference(
        job,
        live.linear,
        lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
        epochs=6,
        factor=lambda samples: 1.0 if samples < paused.samples else 0.2,
    )
    torch.testing.assert_close(ours, theirs.parameters(), rtol=1e-4, atol=1e-6)
    assert [event.body["settings"] for event in read_events(run.path) if event.kind == "Configured"] == [
        {"paused": True},
        {"lr": 0.02},
        {"paused": False},
    ]
    live.assert_replay(job)


def test_an_equal_fleet_repeats_every_bit_whichever_worker_draws_whichever_random_numbers(tmp_path: Path) -> None:
    """Dropout and noise on every reading; workers load samples in one thread while they draw dropout masks in another."""
    outcomes = []
    for attempt in ("first", "second"):
        job = live.trainer(
            tmp_path / attempt,
            live.noisy,
            live.dict_cross_entropy,
            live.Jittered(200),
            shards=2,
            batch_size=50,
            micro_batch_size=5,
            optimizer={"sgd": {"lr": 0.1, "momentum": 0.9}},
        )
        outcomes.append(parameters_after(job))
    first, second = outcomes
    assert all(torch.equal(first[name], second[name]) for name in first)
    statistics = [name for name in first if "running" in name]
    assert len(statistics) == 2
    fresh = live.noisy().state_dict()
    assert all(not torch.equal(first[name], fresh[name]) and first[name].isfinite().all() for name in statistics)

"""On live Ray, local steps are those of plain PyTorch: the inner optimizer with one worker, DiLoCo's two loops with two."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.actors import live
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from mottle.core import wire
from mottle.data import Positions
from mottle.observe import read_events
from mottle.sdk import Trainer, WorkerGroup

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

ADAMW = {"lr": 0.01, "weight_decay": 0.1}


def parameters_after(job: Trainer) -> dict[str, Tensor]:
    with live.started(job) as run:
        live.wait_for_end(run)
        return run.parameters()


def test_one_worker_is_its_inner_optimizer_whatever_the_local_steps(tmp_path: Path) -> None:
    """Twenty-five samples a step in micro-batches of ten; rounds of two steps and of what is left of the epoch."""
    job = live.trainer(
        tmp_path,
        live.perceptron,
        strategy={"local_sgd": {"local_steps": 3}},
        optimizer={"adamw": {**ADAMW, "param_groups": [{"params": ["*.bias"], "weight_decay": 0.0}]}},
        lr_schedule={"cosine": {"samples": 200}},
        batch_size=25,
        micro_batch_size=10,
        shards=2,
        scaling_config=WorkerGroup(count=1, num_cpus=0.5),
    )
    ours = parameters_after(job)

    def adamw(model: nn.Module) -> torch.optim.Optimizer:
        weights = [tensor for name, tensor in model.named_parameters() if not name.endswith("bias")]
        biases = [tensor for name, tensor in model.named_parameters() if name.endswith("bias")]
        return torch.optim.AdamW([{"params": weights}, {"params": biases, "weight_decay": 0.0}], **ADAMW)

    schedule = job.job.schedule
    assert schedule is not None
    theirs = live.reference(job, live.perceptron, adamw, factor=schedule, batch_size=25)
    torch.testing.assert_close(ours, theirs.parameters(), rtol=1e-4, atol=1e-5)
    live.assert_replay(job)


def diloco(job: Trainer, *, local_steps: int, share: int) -> dict[str, Tensor]:
    """Two workers in plain loops; every worker's samples of a round lie together in the data order, as its lease does."""
    torch.manual_seed(job.job.seed)
    theta = live.perceptron()
    outer = torch.optim.SGD(theta.parameters(), lr=0.7, momentum=0.9, nesterov=True)
    workers = [copy.deepcopy(theta) for _ in range(2)]
    inners = [torch.optim.AdamW(worker.parameters(), **ADAMW) for worker in workers]
    for epoch in range(2):
        for first in range(0, job.job.brain.num_positions, 2 * local_steps * share):
            for worker, inner, begin in zip(workers, inners, (first, first + local_steps * share), strict=True):
                worker.load_state_dict(theta.state_dict())
                for start in range(begin, begin + local_steps * share, share):
                    inner.zero_grad()
                    live.cross_entropy(worker, job.job.loader.load(Positions(epoch, start, start + share))).backward()
                    inner.step()
            for parameter, *ends in zip(theta.parameters(), *(worker.parameters() for worker in workers), strict=True):
                parameter.grad = parameter.detach() - sum(end.detach() for end in ends) / 2
            outer.step()
    return {name: tensor.detach() for name, tensor in theta.named_parameters()}


def test_diloco_is_two_loops_of_plain_pytorch(tmp_path: Path) -> None:
    job = live.trainer(
        tmp_path,
        live.perceptron,
        data=live.blobs(120),
        strategy={"diloco": {"local_steps": 3}},
        optimizer={"adamw": ADAMW},
        batch_size=20,
        replicas=1,
    )
    assert job.job.server_optimizer == {"outer_sgd": {"lr": 0.7, "momentum": 0.9, "nesterov": True}}
    ours = parameters_after(job)
    torch.testing.assert_close(ours, diloco(job, local_steps=3, share=10), rtol=1e-3, atol=1e-4)
    live.assert_replay(job)


def test_two_models_that_are_merged_after_every_step_are_synchronous_sgd(tmp_path: Path) -> None:
    """Whole models travel to two shards and come back; each step is of ten samples of each worker's own."""
    job = live.trainer(tmp_path, live.perceptron, strategy={"single_merging": {"exchange": 1.0}}, batch_size=10, shards=2)
    ours = parameters_after(job)
    lr = job.job.optimizer["sgd"]["lr"]
    theirs = live.reference(job, live.perceptron, lambda model: torch.optim.SGD(model.parameters(), lr=lr), batch_size=20)
    torch.testing.assert_close(ours, theirs.parameters(), rtol=1e-4, atol=1e-5)
    live.assert_replay(job)


def deep() -> nn.Module:
    """22,084 parameters in three layers and six blocks: the first block is one fragment, the others the second one."""
    return nn.Sequential(nn.Linear(live.NUM_FEATURES, 256), nn.ReLU(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, live.NUM_CLASSES))


def streaming(folder: Path, download: str = "float32", **options: Any) -> Trainer:
    """Twelve inner steps of two workers, a fragment sent after every second one, mixed in one step later."""
    settings = {"local_steps": 4, "fragments": 2, "overlap": 1, "download": download}
    defaults = {"data": live.blobs(120), "optimizer": {"adamw": ADAMW}, "batch_size": 20, "lease_floor_s": None}
    return live.trainer(folder, deep, strategy={"streaming_diloco": settings}, **{**defaults, **options})


def streaming_loops(job: Trainer) -> Tensor:
    """The same in plain loops, on flat vectors."""
    torch.manual_seed(job.job.seed)
    models = [deep() for _ in range(2)]
    theta = parameters_to_vector(models[0].parameters()).detach().clone()
    vector_to_parameters(theta.clone(), models[1].parameters())
    inners = [torch.optim.AdamW(model.parameters(), **ADAMW) for model in models]
    momentum = torch.zeros_like(theta)
    assert job.job.fragments is not None
    parts = [torch.cat([torch.arange(piece.start, piece.stop) for piece in pieces]) for pieces in job.job.fragments.ranges]
    for number in range(12):
        for worker, (model, inner) in enumerate(zip(models, inners, strict=True)):
            for step in range(2):
                if number and step == 1:
                    x, mine = parameters_to_vector(model.parameters()).detach().clone(), parts[(number - 1) % 2]
                    x[mine] = 0.5 * x[mine] + 0.5 * theta[mine]
                    vector_to_parameters(x, model.parameters())
                start = number * 40 + worker * 20 + step * 10
                inner.zero_grad()
                live.cross_entropy(model, job.job.loader.load(Positions(start // 120, start % 120, start % 120 + 10))).backward()
                inner.step()
        mine = parts[number % 2]
        delta = theta[mine] - sum(parameters_to_vector(model.parameters()).detach()[mine] for model in models) / 2
        momentum[mine] = 0.9 * momentum[mine] + delta
        theta[mine] -= 0.4 * (delta + 0.9 * momentum[mine])
    return theta


def test_streaming_diloco_is_its_loops_in_plain_pytorch_and_goes_on_bit_by_bit(tmp_path: Path) -> None:
    """Two shards, whose cut goes through the second fragment, with replicas; what workers have of their own is in the checkpoint."""
    job = streaming(tmp_path, shards=2, replicas=1, until={"epochs": 4}, checkpoint_every=120)
    ours = parameters_after(job)
    flat = torch.cat([ours[name].flatten() for name, _ in deep().named_parameters()])
    torch.testing.assert_close(flat, streaming_loops(job), rtol=1e-3, atol=1e-4)
    live.assert_replay(job)
    same = streaming(tmp_path, shards=1, until={"epochs": 4}, checkpoint_every=120)
    with live.started(same, lambda: same.resume(1)) as run:
        live.wait_for_end(run)
        again = run.parameters()
    assert all(torch.equal(again[name], ours[name]) for name in ours)


def test_a_worker_killed_and_one_added_leave_streaming_going_with_four_bits_a_coordinate_up_and_sixteen_down(tmp_path: Path) -> None:
    job = streaming(
        tmp_path,
        codec="e3m0",
        download="bf16",
        data=live.blobs(2000),
        until={"epochs": 3},
        test_data=live.blobs(200, seed=1),
        metrics={"accuracy": live.accuracy},
        scaling_config=WorkerGroup(count=2, max_count=4, num_cpus=0.5, delay_s=0.002),
    )
    with live.started(job) as run:
        live.wait_for(run, lambda snapshot: live.accepted(snapshot, "w1") >= 3, "three updates of w1")
        live.process_of(job, "w1").kill()
        run.add_workers(1)
        live.wait_for(run, lambda snapshot: live.accepted(snapshot, "w2") >= 3, "three updates of w2")
        live.wait_for_end(run)
        result = run.result()
    assert result.metrics is not None
    assert result.metrics["test_accuracy"] > 0.9
    live.assert_replay(job)


def test_the_outer_momentum_goes_on_from_a_checkpoint_on_another_number_of_shards(tmp_path: Path) -> None:
    """Plain SGD inside, which has no state that a resumption would lose."""

    def job(name: str, shards: int) -> Trainer:
        options = {"strategy": {"diloco": {"local_steps": 2}}, "batch_size": 20, "until": {"epochs": 4}, "checkpoint_every": 200}
        return live.trainer(tmp_path / name, live.perceptron, data=live.blobs(120), shards=shards, **options)

    whole = parameters_after(job("whole", 1))
    live.fit(job("parts", 1))
    resumed = job("parts", 2)
    with live.started(resumed, lambda: resumed.resume(1)) as run:
        live.wait_for_end(run)
        parameters = run.parameters()
    torch.testing.assert_close(parameters, whole, rtol=1e-4, atol=1e-6)


def test_an_agent_hears_the_loss_on_trusted_data_of_every_version(tmp_path: Path) -> None:
    search = {"lr": [0.01, 0.1], "local_steps": [1, 3], "server_lr": [0.5, 1.5]}
    job = live.trainer(
        tmp_path, strategy={"auto_fedrl": {"search": search}}, validation_data=live.blobs(40, seed=2), test_data=live.blobs(40, seed=3),
        until={"epochs": 4},
    )  # fmt: skip
    parameters_after(job)
    heard = [wire.decode(logged.body) for logged in read_events(job.job.run_dir) if logged.kind == "Evaluated"]
    losses = {event.version.number: event.metrics["loss"] for event in heard if event.trusted and not event.error}
    newest = max(losses)
    assert losses.keys() == {*range(newest + 1)}
    assert losses[newest] < 0.9 * losses[0]
    live.assert_replay(job)


def test_rounds_that_ruin_the_model_are_undone_on_live_shards(tmp_path: Path) -> None:
    """Over two shards and their replicas; the outer optimizer has a momentum that goes back as well."""
    search = {"lr": [0.01, 300.0], "local_steps": [1, 3]}
    job = live.trainer(
        tmp_path, strategy={"auto_fedrl": {"strategy": "slowmo", "search": search, "log": ["lr"]}}, validation_data=live.blobs(40, seed=2),
        test_data=live.blobs(40, seed=3), shards=2, replicas=1, until={"epochs": 8},
    )  # fmt: skip
    with live.started(job) as run:
        live.wait_for_end(run)
        kinds = [event.kind for event in run.progress.events]
    heard = [wire.decode(logged.body) for logged in read_events(job.job.run_dir) if logged.kind == "Evaluated"]
    losses = {event.version: event.metrics["loss"] for event in heard if event.trusted and not event.error}
    assert kinds.count("undone") == kinds.count("replaced") >= 1
    assert losses[max(losses)] < losses[min(losses)]
    live.assert_replay(job)

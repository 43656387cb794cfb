"""Models in rotation on live Ray: each is plain PyTorch by itself, with a worker that is slow and one that dies by SIGKILL."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.actors import live
from torch import Tensor, nn

from mottle.core.errors import ConfigError
from mottle.data import Positions
from mottle.engines.rotation import tensors_of_model
from mottle.sdk import Trainer, WorkerGroup
from mottle.sdk.simulating import task_of
from mottle.simulate import Fleet, Learning, Workers

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

GROUPS = [
    WorkerGroup(name="steady", count=3, num_cpus=0.3),
    WorkerGroup(name="slow", count=1, num_cpus=0.3, delay_s=0.02),  # a tenth of a second a task
]
SGD = {"lr": 0.1, "momentum": 0.9}
OWN: list[dict[str, Any]] = [{}, {"lr": 0.05, "momentum": 0.5, "seed": 7}]
PLAIN = {"m_sgc": {"num_stragglers": 4, "models": 2, "model_settings": OWN}}
"""Nothing is coded: results are sums over quarters of a batch, whoever computes them."""


def by_itself(job: Trainer, model: int, epochs: int) -> dict[str, Tensor]:
    """Parameters of a model that is trained alone: torch's SGD on every second batch, the gradients of its quarters added in order."""
    options = {**SGD, **OWN[model]}
    torch.manual_seed(options.pop("seed", job.job.seed + model))
    made = live.perceptron()
    optimizer = torch.optim.SGD(made.parameters(), **options)
    starts = [(epoch, start) for epoch in range(epochs) for start in range(0, 100, 20)]
    for epoch, start in starts[model::2]:
        optimizer.zero_grad()
        for first in range(start, start + 20, 5):
            quarter = job.job.loader.load(Positions(epoch, first, first + 5))
            (live.cross_entropy(made, quarter) * 5.0).backward()
        for tensor in made.parameters():
            assert tensor.grad is not None
            tensor.grad.mul_(1 / 20)
        optimizer.step()
    return {name: tensor.detach() for name, tensor in made.named_parameters()}


def rotating(folder: Path, epochs: int, **options: Any) -> Trainer:
    return live.trainer(
        folder,
        live.perceptron,
        strategy=PLAIN,
        optimizer={"sgd": SGD},
        scaling_config=GROUPS,
        until={"epochs": epochs},
        shards=3,
        replicas=1,
        test_data=live.blobs(50, seed=1),
        validation_data=live.blobs(40, seed=2),
        metrics={"accuracy": live.accuracy},
        evaluate_every=100,
        checkpoint_every=100,
        **options,
    )


def simulated(job: Trainer) -> list[dict[str, Tensor]]:
    """Parameters of both models at the end of the same job on virtual time."""
    fleet = Fleet(workers=(Workers(name="steady", count=3, sample_s=0.001), Workers(name="slow", sample_s=0.02)))
    run = task_of(job.job, fleet).run(fleet, PLAIN)
    assert isinstance(run.numbers, Learning)
    rotation = job.job.rotation
    assert rotation is not None
    flat = run.numbers.values(run.primaries, run.brain.version.number)
    return [tensors_of_model(flat, rotation, model) for model in (0, 1)]


def assert_each_is_itself(models: list[dict[str, Tensor]], job: Trainer, epochs: int) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as workers compute
    try:
        for model, ours in enumerate(models):
            torch.testing.assert_close(ours, by_itself(job, model, epochs), rtol=0, atol=0)
    finally:
        torch.set_num_threads(threads)


def test_each_model_is_plain_sgd_by_itself_to_the_bit_also_when_the_run_is_resumed_and_a_shard_and_the_coordinator_die(
    tmp_path: Path,
) -> None:
    """Two models with beginnings, rates and momenta of their own; one of four workers is slow and is given up in every other round."""
    job = rotating(tmp_path, 2)
    with live.started(job) as run:
        live.wait_for_end(run)
        ours, best = [run.parameters(model) for model in (0, 1)], run.parameters()
        result = run.result()
    summary, metrics = result.summary, result.metrics
    assert summary is not None
    assert metrics is not None
    assert summary.versions == 10
    assert {staleness for *_, verdict, _, _, staleness in live.verdicts(job) if verdict == "accepted"} == {0}
    assert_each_is_itself(ours, job, 2)
    live.assert_replay(job)
    torch.testing.assert_close(simulated(job), ours, rtol=0, atol=0)

    chosen = int(metrics["best_model"])
    assert metrics[f"validation_loss/{chosen}"] == min(metrics["validation_loss/0"], metrics["validation_loss/1"])
    assert metrics["test_accuracy"] == metrics[f"test_accuracy/{chosen}"]
    torch.testing.assert_close(best, ours[chosen], rtol=0, atol=0)

    saved = load_file(tmp_path / "run" / "checkpoints" / "000001" / "model.safetensors")
    nn.ModuleList([live.perceptron(), live.perceptron()]).load_state_dict(saved)
    longer = rotating(tmp_path, 4)
    with live.started(longer, lambda: longer.resume(1)) as run:
        live.wait_for(run, lambda now: now.version >= 6, "its first step")
        run.pause()  # else it might be over before the killing is
        os.kill(run.places()["shard0"].pid, signal.SIGKILL)
        live.wait_for(run, lambda now: any("a replica of shard 0 is lost" in event.text for event in now.events), "the loss of a shard")
        os.kill(run.places()["coordinator"].pid, signal.SIGKILL)
        live.wait_for(run, lambda now: any(event.kind == "coordinator" for event in now.events), "another coordinator")
        run.resume()
        live.wait_for_end(run)
        ours = [run.parameters(model) for model in (0, 1)]
    assert_each_is_itself(ours, longer, 4)


def test_a_worker_that_dies_costs_no_model_a_batch(tmp_path: Path) -> None:
    """With running statistics, of each model its own."""
    spec = {"sr_sgc": {"num_stragglers": 2, "models": 2}}
    job = live.trainer(tmp_path, live.noisy, strategy=spec, scaling_config=GROUPS, until={"epochs": 4}, replicas=1)
    with live.started(job) as run:
        live.wait_for(run, lambda now: now.version >= 6, "its sixth version")
        os.kill(run.processes()["w1"], signal.SIGKILL)
        live.wait_for_end(run)
        first, second = (run.parameters(model) for model in (0, 1))
        with pytest.raises(ConfigError, match="none of the 2 models was evaluated"):
            run.parameters()
        summary = run.result().summary
    assert summary is not None
    assert [(epoch.applied, epoch.missed, epoch.repeated, epoch.rejected) for epoch in summary.epochs] == [(100, 0, 0, 0)] * 4
    assert summary.versions == 20, "no batch was begun again"
    assert (
        first.keys()
        == second.keys()
        == {name for name, _ in [*live.noisy().named_parameters(), *live.noisy().named_buffers()]} - {"1.num_batches_tracked"}
    )
    assert not torch.equal(first["1.running_mean"], second["1.running_mean"])
    live.assert_replay(job)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"strategy": PLAIN, "model": live.perceptron()}, "models 1 have a seed of their own, and the module is made already"),
        ({"strategy": {"m_sgc": {"models": 2, "model_settings": [{}, {"momentun": 1}]}}}, "did you mean 'momentum'"),
        ({"strategy": {"m_sgc": {"models": 3}}}, "trains 1 model, or 2 in rotation"),
        (
            {"strategy": {"m_sgc": {"models": 2}}, "scaling_config": WorkerGroup(count=2, engine={"placed": {"stages": 2}})},
            "gangs .* train one model: leave out models",
        ),
    ],
)
def test_what_does_not_go_with_several_models_is_refused_before_anything_starts(tmp_path: Path, options: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        live.trainer(tmp_path, **{"model": live.perceptron, "scaling_config": GROUPS, **options})

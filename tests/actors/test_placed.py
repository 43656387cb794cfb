"""Workers that are gangs of processes, on a real local Ray: one worker each to the crew, whatever strategy it has."""

from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from tests.actors import live
from torch import Tensor

from mottle.checkpoint import folder_of, numbers, read_manifest, read_part
from mottle.placement import find_cluster, plan
from mottle.sdk import Trainer, WorkerGroup
from mottle.storage import Folder

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]
LR = 0.1


def gang(count: int = 1, **options: Any) -> WorkerGroup:
    return WorkerGroup(name="gangs", count=count, num_cpus=0.5, engine={"placed": {"stages": 2, "microbatches": 2, **options}})


def followers() -> list[psutil.Process]:
    """Processes of stages that their leader made."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            found += [process] if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::Follower") else []
        except psutil.NoSuchProcess:
            continue
    return found


def parameters_after(job: Trainer) -> dict[str, Tensor]:
    with live.started(job) as run:
        live.wait_for_end(run)
        return run.parameters()


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_gang_and_a_plain_worker_take_the_steps_of_plain_momentum(tmp_path: Path) -> None:
    job = live.trainer(
        tmp_path,
        live.perceptron,
        optimizer={"sgd": {"lr": LR, "momentum": 0.9}},
        scaling_config=[gang(), WorkerGroup(num_cpus=0.5)],
        micro_batch_size=4,
        shards=2,
        lease_floor_s=None,
    )
    ours = parameters_after(job)
    assert_close(
        ours, live.reference(job, live.perceptron, lambda model: torch.optim.SGD(model.parameters(), LR, momentum=0.9)).parameters()
    )
    psutil.wait_procs(followers(), timeout=live.RELEASE_TIMEOUT_S)
    assert not followers()


@pytest.mark.parametrize(
    "options", [{"transport": "ray", "activations": "recompute"}, {"schedule": "dsp", "slots": 0, "calibrate": "ops"}], ids=["ray", "dsp"]
)
def test_a_gangs_local_steps_are_those_of_the_inner_optimizer(tmp_path: Path, options: dict[str, Any]) -> None:
    """Through Ray, and with DSP's schedule where nothing is late."""
    job = live.trainer(
        tmp_path,
        live.perceptron,
        optimizer={"sgd": {"lr": LR, "momentum": 0.9}},
        scaling_config=gang(**options),
        strategy={"local_sgd": {"local_steps": 5}},
        micro_batch_size=7,
        until={"epochs": 1},
        lease_floor_s=None,
    )
    ours = parameters_after(job)
    theirs = live.reference(job, live.perceptron, lambda model: torch.optim.SGD(model.parameters(), LR, momentum=0.9), epochs=1)
    assert_close(ours, theirs.parameters())


def test_a_stage_killed_in_the_middle_of_a_step_costs_that_order_and_no_number(tmp_path: Path) -> None:
    """Its samples are computed again, by another process in the lost one's place, which has its momentum: as if it had lived."""
    job = live.trainer(
        tmp_path,
        live.perceptron,
        optimizer={"sgd": {"lr": LR, "momentum": 0.9}},
        strategy={"local_sgd": {"local_steps": 2}},
        scaling_config=gang(stage_delay_s=0.02),
        micro_batch_size=5,
        lease_floor_s=None,
    )
    with live.started(job) as run:
        live.wait_for(run, lambda now: now.version >= 2, "two rounds")
        (follower,) = followers()
        follower.kill()
        live.wait_for_end(run)
        ours, summary = run.parameters(), run.result().summary
    theirs = live.reference(job, live.perceptron, lambda model: torch.optim.SGD(model.parameters(), LR, momentum=0.9))
    assert_close(ours, theirs.parameters())
    assert summary is not None
    assert [(epoch.applied, epoch.missed, epoch.repeated) for epoch in summary.epochs] == [(100, 0, 0)] * 2
    log = (tmp_path / "run" / "logs" / "w0.log").read_text()
    assert log.count("gang of 2 stages") == 2


def test_a_gang_goes_on_from_a_checkpoint_with_its_inner_optimizer(tmp_path: Path) -> None:
    """Eight rounds of local AdamW, a checkpoint after every second one: what comes after it has the same bits."""

    def described() -> Trainer:
        return live.trainer(
            tmp_path,
            live.perceptron,
            data=live.blobs(120),
            strategy={"diloco": {"local_steps": 3}},
            optimizer={"adamw": {"lr": 0.01}},
            until={"epochs": 4},
            batch_size=20,
            checkpoint_every=120,
            micro_batch_size=5,
            scaling_config=gang(),
            lease_floor_s=None,
        )

    job = described()
    whole = parameters_after(job)
    run = Folder.at(tmp_path / "run")
    first = numbers(run)[0]
    (part,) = read_manifest(run, first).workers
    saved = read_part(folder_of(run, first), part.saved)
    assert saved["inner.exp_avg"].shape == (job.job.layout.size,)
    assert float(saved["inner.exp_avg_sq"].min()) >= 0 < float(saved["inner.exp_avg_sq"].max())
    same = described()
    with live.started(same, lambda: same.resume(first)) as again:
        live.wait_for_end(again)
        for name, value in again.parameters().items():
            assert torch.equal(value, whole[name])


def test_the_cluster_of_this_process_is_found_and_planned_for() -> None:
    found = find_cluster("auto")
    (device,) = [each for each in found.devices if each.id.endswith("/cpu")]
    assert device.mem > 0
    assert found.classes[device.kind].flops_per_s["float32"] > 1e8
    made = plan(live.perceptron(), torch.empty(4, live.NUM_FEATURES), cluster=found)
    assert made.simulation.valid

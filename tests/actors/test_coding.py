"""Coded computation on live Ray: a declared slow worker and one that dies by SIGKILL, and the path of plain SGD all the way."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.actors import live
from torch import Tensor

from mottle.core.errors import ConfigError
from mottle.sdk import Trainer, WorkerGroup

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

GROUPS = [
    WorkerGroup(name="steady", count=3, num_cpus=0.3),
    WorkerGroup(name="slow", count=1, num_cpus=0.3, delay_s=0.05),  # half a second and more an order
]
SLOW = "w3"


def test_gradient_coding_waits_for_no_slow_and_no_dead_worker_and_goes_the_way_of_plain_sgd(tmp_path: Path) -> None:
    """Four workers compute in pairs, three after the death of one with a cyclic code."""
    spec = {"gradient_coding": {"num_stragglers": 1}}
    job = live.trainer(tmp_path, live.perceptron, strategy=spec, scaling_config=GROUPS, until={"epochs": 8}, shards=2)
    with live.started(job) as run:
        live.wait_for(run, lambda now: now.version >= 15, "its fifteenth version")
        os.kill(run.processes()["w1"], signal.SIGKILL)
        live.wait_for_end(run)
        ours = run.parameters()
        result = run.result()
    summary = result.summary
    assert summary is not None
    assert [(epoch.applied, epoch.missed, epoch.repeated, epoch.rejected) for epoch in summary.epochs] == [(100, 0, 0, 0)] * 8
    assert summary.versions == 40
    workers = {worker.id: worker for worker in summary.workers}
    assert workers["w1"].left_reason is not None
    assert workers["w1"].left_reason.startswith("died")
    assert sum(worker.accepted for worker in summary.workers) == 2 * 40, "two updates are needed of four workers, and of three"
    assert workers[SLOW].accepted < 20, "the step did not wait for it"
    theirs = live.reference(job, live.perceptron, lambda model: torch.optim.SGD(model.parameters(), lr=0.1), epochs=8)
    torch.testing.assert_close(ours, theirs.parameters(), rtol=1e-3, atol=1e-5)
    live.assert_replay(job)


def delayed_sgd(job: Trainer, delay: int, epochs: int) -> dict[str, Tensor]:
    """Every step with the gradient at the parameters of `delay` steps ago."""
    torch.manual_seed(job.job.seed)
    model = live.perceptron()
    path = [{name: tensor.detach().clone() for name, tensor in model.named_parameters()}]
    for batch in live.batches_of(job, 20, epochs):
        model.load_state_dict(path[max(0, len(path) - 1 - delay)])
        model.zero_grad()
        live.cross_entropy(model, batch).backward()
        path.append({name: path[-1][name] - 0.1 * tensor.grad for name, tensor in model.named_parameters() if tensor.grad is not None})
    return path[-1]


@pytest.mark.parametrize("spec", [{"sr_sgc": {"num_stragglers": 2}}, "m_sgc"], ids=str)
def test_sequential_codes_go_the_way_of_sgd_that_is_one_step_late_and_lose_no_batch_to_a_death(tmp_path: Path, spec: Any) -> None:
    job = live.trainer(tmp_path, live.perceptron, strategy=spec, scaling_config=GROUPS, until={"epochs": 4}, shards=2)
    with live.started(job) as run:
        live.wait_for_end(run)
        ours = run.parameters()
        summary = run.result().summary
    assert summary is not None
    assert summary.versions == 20
    torch.testing.assert_close(ours, delayed_sgd(job, 1, 4), rtol=1e-3, atol=1e-5)
    live.assert_replay(job)

    mortal = live.trainer(tmp_path / "mortal", live.perceptron, strategy=spec, scaling_config=GROUPS, until={"epochs": 4})
    with live.started(mortal) as run:
        live.wait_for(run, lambda now: now.version >= 6, "its sixth version")
        os.kill(run.processes()["w1"], signal.SIGKILL)
        summary = run.result().summary
    assert summary is not None
    assert [(epoch.applied, epoch.missed, epoch.repeated, epoch.rejected) for epoch in summary.epochs] == [(100, 0, 0, 0)] * 4
    assert summary.versions == 20, "no batch was begun again"
    live.assert_replay(mortal)


def test_a_job_with_too_few_workers_for_its_code_is_refused_before_it_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="num_stragglers 2 needs at least 3 workers, there are 2"):
        live.trainer(tmp_path, strategy={"gradient_coding": {"num_stragglers": 2}})

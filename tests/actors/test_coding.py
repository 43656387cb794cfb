"""Coded computation on live Ray: a declared slow worker and one that dies by SIGKILL, and the path of plain SGD all the way."""

import os
import signal
from pathlib import Path

import pytest
import torch
from tests.actors import live

from mottle.core.errors import ConfigError
from mottle.sdk import WorkerGroup

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


def test_a_job_with_too_few_workers_for_its_code_is_refused_before_it_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="num_stragglers 2 needs at least 3 workers, there are 2"):
        live.trainer(tmp_path, strategy={"gradient_coding": {"num_stragglers": 2}})

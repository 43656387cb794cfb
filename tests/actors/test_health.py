"""Workers that are kept from work, on real processes."""

from pathlib import Path

import pytest
from tests.actors import live

from mottle.cli.status import status
from mottle.core.health import HealthConfig
from mottle.observe import read_run
from mottle.sdk import WorkerGroup

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


def test_a_worker_that_sends_nan_is_put_away_with_the_reason_and_the_honest_ones_are_not(tmp_path: Path) -> None:
    crew = [
        WorkerGroup(name="honest", count=2, num_cpus=0.5),
        WorkerGroup(name="liar", count=1, num_cpus=0.5, attack={"non_finite": {}}),
    ]
    job = live.trainer(
        tmp_path,
        data=live.blobs(400),
        strategy="async",
        until={"epochs": 4},
        scaling_config=crew,
        health=HealthConfig(),
    )
    with live.started(job) as run:
        shown = live.wait_for(run, lambda now: any(row.state == "quarantined" for row in now.workers), "anybody was in quarantine")
        (row,) = [row for row in shown.workers if row.state == "quarantined"]
        assert row.id == "w2"
        assert "updates were rejected" in row.why
        summary = run.result().summary
    assert summary is not None
    assert [worker.quarantines > 0 for worker in summary.workers] == [False, False, True]
    told = [notice for notice in read_run(job.job.run_dir).notices if notice.kind == "quarantined"]
    assert {notice.worker for notice in told} == {"w2"}
    assert "in quarantine" in status(str(job.job.run_dir)).text
    live.assert_replay(job)


def test_a_worker_that_corrupts_silently_is_found_under_a_plain_mean_and_the_honest_are_never_blamed(tmp_path: Path) -> None:
    crew = [
        WorkerGroup(name="honest", count=2, num_cpus=0.5),
        WorkerGroup(name="worn", count=1, num_cpus=0.5, attack={"bit_flip": {"bits": [22], "count": 5}}),
    ]
    job = live.trainer(
        tmp_path,
        data=live.blobs(400),
        strategy="sync",
        until={"epochs": 4},
        scaling_config=crew,
        health=HealthConfig(spot_checks=0.3, wait_s=0.2),
    )
    summary = live.fit(job).summary
    assert summary is not None
    assert [worker.quarantines > 0 for worker in summary.workers] == [False, False, True]
    assert summary.workers[2].quarantined_for.endswith("differently from workers 0 and 1, who agree")
    told = [notice for notice in read_run(job.job.run_dir).notices if notice.kind == "corruption"]
    assert {notice.worker for notice in told} == {"w2"}
    assert summary.updates.rejected == 0, "a mean takes everything"
    live.assert_replay(job)

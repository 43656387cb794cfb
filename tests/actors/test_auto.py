"""`strategy: auto` on live Ray: the crew is measured while it trains, a plan is made and followed, and the log replays."""

from pathlib import Path

import pytest
from tests.actors import live

from mottle.core import protocol as p
from mottle.core import wire
from mottle.observe import read_events
from mottle.observe.result import read_result
from mottle.sdk import WorkerGroup

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


def test_a_live_run_measures_its_crew_and_says_why_it_goes_on_as_it_does(tmp_path: Path) -> None:
    """Unequal workers: LB-BSP, with which it begins, is what they are planned for, or ABS-SGD, depending on how quick this machine is."""
    job = live.trainer(
        tmp_path,
        data=live.blobs(600),
        strategy="auto",
        batch_size=24,
        micro_batch_size=4,
        until={"epochs": 4},
        scaling_config=[
            WorkerGroup(name="fast", count=1, num_cpus=0.5, delay_s=0.001),
            WorkerGroup(name="slow", count=1, num_cpus=0.5, delay_s=0.004),
        ],
    )
    assert job.job.planner is not None
    result = live.fit(job)
    assert result.summary is not None
    events = [wire.decode(event.body) for event in read_events(job.job.run_dir)]
    (planned, *_) = [event for event in events if isinstance(event, p.Planned)]
    assert {each["strategy"] for each in planned.ranking} == {"sync", "backup", "lb_bsp", "abs_sgd"}
    rates = {each["strategy"]: each["samples_per_s"] for each in planned.ranking}
    assert rates["lb_bsp"] > 1.2 * rates["sync"], "the declared delays make one worker four times as slow"
    assert "2 workers, measured at" in planned.why
    record = read_result(job.job.run_dir)
    assert record is not None
    assert planned.why in record.notes
    live.assert_replay(job)

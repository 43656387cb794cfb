"""Runs that take up each other's processes: nothing of the one is seen in the other, and what died is replaced."""

import os
import signal
from pathlib import Path

import psutil
import pytest
from tests.actors import live

from mottle.actors.coordinator import Coordinator
from mottle.core import protocol as p
from mottle.sdk import Result, Run, WorkerGroup, kept_processes

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cold_ray")]


def pids() -> set[int]:
    return {process.pid for process in live.shell_processes()}


def train(folder: Path, **options: object) -> tuple[Run, Result]:
    """A run on two shards, with everything that has a process."""
    folder.mkdir()
    job = live.trainer(folder, **{"shards": 2, "test_data": live.blobs(50, seed=1), **options})
    with live.started(job) as run:
        return run, run.result()


def test_the_next_run_is_on_the_same_processes_and_as_if_on_new_ones(tmp_path: Path) -> None:
    adam = {"optimizer": {"adam": {"lr": 0.01}}, "model": live.perceptron, "strategy": "async", "codec": "bf16"}
    with kept_processes():
        train(tmp_path / "another", **adam)
        at_first = live.shell_processes()
        _, second = train(tmp_path / "second")
        assert pids() == {process.pid for process in at_first}
        assert len(at_first) == 6  # coordinator, two shards, validator, two workers
    live.assert_released(at_first)
    _, fresh = train(tmp_path / "fresh")
    assert second.metrics is not None
    assert fresh.metrics is not None
    assert second.metrics["test_loss"] == fresh.metrics["test_loss"]
    for log in ("coordinator", "shard0", "shard1", "validator", "w0", "w1"):
        words = [(tmp_path / name / "run" / "logs" / f"{log}.log").read_text() for name in ("another", "second")]
        assert [text.count(f"{log} is process") for text in words] == [1, 1], log


def test_what_died_or_was_let_go_is_replaced_and_what_is_asked_for_otherwise_too(tmp_path: Path) -> None:
    crew = WorkerGroup(count=3, num_cpus=0.5, delay_s=0.001)
    job = live.trainer(tmp_path, until={"epochs": 10_000}, scaling_config=crew)
    with kept_processes():
        with live.started(job) as run:
            here = run.processes()
            os.kill(here["w0"], signal.SIGKILL)
            live.wait_for(run, lambda now: live.row(now, "w0").state == "killed", "the death of w0")
            run.remove_worker("w1")
            psutil.Process(here["w1"]).wait(live.RELEASE_TIMEOUT_S)  # what it held is free while the run goes on
            run.stop()
        (worker,) = live.shell_processes("TrainingWorker")
        assert worker.pid == here["w2"]
        (shard,) = live.shell_processes("ParameterShard")
        shard.kill()  # while nobody needs it
        shard.wait(live.RELEASE_TIMEOUT_S)
        train(tmp_path / "next", shards=1, scaling_config=WorkerGroup(count=1, num_cpus=0.25))
        (other,) = live.shell_processes("TrainingWorker")
        assert other.pid != worker.pid
        assert len(live.shell_processes("ParameterShard")) == 1


def test_words_of_an_earlier_run_are_not_heard() -> None:
    """They may still be under way through Ray when the next run begins."""

    class Session:
        def __init__(self) -> None:
            self.heard: list[p.Event] = []

        def events(self, events: list[p.Event]) -> None:
            self.heard += events

    process, session = Coordinator(), Session()
    process._session, process._run = session, "second"  # type: ignore[assignment]  # takes the place of a live one
    process.events([p.CheckpointAsked()], "first")
    process.events([p.TimerFired("own")], "second")
    assert session.heard == [p.TimerFired("own")]
    process.rest()
    process.events([p.TimerFired("late")], "second")
    assert session.heard == [p.TimerFired("own")]

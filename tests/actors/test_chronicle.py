"""The record at the coordinator, without Ray: what is shown and kept when something goes wrong."""

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mottle import strategies
from mottle.actors import chronicle as chronicles
from mottle.actors.chronicle import Chronicle
from mottle.core import protocol as p
from mottle.core.brain import Brain
from mottle.core.config import BrainConfig
from mottle.observe.events import read_events
from mottle.observe.heartbeat import read_heartbeat
from mottle.observe.record import read_run
from mottle.observe.result import read_result
from mottle.storage import Folder


def chronicle(folder: Path) -> tuple[Chronicle, Brain]:
    brain = Brain(BrainConfig(num_positions=8), strategies.build("async", {"batch_size": 4, "lr": 0.1}))
    job: Any = SimpleNamespace(run_dir=str(folder), name="run", strategy="async", codec="identity", total_samples=8)
    return Chronicle(job, brain, ["a standing remark"]), brain


def hear(made: Chronicle, brain: Brain, *events: p.Event) -> None:
    for event in events:
        made.saw(event, brain.handle(event, now_ns=0), 0)


def test_an_ended_run_has_a_result_and_no_heartbeat(tmp_path: Path) -> None:
    made, brain = chronicle(tmp_path)
    hear(made, brain, p.Joined(0), p.Started(p.Version(0, 0)))
    result = made.finish(10**9, {"worker": [7, 9]})
    assert read_result(tmp_path) == result
    assert (result.failed, result.peak_rss_bytes.worker, result.epochs[0].missed) == (False, 9, 8)
    assert read_heartbeat(Folder.at(tmp_path)) is None


def test_a_bug_of_ours_ends_the_run_where_everybody_sees_it(tmp_path: Path) -> None:
    made, _ = chronicle(tmp_path)
    made.broke("internal error at Started: KeyError: 7", 10**9)
    assert [(event.kind, event.text) for event in made.snapshot(10**9).events] == [("warning", "internal error at Started: KeyError: 7")]
    result = made.finish(10**9, {})
    assert (result.failed, result.stopped) == (True, "internal error at Started: KeyError: 7")


def test_a_folder_that_cannot_be_written_loses_the_record_and_not_the_result(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file in the place of the folder")
    made, brain = chronicle(tmp_path / "run")
    hear(made, brain, p.Joined(0), p.Started(p.Version(0, 0)))
    result = made.finish(10**9, {})
    assert result.workers[0].id == "w0"
    assert result.notes[0] == "a standing remark"
    assert "the record could not be finished" in result.notes[-1]


def wait_for(condition: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until_s, "it never came true"
        time.sleep(0.01)


def test_what_may_yet_be_lost_is_not_recorded_and_another_chronicle_goes_on_where_the_record_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chronicles, "FLUSH_EVERY_S", 0.01)
    lost, brain = chronicle(tmp_path)
    memory = lost.memory()
    lost.safe = lambda: 2
    version = p.Version(0, 0)
    log = [p.Joined(0), p.Joined(1), p.Started(version), p.Left(1, "died", died=True)]
    for now_ns, event in enumerate(log):
        lost.saw(event, brain.handle(event, now_ns=now_ns), now_ns)
    wait_for(lambda: lost.recorded == 2)
    assert [event.kind for event in read_events(tmp_path)] == ["Joined", "Joined"]

    _, again = chronicle(tmp_path / "elsewhere")
    job: Any = SimpleNamespace(run_dir=str(tmp_path), name="run", strategy="async", codec="identity", total_samples=8)
    made = Chronicle(job, again, [], memory=memory)
    for now_ns, event in enumerate([*log, p.TookOver(1, 5)]):
        made.saw(event, again.handle(event, now_ns=now_ns), now_ns)
    result = made.finish(10**9, {})
    assert [(event.seq, event.kind) for event in read_events(tmp_path)] == [
        (0, "Joined"), (1, "Joined"), (2, "Started"), (3, "Left"), (4, "TookOver"),
    ]  # fmt: skip
    assert [notice.kind for notice in read_run(tmp_path).notices] == ["joined", "joined", "killed", "coordinator"]
    assert result.notes == ("a standing remark",)

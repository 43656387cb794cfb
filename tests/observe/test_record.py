"""A run's folder: tables, log and result, of runs that ended, live or were killed."""

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mottle.observe import (
    EventLog,
    ResultFormatError,
    RunEvent,
    RunRecord,
    RunResult,
    UpdateCounts,
    WorkerAccounting,
    read_events,
    read_result,
    read_run,
    result_from_json,
    result_schema,
    result_to_json,
    write_result,
)
from mottle.storage import Folder

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


def test_what_was_recorded_is_read_again_before_and_after_compaction(tmp_path: Path) -> None:
    record = RunRecord(tmp_path)
    record.decided(t_s=1.0, work_id=7, worker="w0", samples=32, staleness=2, verdict="rejected", reason="score -1.0 below 0", score=-1.0)
    record.decided(t_s=2.0, work_id="7.b", worker="w1", samples=16, staleness=0, verdict="accepted", reason="")
    record.measured(t_s=1.5, samples=48, version=3, values={"test_accuracy": 0.5, "test_loss": math.nan})
    record.delivered(t_s=1.0, worker="w0", samples=32)
    record.noticed(RunEvent(t_s=0.5, kind="joined", worker="w0", text="cpu"))
    record.noticed(RunEvent(t_s=3.0, kind="checkpoint", text="version 3"))
    for step in (record.flush, record.compact):
        step()
        data = read_run(tmp_path)
        assert data.timeline["work_id"].tolist() == ["7", "7.b"]
        assert data.timeline["verdict"].tolist() == ["rejected", "accepted"]
        assert math.isnan(data.timeline["score"][1])
        assert data.metrics["value"][0] == 0.5
        assert math.isnan(data.metrics["value"][1])
        assert data.throughput.to_dict("records") == [{"t_s": 1.0, "worker": "w0", "samples": 32}]
        assert data.notices == (
            RunEvent(t_s=0.5, kind="joined", worker="w0", text="cpu"),
            RunEvent(t_s=3.0, kind="checkpoint", worker=None, text="version 3"),
        )
        assert data.result is None
        assert data.wall_s == 3.0
        assert data.workers == ["w0", "w1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "metrics.parquet",
        "notices.parquet",
        "throughput.parquet",
        "timeline.parquet",
    ]


def test_a_verdict_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wanted a verdict of accepted, unselected, rejected, discarded; got 'lost'"):
        RunRecord(tmp_path).decided(t_s=0, work_id=0, worker="w0", samples=1, staleness=0, verdict="lost", reason="")  # type: ignore[arg-type]  # the point


def test_a_resumed_record_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    first = RunRecord(tmp_path)
    for t_s in (1.0, 2.0, 3.0):
        first.delivered(t_s=t_s, worker="w0", samples=1)
    first.flush()
    second = RunRecord(tmp_path, resume_at_s=2.0)
    second.delivered(t_s=2.5, worker="w0", samples=5)
    second.compact()
    assert read_run(tmp_path).throughput["t_s"].tolist() == [1.0, 2.0, 2.5]


_DIES_MID_RUN = """
import os, signal, sys
from mottle.observe import EventLog, RunRecord
record, log = RunRecord(sys.argv[1]), EventLog(sys.argv[1])
for step in range(30):
    record.delivered(t_s=float(step), worker="w0", samples=32)
    log.append(step, step * 10, "Stored", {"work_id": step})
    if step % 7 == 6:
        record.flush(); log.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_everything_it_flushed(tmp_path: Path) -> None:
    dead = subprocess.run([sys.executable, "-c", _DIES_MID_RUN, str(tmp_path)], check=False, timeout=60, env=os.environ)
    assert dead.returncode == -signal.SIGKILL
    assert read_run(tmp_path).throughput["t_s"].tolist() == [float(step) for step in range(28)]
    assert [event.seq for event in read_events(tmp_path)] == list(range(28))


def test_an_empty_folder_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"wanted the folder of a run, with result\.json or tables"):
        read_run(tmp_path / "nothing")


@settings(max_examples=15, deadline=None)
@given(bodies=st.lists(st.dictionaries(st.text(), JSON, max_size=3), max_size=8), compact=st.booleans())
def test_events_come_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, bodies: list[dict[str, object]], compact: bool) -> None:
    where = tmp_path_factory.mktemp("log")
    log = EventLog(where)
    for seq, body in enumerate(bodies):
        log.append(seq, seq * 1_000_000_007, "Stored", body)
        if seq % 3 == 0:
            log.flush()
    log.compact() if compact else log.flush()
    assert [(event.seq, event.now_ns, event.kind, event.body) for event in read_events(where)] == [
        (seq, seq * 1_000_000_007, "Stored", body) for seq, body in enumerate(bodies)
    ]


def test_floats_that_are_not_finite_survive_the_log(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.append(0, 0, "Stored", {"norm2": math.nan, "dots": [math.inf, -math.inf, 0.1 + 0.2]})
    log.flush()
    (event,) = read_events(tmp_path)
    assert math.isnan(event.body["norm2"])
    assert event.body["dots"] == [math.inf, -math.inf, 0.1 + 0.2]


def test_events_are_logged_in_order_also_after_a_restart(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.append(4, 0, "Joined", {})
    log.flush()
    with pytest.raises(ValueError, match=r"wanted a seq above 4, got 4 \(Left\)"):
        log.append(4, 0, "Left", {})
    with pytest.raises(ValueError, match="wanted a seq above 4, got 3"):
        EventLog(tmp_path).append(3, 0, "Left", {})


def test_a_resumed_log_drops_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    for seq in range(10):
        log.append(seq, seq, "old", {})
    log.flush()
    resumed = EventLog(tmp_path, resume_after=5)
    resumed.append(6, 60, "new", {})
    resumed.compact()
    assert [(event.seq, event.kind) for event in read_events(tmp_path)] == [*((seq, "old") for seq in range(6)), (6, "new")]


@pytest.fixture
def result(run_dir: Path) -> RunResult:
    found = read_result(run_dir)
    assert found is not None
    return found


def test_the_result_file_has_the_published_shape(run_dir: Path) -> None:
    tree = json.loads((run_dir / "result.json").read_text())
    assert {
        "metrics",
        "samples",
        "versions",
        "updates",
        "epochs",
        "workers",
        "accounting",
        "wall_s",
        "peak_rss_bytes",
        "format",
    } <= tree.keys()
    assert tree["updates"].keys() == {"accepted", "unselected", "rejected", "discarded", "in_flight", "lost", "duplicated"}
    assert tree["epochs"][0].keys() == {"index", "applied", "unselected", "rejected", "missed", "repeated"}
    assert {"id", "device", "joined_s", "left_s", "left_reason", "samples", "accepted", "rejected", "discarded"} <= tree["workers"][
        0
    ].keys()
    assert tree["accounting"]["w0"].keys() == {"useful_s", "waiting_s", "stale_s", "rejected_s", "redone_s"}
    assert tree["peak_rss_bytes"].keys() == {"coordinator", "shard", "worker"}
    assert set(result_schema()["required"]) <= tree.keys()


def test_a_result_survives_its_file(result: RunResult, tmp_path: Path) -> None:
    write_result(tmp_path, result)
    assert read_result(tmp_path) == result
    assert read_result(tmp_path / "other") is None


def test_a_metric_that_is_not_finite_becomes_null(result: RunResult) -> None:
    text = result_to_json(replace(result, metrics={"test_loss": math.nan, "test_accuracy": 0.5}))
    assert result_from_json(text).metrics == {"test_loss": None, "test_accuracy": 0.5}


def test_every_fault_of_a_result_file_is_named(result: RunResult) -> None:
    tree = json.loads(result_to_json(result))
    tree["samples"] = "many"
    tree["workers"][1]["joined_s"] = None
    tree["surprise"] = 1
    tree["updates"]["surprise"] = 1
    del tree["epochs"]
    with pytest.raises(ResultFormatError) as fault:
        result_from_json(json.dumps(tree))
    for place in ("samples: ", "workers.1.joined_s: ", "surprise: ", "updates.surprise: ", "epochs: "):
        assert place in str(fault.value)


@pytest.mark.parametrize(
    ("text", "words"), [("{", "is not JSON"), ("[]", "wanted a result of format 1, got None"), ('{"format": 2}', "got 2")]
)
def test_what_is_no_result_is_refused(text: str, words: str) -> None:
    with pytest.raises(ResultFormatError, match=words):
        result_from_json(text)


def test_a_run_that_was_stopped_may_leave_two_epochs_open_however_far_apart(result: RunResult) -> None:
    """A worker that had fallen silent had the rest of the first one in hand."""
    epochs = tuple(replace(result.epochs[1], index=index, missed=0) for index in range(5))
    cut = replace(result, stopped="time", epochs=(replace(epochs[0], missed=3), *epochs[1:4], replace(epochs[4], missed=7)))
    assert cut.problems() == []
    assert replace(cut, stopped="samples").problems() == ["epoch 0 ended with 3 samples unused"]
    lost = replace(cut, epochs=(*cut.epochs[:2], replace(epochs[2], missed=1), *cut.epochs[3:]))
    assert lost.problems() == ["epoch 0 ended with 3 samples unused"]


def test_a_sound_result_has_no_problems_and_each_contradiction_is_told(result: RunResult) -> None:
    assert result.problems() == []
    broken = replace(
        result,
        stopped="samples",
        updates=replace(result.updates, accepted=result.updates.accepted + 1, lost=2, duplicated=1),
        epochs=(
            replace(result.epochs[0], missed=3),
            replace(result.epochs[1], repeated=4),
            replace(result.epochs[1], index=2, missed=5),  # it may have been cut short together with the one before it
        ),
        accounting={
            "w0": WorkerAccounting(useful_s=1.0, waiting_s=0.0, stale_s=0.0, rejected_s=0.0, redone_s=0.0),
            "ghost": result.accounting["w1"],
        },
    )
    told = "\n".join(broken.problems())
    for words in (
        "2 acknowledged updates were lost",
        "1 updates were applied more than once",
        f"{result.updates.accepted + 1} updates are counted as accepted, but the workers' rows add up to {result.updates.accepted}",
        "epoch 0 ended with 3 samples unused",
        "epoch 1 used 4 samples more than once",
        "worker w0 was present for",
        "worker w3 has no accounting",
        "accounting names ghost",
    ):
        assert words in told


def test_counts_are_of_acknowledged_updates() -> None:
    assert UpdateCounts(accepted=1, unselected=2, rejected=3, discarded=4, in_flight=5, lost=6, duplicated=7).acknowledged == 21


def test_a_run_that_was_killed_is_read_from_its_segments(run_dir: Path, tmp_path: Path, write_run: Callable[..., object]) -> None:
    write_run(tmp_path / "killed", compact=False, ended=False)
    killed, ended = read_run(tmp_path / "killed"), read_run(Folder.at(run_dir))
    assert killed.result is None
    assert killed.timeline.equals(ended.timeline)
    assert killed.workers == ended.workers
    assert killed.wall_s == pytest.approx(ended.wall_s)

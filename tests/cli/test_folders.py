"""Commands that read and write folders and files: new, status, report, export, place."""

import json
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from mottle.checkpoint import Manifest, folder_of, write_manifest, write_model
from mottle.observe import RunEvent, RunRecord, RunResult, UpdateCounts, WorkerAccounting, WorkerResult, write_result
from mottle.observe.heartbeat import Heartbeat, write_heartbeat
from mottle.placement import load_plan, save_problem, small_problem
from mottle.sdk import jobfile
from mottle.storage import Folder

RESULT = RunResult(
    run="digits",
    strategy="zeno++",
    codec="identity",
    stopped="samples",
    metrics={"test_accuracy": 0.97, "test_loss": None},
    samples=960,
    versions=30,
    updates=UpdateCounts(accepted=30, rejected=2),
    epochs=(),
    workers=(
        WorkerResult(
            id="w0",
            device="cpu",
            joined_s=0.0,
            left_s=2.0,
            left_reason="died: \x1b[31mred",
            samples=960,
            accepted=30,
            rejected=2,
            discarded=0,
        ),
    ),
    accounting={"w0": WorkerAccounting(useful_s=1.0, waiting_s=1.0, stale_s=0.0, rejected_s=0.0, redone_s=0.0)},
    wall_s=4.0,
)


@pytest.fixture
def live(tmp_path: Path) -> Path:
    """The folder of a run that has not ended."""
    folder = tmp_path / "run"
    record = RunRecord(folder)
    for number, verdict in enumerate(("accepted", "rejected", "accepted", "discarded")):
        record.decided(t_s=number, work_id=number, worker="w0", samples=8, staleness=0, verdict=verdict, reason="")  # type: ignore[arg-type]
    record.measured(t_s=2.0, samples=8, version=1, values={"test_accuracy": 0.5, "test_loss": float("nan")})
    record.measured(t_s=3.0, samples=16, version=2, values={"test_accuracy": 0.75})
    record.noticed(RunEvent(t_s=3.5, kind="joined", text="came", worker="w1"))
    record.flush()
    return folder


# --- new ------------------------------------------------------------------------------------------------------------------------------


def test_new_makes_a_job_that_is_sound(tmp_path: Path, mottle, own_modules) -> None:
    made = mottle("new", tmp_path / "first", "--json")
    assert made.data["files"] == [str(tmp_path / "first" / name) for name in ("job.yaml", "model.py")]
    read = jobfile.read(tmp_path / "first" / "job.yaml")
    assert read.trainer().job.run_dir == str(tmp_path / "first" / "runs" / "first")


def test_new_says_what_to_do_next(tmp_path: Path, mottle) -> None:
    assert f"now run: mottle train {tmp_path / 'first' / 'job.yaml'}" in mottle("new", tmp_path / "first").out


def test_new_writes_over_nothing(tmp_path: Path, mottle) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    refused = mottle("new", tmp_path)
    assert (refused.code, "is there already" in refused.err) == (2, True)
    assert mottle("new", tmp_path / "mine.txt").code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    assert mottle("new", tmp_path / "empty").code == 0


# --- train, before anything starts ----------------------------------------------------------------------------------------------------


@pytest.fixture
def job(tmp_path: Path, mottle, own_modules) -> Path:
    mottle("new", tmp_path / "first")
    return tmp_path / "first" / "job.yaml"


def test_train_never_writes_over_a_run(tmp_path: Path, job: Path, mottle) -> None:
    write_result(tmp_path / "run", RESULT)
    refused = mottle("train", job, "--out", tmp_path / "run")
    assert refused.code == 2
    assert "holds a run already; name another folder with --out, or delete that run with --replace" in refused.err
    assert (tmp_path / "run" / "result.json").is_file()


def test_train_deletes_nothing_that_is_no_run(tmp_path: Path, job: Path, mottle) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    refused = mottle("train", job, "--out", tmp_path / "thesis", "--replace")
    assert (refused.code, "holds files and no run" in refused.err) == (2, True)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years of work"


def test_train_keeps_the_earlier_run_when_the_job_is_wrong(tmp_path: Path, job: Path, mottle) -> None:
    write_result(tmp_path / "run", RESULT)
    refused = mottle("train", job, "--out", tmp_path / "run", "--replace", "--set", "model=model:Nett", "--json")
    assert refused.code == 2
    (fault,) = refused.data["faults"]
    assert (fault["where"], fault["key"]) == ("--set model=model:Nett", "model")
    assert (tmp_path / "run" / "result.json").is_file()


def test_train_lists_every_mistake_on_a_line_of_its_own(job: Path, mottle) -> None:
    job.write_text(job.read_text().replace("batch_size: 64", "batch_size: many").replace("seed: 0", "sead: 0"))
    lines = mottle("train", job).err.splitlines()
    assert lines[0] == "mottle:"
    assert [line.split(": ")[1] for line in lines[1:]] == ["batch_size", "sead"]


# --- status ---------------------------------------------------------------------------------------------------------------------------


def test_status_of_a_run_that_ended(tmp_path: Path, mottle) -> None:
    write_result(tmp_path, RESULT)
    shown = mottle("status", tmp_path).out
    assert shown.startswith("digits: ended (samples) after 4.0 s\n")
    assert "test accuracy    97.0 %" in shown
    assert "30 accepted, 0 unselected, 2 rejected" in shown
    assert "\x1b" not in shown
    answer = mottle("status", tmp_path, "--json").data
    assert (answer["state"], answer["result"]["samples"], answer["problems"]) == ("ended", 960, [])


def test_status_shows_what_contradicts_itself(tmp_path: Path, mottle) -> None:
    write_result(tmp_path, RunResult(**{**vars(RESULT), "updates": UpdateCounts(accepted=30, rejected=2, lost=1)}))
    assert "wrong: 1 acknowledged updates were lost" in mottle("status", tmp_path).out


def test_status_of_a_run_that_has_not_ended_says_only_what_is_recorded(live: Path, mottle) -> None:
    answer = mottle("status", live, "--json").data
    assert answer["state"] == "unknown"
    assert answer["updates"] == {"accepted": 2, "rejected": 1, "discarded": 1}
    assert (answer["samples"], answer["recorded_s"], answer["checkpoints"]) == (24, 3.5, [])
    assert answer["metrics"] == {"test_accuracy": 0.75, "test_loss": None}
    assert answer["silent_s"] is None
    shown = mottle("status", live).out
    assert shown.startswith("run: not ended, and without a heartbeat: killed, or written by another program; its record reaches 3.5 s")
    assert "test accuracy    75.0 %" in shown


@pytest.mark.parametrize(
    ("age_s", "state", "words"),
    [
        (1.0, "live", "run: live, its last sign of life "),
        (-60.0, "live", "run: live, its last sign of life 0.0 s ago from there"),
        (3600.0, "silent", "run: killed, or cut off from its folder: no sign of life for 1:00:0"),
    ],
    ids=["fresh", "a clock ahead of ours", "stale"],
)
def test_status_tells_a_run_that_lives_from_one_that_is_silent(live: Path, mottle, age_s: float, state: str, words: str) -> None:
    write_heartbeat(Folder.at(live), Heartbeat(unix_s=time.time() - age_s, every_s=3.0, host="there", pid=7))
    answer = mottle("status", live, "--json").data
    assert answer["state"] == state
    assert answer["silent_s"] >= max(0.0, age_s)
    assert mottle("status", live).out.startswith(words)


def test_status_of_a_run_that_is_only_starting_and_of_a_broken_heartbeat(tmp_path: Path, mottle) -> None:
    write_heartbeat(Folder.at(tmp_path), Heartbeat(unix_s=time.time(), every_s=3.0, host="there", pid=7))
    assert mottle("status", tmp_path, "--json").data["state"] == "live"
    assert "nothing is trained yet" in mottle("status", tmp_path).out
    (tmp_path / "heartbeat.json").write_text('{"unix_s": 1')
    assert mottle("status", tmp_path, "--json").data["state"] == "unknown"


def test_status_of_a_run_that_could_not_go_on(tmp_path: Path, mottle) -> None:
    write_result(tmp_path, RunResult(**{**vars(RESULT), "failed": True, "stopped": "shard 0 is lost"}))
    assert mottle("status", tmp_path).out.startswith("digits: failed (shard 0 is lost) after 4.0 s")
    assert mottle("status", tmp_path, "--json").data["state"] == "failed"


# --- report ---------------------------------------------------------------------------------------------------------------------------


def test_report_writes_the_page_where_it_is_asked_to(live: Path, tmp_path: Path, mottle) -> None:
    pytest.importorskip("plotly")
    answer = mottle("report", live, "--out", tmp_path / "page.html", "--json").data
    assert answer == {"report": str(tmp_path / "page.html")}
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")


# --- export ---------------------------------------------------------------------------------------------------------------------------


def checkpoint(folder: Path, number: int, values: float | dict[str, float], **told: Any) -> None:
    run, tensors = Folder.at(folder), values if isinstance(values, dict) else {"w": values}
    saved = write_model(folder_of(run, number), {name: torch.full((3,), value) for name, value in tensors.items()})
    write_manifest(
        run,
        Manifest(
            number=number,
            version=(0, number),
            samples=100 * number,
            layout_digest="",
            num_shards=1,
            model=saved,
            optimizer=(),
            brain={},
            log_seq=0,
            **{"metrics": {}, **told},
        ),
    )


def test_export_takes_the_end_of_the_run_else_its_newest_checkpoint_or_the_one_named(tmp_path: Path, mottle) -> None:
    run, out = tmp_path / "run", tmp_path / "deep" / "model.safetensors"
    checkpoint(run, 1, 1.0)
    checkpoint(run, 2, 2.0)
    taken = mottle("export", run, "--out", out, "--json").data
    assert taken == {"file": str(out), "taken_from": "checkpoint 2, at 200 samples", "tensors": 1, "numbers": 3}
    assert load_file(out)["w"].tolist() == [2.0, 2.0, 2.0]
    assert "from checkpoint 1, at 100 samples" in mottle("export", run, "--out", out, "--checkpoint", 1).out
    assert load_file(out)["w"].tolist() == [1.0, 1.0, 1.0]
    save_file({"w": torch.full((3,), 9.0)}, run / "model.safetensors")
    assert mottle("export", run, "--out", out, "--json").data["taken_from"] == "the end of the run"
    assert load_file(out)["w"].tolist() == [9.0, 9.0, 9.0]


def test_of_models_in_rotation_export_takes_the_best_or_the_one_named_under_the_names_of_one(tmp_path: Path, mottle) -> None:
    run, out = tmp_path / "run", tmp_path / "model.safetensors"
    checkpoint(run, 1, {"0.w": 0.0, "1.w": 1.0}, models=2, metrics={"best_model": 1.0})
    checkpoint(run, 2, {"0.w": 0.0, "1.w": 1.0}, models=2)
    assert "from model 1 of checkpoint 1" in mottle("export", run, "--out", out, "--checkpoint", 1).out
    assert load_file(out)["w"].tolist() == [1.0, 1.0, 1.0]
    mottle("export", run, "--out", out, "--checkpoint", 1, "--model", 0)
    assert load_file(out)["w"].tolist() == [0.0, 0.0, 0.0]
    refused = mottle("export", run, "--out", out)
    assert (refused.code, "none of the 2 models was evaluated" in refused.err) == (2, True)
    assert "there is no model 2: they are 0 to 1" in mottle("export", run, "--out", out, "--model", 2).err
    for model in (0, 1):
        save_file({"w": torch.full((3,), 5.0 + model)}, run / f"model-{model}.safetensors")
    assert "from model 1 at the end of the run" in mottle("export", run, "--out", out, "--model", 1).out
    assert load_file(out)["w"].tolist() == [6.0, 6.0, 6.0]
    refused = mottle("export", run, "--out", out)
    assert (refused.code, "holds model-0.safetensors, model-1.safetensors: say with --model" in refused.err) == (2, True)
    assert "say with --model" in mottle("export", run, "--out", out, "--model", 2).err


def test_a_run_of_one_model_has_a_model_0_and_no_other(tmp_path: Path, mottle) -> None:
    save_file({"w": torch.full((3,), 9.0)}, tmp_path / "model.safetensors")
    assert mottle("export", tmp_path, "--out", tmp_path / "out", "--model", 0).code == 0
    assert mottle("export", tmp_path, "--out", tmp_path / "out", "--model", 1).code == 2


def test_export_of_a_damaged_or_missing_checkpoint_is_refused(tmp_path: Path, mottle) -> None:
    checkpoint(tmp_path, 1, 1.0)
    path = tmp_path / "checkpoints" / "000001" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    refused = mottle("export", tmp_path, "--out", tmp_path / "out")
    assert (refused.code, "its digest differs" in refused.err) == (2, True)
    assert "holds no whole checkpoint" in mottle("export", tmp_path, "--out", tmp_path / "out", "--checkpoint", 5).err
    assert not (tmp_path / "out").exists()


# --- place ----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def problem(tmp_path: Path) -> Path:
    path = tmp_path / "graph.json"
    save_problem(small_problem(Random(1)), path)
    return path


def test_place_writes_a_plan_and_says_how_long_a_step_takes(problem: Path, tmp_path: Path, mottle) -> None:
    out = tmp_path / "plan.json"
    answer = mottle("place", problem, "--out", out, "--picture", tmp_path / "plan.html", "--json").data
    plan = load_plan(out)
    assert answer["assignment"] == dict(plan.assignment)
    assert answer["step_ns"] == plan.makespan * plan.problem.tick_ns
    assert answer["files"] == [str(out), str(tmp_path / "plan.html")]
    assert f"wrote {out}" in mottle("place", problem, "--out", out, "--explain", "--bounds").out


def test_place_tells_wrong_names_and_what_fits_nowhere(problem: Path, mottle) -> None:
    assert "m-sct" in mottle("place", problem, "--algorithm", "m-sctt").err
    assert "did you mean 'guarded'" in mottle("place", problem, "--coarsen", "guardet").err
    content = json.loads(problem.read_text())
    for device in content["devices"]:
        device["mem"] = 0
    problem.write_text(json.dumps(content))
    failed = mottle("place", problem)
    assert failed.code == 1
    assert "no placement was found" in failed.err


def test_the_starter_is_a_job_that_says_what_it_can_do(tmp_path: Path, mottle) -> None:
    mottle("new", tmp_path / "first")
    assert yaml.safe_load((tmp_path / "first" / "job.yaml").read_text())["strategy"] == "sync"

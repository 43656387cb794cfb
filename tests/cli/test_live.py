"""Jobs from files on a real local Ray: the examples shortened, the starter, a run that is resumed, a crew that is changed, Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from mottle.checkpoint import read_manifest
from mottle.observe import read_result
from mottle.sdk import attach, jobfile
from mottle.storage import Folder

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "digits"
pytestmark = pytest.mark.ray


# Fewer workers and samples than the files say; who takes part stays: a slow one, a liar, honest ones.
SHORTENED = ["until={samples: 768}", "evaluate_every=384", "batch_size=32"]
FEWER = {
    "sync": ["fleet.workers.count=2"],
    "async": ["fleet.fast.count=1"],
    "zenopp": ["fleet.honest.count=1", "shards=1"],
}


def setting(*assignments: str) -> list[str]:
    return [word for each in assignments for word in ("--set", each)]


@pytest.mark.usefixtures("local_ray", "own_modules")
@pytest.mark.parametrize("name", FEWER)
def test_an_example_shortened_trains_and_leaves_everything(name: str, tmp_path: Path, mottle) -> None:
    out = tmp_path / name
    (out / "events").mkdir(parents=True)
    (out / "events" / "00000.arrow").write_text("of a run that was here before")
    where = out.as_uri() if name == "sync" else out
    done = mottle("train", EXAMPLES / f"{name}.yaml", "--out", where, "--replace", *setting(*SHORTENED, *FEWER[name]), "--json")
    assert done.code == 0, done.err
    assert done.data["error"] is None
    result = read_result(out)
    assert result is not None
    assert result.problems() == []
    assert (result.samples, result.run) == (768, name)
    assert result.metrics["test_accuracy"] is not None
    assert done.data["result"]["samples"] == 768
    assert {"result.json", "job.json", "model.safetensors", "metrics.parquet", "report.html"} <= {path.name for path in out.iterdir()}
    assert sum(tensor.numel() for tensor in load_file(out / "model.safetensors").values()) == 9930
    assert "test accuracy" in done.err
    assert "samples          768" in mottle("status", out).out


@pytest.mark.usefixtures("local_ray", "own_modules")
def test_the_starter_learns_and_is_resumed_for_more(tmp_path: Path, mottle) -> None:
    folder = tmp_path / "first"
    mottle("new", folder)
    out = folder / "runs" / "first"
    first = mottle("train", folder / "job.yaml", *setting("until.epochs=2", "checkpoint.every=1500", "evaluate_every=1500"))
    assert first.code == 0, first.err
    assert f"model   {out}/model.safetensors" in first.out
    refused = mottle("train", folder / "job.yaml")
    assert (refused.code, "holds a run already" in refused.err) == (2, True)
    more = mottle("resume", out, *setting("until.epochs=4", "fleet.workers.count=1", "shards=2"), "--json")
    assert more.code == 0, more.err
    result = more.data["result"]
    assert result["samples"] == 6000
    assert [(epoch["applied"], epoch["missed"], epoch["repeated"]) for epoch in result["epochs"]] == [(1500, 0, 0)] * 4
    assert result["metrics"]["test_accuracy"] > 0.7
    assert jobfile.recorded(out).spec.until.epochs == 4
    assert mottle("export", out, "--out", tmp_path / "model", "--json").data["numbers"] == 64 * 64 + 64 + 640 + 10


@pytest.mark.usefixtures("local_ray", "own_modules")
def test_a_detached_run_is_found_by_name_and_its_crew_is_changed_and_it_survives_its_coordinator(tmp_path: Path, mottle) -> None:
    mottle("new", tmp_path / "first")
    out = tmp_path / "left-alone"
    changed = setting("until.epochs=100000", "fleet.workers.count=[1, 2]")
    left = mottle("train", tmp_path / "first" / "job.yaml", "--out", out, "--detach", *changed, "--json")
    assert left.code == 0, left.err
    assert left.data == {"run": str(out), "name": "left-alone", "state": "live"}
    try:
        twice = mottle("train", tmp_path / "first" / "job.yaml", "--out", tmp_path / "other" / "left-alone", "--detach", *changed)
        assert (twice.code, "a detached run 'left-alone' goes on already: attach to it" in twice.err) == (2, True)
        assert [row["id"] for row in mottle("workers", "list", "left-alone", "--json").data["workers"]] == ["w0"]
        assert mottle("workers", "add", "left-alone", "1", "--json").data == {"added": ["w1"]}
        assert "did you mean 'workers'?" in mottle("workers", "add", "left-alone", "--group", "worker").err
        too_many = mottle("workers", "add", "left-alone", "5")
        assert (too_many.code, "may have 2 workers" in too_many.err) == (1, True)
        assert mottle("workers", "remove", "left-alone", "w0", "--json").data == {"leaving": "w0"}
        assert "no worker 'w9' in the crew" in mottle("workers", "remove", "left-alone", "w9").err
        assert "w0" in mottle("workers", "list", "left-alone").out
        psutil.Process(attach("left-alone").places()["coordinator"].pid).kill()
        assert mottle("workers", "add", "left-alone", "1", "--json").data == {"added": ["w2"]}
        assert any(event.kind == "coordinator" for event in attach("left-alone").progress.events)
    finally:
        attach("left-alone").stop("enough")
    ended = mottle("attach", "left-alone", "--json")
    assert ended.code == 0, ended.err
    assert ended.data["result"]["stopped"] == "enough"
    gone = mottle("workers", "list", "left-alone")
    assert (gone.code, "no detached run 'left-alone' here" in gone.err) == (2, True)


@pytest.mark.usefixtures("local_ray", "own_modules")
def test_a_crew_that_the_cluster_cannot_hold_is_told_before_anything_is_written(tmp_path: Path, mottle) -> None:
    out = tmp_path / "run"
    refused = mottle("train", EXAMPLES / "sync.yaml", "--out", out, "--set", "fleet.workers.resources={unobtainium: 2}")
    assert refused.code == 2
    assert "the crew needs 6 unobtainium (the cluster has 0)" in refused.err
    assert not out.exists()


class Terminal:
    """The starter's job with one worker, in a session of its own; what it starts belongs to that and is no other process's child."""

    def __init__(self, folder: Path, *assignments: str) -> None:
        command = [sys.executable, "-c", "from mottle.cli.main import app; app()", "train", str(folder / "first" / "job.yaml")]
        command += ["--out", str(folder / "run"), *setting("until.epochs=100000", "fleet.workers.count=1", "checkpoint={}", *assignments)]
        environment = {**os.environ, "MOTTLE_TEST_FORK_SERVER": ""}
        self._process = subprocess.Popen(
            [*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )
        self.said = ""
        self._helpers: list[psutil.Process] = []

    def wait_for(self, word: str) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.said += line
            if word in line:
                return
        pytest.fail(f"it ended before it said {word!r}: {self.said}")

    def ctrl_c(self) -> None:
        """A terminal sends the signal to every process of the command, so Ray's own get it too."""
        self._helpers += psutil.Process(self._process.pid).children(recursive=True)
        os.killpg(self._process.pid, signal.SIGINT)

    def end(self) -> tuple[int, str]:
        """Exit code and standard output; every process that the command started is gone by then."""
        printed, said = self._process.communicate(timeout=150)
        self.said += said
        assert self._helpers, "the run had processes of its own"
        _, alive = psutil.wait_procs(self._helpers, timeout=60)
        assert alive == [], "processes of the run outlived it"
        return self._process.returncode, printed


def test_ctrl_c_saves_releases_everything_and_is_130(tmp_path: Path, mottle) -> None:
    mottle("new", tmp_path / "first")
    terminal = Terminal(tmp_path)
    terminal.wait_for("progress")
    terminal.ctrl_c()
    code, printed = terminal.end()
    assert (code, "Traceback" in terminal.said) == (130, False), terminal.said
    result = json.loads(printed)["result"]
    assert (result["stopped"], result["updates"]["lost"]) == ("interrupted by the user", 0)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["000001"]
    manifest = read_manifest(Folder.at(tmp_path / "run"), 1)
    assert (manifest.samples, manifest.version[1]) == (result["samples"], result["versions"]), "it holds every update that was applied"
    assert mottle("status", tmp_path / "run", "--json").data["state"] == "ended"


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path, mottle) -> None:
    """With a worker that is busy for an hour, a run that ends well would take as long."""
    mottle("new", tmp_path / "first")
    terminal = Terminal(tmp_path, "fleet.workers.delay_s=3600")
    terminal.wait_for("progress")
    terminal.ctrl_c()
    terminal.wait_for("press Ctrl-C again to end at once")
    terminal.ctrl_c()
    code, printed = terminal.end()
    assert (code, "Traceback" in terminal.said) == (130, False), terminal.said
    assert json.loads(printed) == {"error": "interrupted", "exit_code": 130}
    assert not (tmp_path / "run" / "result.json").exists()
    assert mottle("status", tmp_path / "run", "--json").data["state"] in ("live", "silent")  # its last heartbeat may be fresh still

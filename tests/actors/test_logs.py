"""Where the output of a run's processes goes: whole programs, for output is a matter of the process; no Ray here."""

import subprocess
import sys
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from mottle.actors import logs
from mottle.actors.logs import KEPT_BYTES, LogFiles
from mottle.storage import Folder

PROGRAM = """
import os, sys
from mottle.actors import logs

logs._this_run = lambda: "session job"
folder, coordinators = sys.argv[1:]
sent = []
files = logs.LogFiles(coordinators)
output = logs.Output()
output.keep(folder, "w3", lambda name, data: files.add(name, data))
print("from Python")
os.system("echo from a program that it started")
print("an error", file=sys.stderr)
sys.stdout.flush()
if folder != coordinators:
    output.close()
os.abort()
"""


def run(folder: Path, coordinators: Path) -> str:
    done = subprocess.run([sys.executable, "-P", "-c", PROGRAM, str(folder), str(coordinators)], capture_output=True, text=True)
    assert done.returncode < 0, done.stderr
    return (coordinators / "logs" / "w3.log").read_text()


@pytest.mark.parametrize("shared", [True, False], ids=["sees the coordinator's folder", "has none or one of its own"])
def test_everything_that_a_process_prints_is_in_the_runs_folder(tmp_path: Path, shared: bool) -> None:
    text = run(tmp_path / "run" if shared else tmp_path / "elsewhere", tmp_path / "run")
    for words in ("w3 is process", "from Python", "from a program that it started", "an error"):
        assert words in text
    assert not (tmp_path / "elsewhere").exists()


def test_a_full_disk_costs_lines_and_raises_out_of_no_print(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "w3.log").symlink_to("/dev/full")
    program = PROGRAM.replace("os.abort()", "print('word ' * 100_000)\nopen(folder + '/reached', 'w').close()\nos._exit(3)")
    done = subprocess.run([sys.executable, "-P", "-c", program, str(tmp_path), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert (tmp_path / "reached").exists()


def test_a_folder_of_an_earlier_run_on_this_host_is_not_taken_for_this_ones(tmp_path: Path) -> None:
    stale = tmp_path / "stale" / "logs"
    stale.mkdir(parents=True)
    (stale / "coordinator.mark").write_text("another session")
    assert "from Python" in run(tmp_path / "stale", tmp_path / "run")
    assert [path.name for path in stale.iterdir()] == ["coordinator.mark"]


def test_where_storage_cannot_append_the_newest_part_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_this_run", lambda: "this one")
    files = LogFiles(Folder(pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem()), "run"))
    log = tmp_path / "run" / "logs" / "w0.log"
    files.add("w0", b"first\n")
    assert log.read_bytes() == b"first\n"
    files.add("w0", b"x" * KEPT_BYTES)
    assert log.read_bytes() == b"first\n", "written anew every ten seconds at most"
    files.close()
    assert log.read_bytes() == b"x" * KEPT_BYTES


def test_a_folder_that_cannot_be_written_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logs, "_this_run", lambda: "this one")
    (tmp_path / "run").write_text("a file in the place of the folder")
    files = LogFiles(str(tmp_path / "run"))
    files.add("w0", b"words")
    files.close()
    said = capsys.readouterr().out
    assert "logs cannot be kept in" in said
    assert "a part of w0.log is lost" in said

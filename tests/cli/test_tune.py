"""`mottle tune`: from two files to a table, a page and the best job."""

import csv
from pathlib import Path

import pytest
from tests.tune import small

from mottle.sdk import jobfile

SPACE = "space: {optimizer.lr: {grid: [0.1, 1e-3, 1e-6]}, until.epochs: 1}\nmetric: test_loss\nmode: min\nconcurrent: 1\n"


@pytest.fixture
def space(tmp_path: Path) -> Path:
    file = tmp_path / "space.yaml"
    file.write_text(SPACE)
    return file


@pytest.mark.ray
@pytest.mark.usefixtures("cold_ray", "own_modules")
def test_a_sweep_leaves_its_table_its_page_and_the_best_job(tmp_path: Path, space: Path, mottle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AIR_NEW_OUTPUT", "0")
    job, out = small.job_file(tmp_path), tmp_path / "sweep"
    foretell = ("--set", "fidelity.simulate.candidates=3", "--set", "trials=2")
    done = mottle("tune", space, "--job", job, "--out", out, "--json", "--set", "share=equal", *foretell)
    assert done.code == 0, done.err
    assert "simulated 3 points, 2 are run; the best is foretold to have test_loss" in done.err
    assert 0 < done.data["fleet_busy"] <= 1
    assert [trial["state"] for trial in done.data["trials"]] == ["done", "done"]
    assert done.data["best"]["values"]["optimizer.lr"] == 0.1
    assert done.data["best_job"] == str(tmp_path / "small.best.yaml")
    read = jobfile.read(done.data["best_job"])
    assert (read.spec.optimizer, read.spec.until.epochs) == ({"sgd": {"lr": 0.1}}, 1)
    assert len(list(csv.DictReader((out / "trials.csv").open()))) == 2
    assert "Parallel coordinates" in (out / "sweep.html").read_text()
    assert "trial 1 done" in done.err
    again = mottle("tune", space, "--job", job, "--out", out)
    assert (again.code, "holds a sweep already; go on with --resume" in again.err) == (2, True)
    resumed = mottle("tune", space, "--job", job, "--out", out, "--resume", "--json")
    assert (resumed.code, resumed.data["best"]) == (0, done.data["best"])


def test_bad_input_is_told_before_anything_is_written(tmp_path: Path, space: Path, mottle) -> None:
    job = small.job_file(tmp_path)
    out = tmp_path / "sweep"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for arguments, message in (
        (("--set", "metric=accuracy"), "the job does not report 'accuracy'; did you mean 'test_accuracy'?"),
        (("--set", "space={}"), "space"),
        (("--set", "space={optimizer.lrr: 1}"), "did you mean 'lr'?"),
        (("--resume",), "holds no sweep to go on with"),
        (("--out", tmp_path / "mine", "--replace"), "holds files and no sweep"),
        (("--best", tmp_path / "elsewhere" / "best.yaml"), "written beside it"),
    ):
        done = mottle("tune", space, "--job", job, *(() if "--out" in arguments else ("--out", out)), *arguments)
        assert (done.code, message in done.err) == (2, True), done.err
    assert not out.exists()
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]

"""`mottle study robustness`: the matrix, the files, and the command that repeats a training bit for bit."""

import csv
import shlex
from pathlib import Path

import pytest

SMALL = ("--tasks", "convex", "--workers", 10, "--rounds", 6, "--seeds", 2, "--processes", 1)


@pytest.fixture
def study(mottle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs `mottle study robustness` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *options: mottle("study", "robustness", *options)


def lines_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_it_shows_the_matrix_and_writes_tables_and_pictures(study, tmp_path: Path) -> None:
    done = study("--rules", "mean,median", "--attacks", "honest,{sign_flip: {scale: 10}}", *SMALL, "--out", "first")
    assert done.code == 0, done.err
    assert "convex: final test accuracy in percent, mean over seeds (10 workers, 2 faulty, 6 rounds, 2 seeds)" in done.out
    assert " 2 sign_flip scale=10\n" in done.out
    files = {path.name for path in (tmp_path / "first").iterdir()}
    assert files == {"cells.csv", "matrix-convex.csv", "heatmap-convex.png", "heatmap-convex.html"}
    matrix = {line["rule"]: line for line in lines_of(tmp_path / "first" / "matrix-convex.csv")}
    shown = {words[0]: words[1:] for line in done.out.splitlines() if (words := line.split()) and words[0] in matrix and len(words) == 3}
    assert shown == {
        rule: [f"{100 * float(line[attack]):.0f}" for attack in ("honest", "sign_flip scale=10")] for rule, line in matrix.items()
    }


def test_what_is_printed_repeats_the_training_bit_for_bit(study, tmp_path: Path) -> None:
    """Options whose JSON a careless reader takes for text (1e-05) are among them."""
    done = study("--rules", "krum,{zeno: {rho: 0.00001}}", "--attacks", "gaussian", *SMALL, "--out", "first")
    before = {line["repeat"]: line for line in lines_of(tmp_path / "first" / "cells.csv")}
    (printed,) = [line.strip() for line in done.out.splitlines() if line.startswith("  mottle ")]
    zeno = next(command for command, line in before.items() if line["rule"].startswith("zeno"))
    for command in (printed, zeno):
        words = shlex.split(command)
        assert words[:3] == ["mottle", "study", "robustness"]
        again = study(*words[3:], "--processes", 1, "--json")
        assert again.code == 0, again.err
        (cell,) = again.data["cells"]
        assert cell["parameters"] == before[command]["parameters"]
        assert f"{cell['accuracy']:.6f}" == before[command]["accuracy"]
        assert cell["repeat"] == command
    assert len({line["parameters"] for line in before.values()}) == len(before)


def test_a_rule_that_cannot_survive_its_faults_is_told_of(study) -> None:
    done = study("--rules", "mean,{trimmed_mean: {trim: 1}},bulyan,median", "--attacks", "zero", *SMALL, "--byzantine", "0.3", "--json")
    assert done.code == 0
    assert [warning.split(" survives ")[0] for warning in done.data["warnings"]] == ["trimmed_mean", "bulyan"]
    assert "declare more" in done.err
    assert done.err.count("warning: ") == 2
    (bulyan,) = {cell["note"] for cell in done.data["cells"] if "bulyan" in cell["rule"]}
    assert "n >= 4f + 3" in bulyan


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--rules", "medain"), "did you mean 'median'"),
        (("--attacks", "{ipn: {}}"), "did you mean 'ipm'"),
        (("--attacks", "{ipm: {epsilom: 1}}"), "did you mean 'epsilon'"),
        (("--rules", "{krum"), "names with commas"),
        (("--rules", ""), "at least one rule"),
        (("--tasks", "digit"), "did you mean 'digits'"),
        (("--byzantine", "1.5"), "byzantine_share must lie in [0, 1)"),
        (("--seed-list", "0,x"), "whole numbers with commas"),
        (("--seed-list", "0,-1"), "0 or more"),
    ],
    ids=str,
)
def test_what_cannot_be_is_told_before_anything_is_trained(options: tuple[str, ...], complaint: str, study, tmp_path: Path) -> None:
    outcome = study(*options)
    assert (outcome.code, outcome.out) == (2, "")
    assert complaint in outcome.err
    assert list(tmp_path.iterdir()) == []

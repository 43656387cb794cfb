"""`docs/robustness.md`: its code runs, its commands parse and run, and its tables are those of the code."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mottle import aggregation

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "robustness.md").read_text()
SMALL = "--rounds 1 --seeds 1 --workers 12 --rules mean,median --attacks honest --processes 1 --json"
"""Over what the page says: the last of several equal options counts."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def run(command: list[str], folder: Path) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def table_under(heading: str) -> list[list[str]]:
    """Cells of the first table of a section, without its head."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_code_runs(tmp_path: Path) -> None:
    (tmp_path / "page.py").write_text("\n".join(blocks("python")))
    shown = run([sys.executable, "page.py"], tmp_path).splitlines()
    assert shown[-2] == "8"
    assert "declare more" in shown[-1]


def test_the_study_commands_run(tmp_path: Path) -> None:
    lines = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("mottle study")]
    assert len(lines) == 2
    for line in lines:
        told = json.loads(run(["bash", "-c", f"{line} {SMALL}"], tmp_path))
        assert [matrix["task"] for matrix in told["matrices"]] == ["digits"]


@pytest.mark.parametrize("share", [0.2, 0.4])
def test_the_matrix_has_every_rule_and_attack_of_its_command(share: float) -> None:
    """Names only: the numbers are measured, and take minutes."""
    from mottle.study.robustness import DEFAULT_ATTACKS, DEFAULT_RULES

    section = PAGE.split("\n## The matrix\n")[1].split("\n## ")[0]
    part = section.split("\n\n| rule |")[1 if share == 0.2 else 2].split("\n\n")[0].splitlines()
    assert part[0].count("|") == len(DEFAULT_ATTACKS)
    names = [next(iter(rule)) for rule in DEFAULT_RULES if share == 0.2 or "bulyan" not in rule]
    assert [line.strip("|").split("|")[0].split("+")[0].strip() for line in part[2:]] == names


def test_the_guarantees_are_those_of_the_catalogue() -> None:
    expected = [
        [f"`{entry.name}`", entry.condition, str(aggregation.breakdown(entry.name, 20).largest), entry.guarantee, entry.source]
        for entry in aggregation.catalogue()
    ]
    assert table_under("What is guaranteed") == expected


def test_mottle_passes_every_case_of_the_correctness_table_as_printed(tmp_path: Path) -> None:
    printed = run([sys.executable, str(ROOT / "benchmarks" / "correctness.py")], tmp_path)
    measured = [line for line in printed.splitlines() if "| Mottle |" in line]
    assert len(measured) == 11
    for line in measured:
        assert line in PAGE
        assert {cell.strip() for cell in line.strip("|").split("|")[2:]} <= {"ok", ""}

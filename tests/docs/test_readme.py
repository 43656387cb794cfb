"""The README's and the docs' code blocks run as they stand, from an empty directory."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(document: str, language: str) -> list[str]:
    found = [code for kind, code in BLOCK.findall((ROOT / document).read_text()) if kind == language]
    assert found, f"{document} has no {language} block"
    return found


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False, env=environment)


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_the_tour_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As a script, on the Ray that this process has."""
    (tmp_path / "tour.py").write_text("\n".join(blocks("README.md", "python")))
    monkeypatch.chdir(tmp_path)
    runpy.run_path("tour.py", run_name="__main__")
    shown = capsys.readouterr().out
    accuracies = [float(line.split()[0]) for line in shown.splitlines() if line.startswith("0.")]
    assert len(accuracies) == 2, shown
    assert min(accuracies) > 0.8  # guessing gives 0.5


@pytest.mark.ray
def test_the_commands_of_the_readme_run(tmp_path: Path) -> None:
    lines = [line for block in blocks("README.md", "bash") for line in block.splitlines() if line.startswith("mottle")]
    for line in lines:
        done = run(["bash", "-c", line], tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stderr[-3000:]}"


def test_the_targets_of_the_readme_exist() -> None:
    targets = re.findall(r"^make (\w+)", "\n".join(blocks("README.md", "bash")), re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text()
    assert targets
    assert [target for target in targets if f"\n{target}:" not in makefile] == []


def test_links_between_documents_lead_somewhere() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\((?!http)([^)#]+)", document.read_text()):
            assert (document.parent / link).exists(), f"{document.name} links to {link}"

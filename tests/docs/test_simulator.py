"""The code blocks of `docs/simulator.md` run as they stand, in the order of the page, from an empty directory."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "simulator.md").read_text()


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"the page has no {language} block"
    return found


def run(command: list[str], folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False, env={**os.environ, "PATH": path})
    assert done.returncode == 0, f"{command}\n{done.stderr[-3000:]}"
    return done.stdout


def test_the_commands_run_on_the_pages_own_fleet(tmp_path: Path) -> None:
    (fleet,) = blocks("yaml")
    (tmp_path / "fleet.yaml").write_text(fleet)
    compared, learnt = (run(["bash", "-ec", block], tmp_path) for block in blocks("bash"))
    assert {line.split()[0] for line in compared.splitlines()[1:6]} == {"sync", "ssp", "async", "fedbuff", "abs_sgd"}
    assert "time to target" in learnt
    out = tmp_path / "runs" / "simulated"
    assert {"async.timeline.html", "async.trace.json", "simulation.json"} <= {file.name for file in out.iterdir()}
    reached = {each["strategy"]: each["target"]["seconds"] for each in json.loads((out / "simulation.json").read_text())["strategies"]}
    assert reached["sync"] < reached["fedbuff"]
    assert reached["async"] is None, "the page says that it never gets there"


def test_the_python_block_runs(tmp_path: Path) -> None:
    (tmp_path / "block.py").write_text("\n".join(blocks("python")))
    lines = run([sys.executable, "block.py"], tmp_path).splitlines()
    assert [line.split()[0] for line in lines] == ["fast-0", "fast-1", "fast-2", "slow-0"]


def test_every_key_of_a_fleet_file_is_on_the_page() -> None:
    from dataclasses import fields

    from mottle.simulate import Fleet, Workers

    for cls in (Fleet, Workers):
        for each in fields(cls):
            assert f"`{each.name}`" in PAGE or f"{each.name}:" in PAGE, f"{each.name} is not told of"

"""docs/placement.md: its blocks run in order in an empty folder, and its pictures are the ones that they make.

After a change that moves the pictures: run this test with MOTTLE_RECORD=1, look at docs/images/placement-*.svg, commit them.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PICTURES = ("placement-towers.svg", "placement-repaired.svg", "placement-gpipe.svg", "placement-1f1b.svg")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page's code has been run."""
    folder = tmp_path_factory.mktemp("page")
    blocks = BLOCK.findall((ROOT / "docs" / "placement.md").read_text())
    (folder / "page.py").write_text("\n".join(code for kind, code in blocks if kind == "python"))
    (folder / "page.sh").write_text("set -e\n" + "\n".join(code for kind, code in blocks if kind == "bash"))
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    for command in ([sys.executable, "page.py"], ["bash", "page.sh"]):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
        (folder / f"{command[-1]}.out").write_text(done.stdout)
    return folder


def test_the_page_runs_and_says_what_it_promises(folder: Path) -> None:
    said = (folder / "page.py.out").read_text()
    assert "ms on gpu0, gpu1" in said
    assert "at most 1.0" in said
    assert re.search(r"^800Mi  auto +\d\d\.\d ms on gpu0; [1-9]\.\d ms of it again$", said, re.MULTILINE)
    assert re.search(r"^800Mi  keep +\d\d\.\d ms on gpu0, gpu1; 0\.0 ms", said, re.MULTILINE)
    assert re.search(r"^export \d+ \S+ \{'(convolution|matmul)': \d+\}$", said, re.MULTILINE)
    assert "a step of" in (folder / "page.sh.out").read_text()


@pytest.mark.parametrize("name", PICTURES)
def test_the_pictures_of_the_page_are_the_ones_that_its_code_makes(folder: Path, name: str) -> None:
    made, shown = folder / name, ROOT / "docs" / "images" / name
    if os.environ.get("MOTTLE_RECORD"):
        shutil.copy(made, shown)
    ElementTree.fromstring(made.read_text())
    assert made.read_text() == shown.read_text()

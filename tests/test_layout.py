"""The shape of the house: roots are no packages, and the core stays light."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE_ROOTS = ("platform", "actors", "placement", "tune", "clusters")


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_standard_platform_module_is_the_one_imported_at_the_root() -> None:
    done = run_python("import platform; print(platform.system())")
    assert done.stdout.strip() == "Linux", done.stderr


@pytest.mark.parametrize("root", SOURCE_ROOTS)
def test_no_module_sits_directly_in_a_root(root: str) -> None:
    assert list((ROOT / root).glob("*.py")) == []
    assert list((ROOT / root / "mottle").glob("*.py")) == []


@pytest.mark.parametrize("root", ["actors", "placement", "tune", "clusters"])
def test_a_root_is_not_importable_as_a_package_of_ours(root: str) -> None:
    assert run_python(f"import {root}.mottle.{root} as m; assert m.__file__ is None").returncode != 0


@pytest.mark.parametrize("package", ["mottle.core", "mottle.strategies"])
def test_importing_the_pure_packages_loads_neither_ray_nor_torch(package: str) -> None:
    done = run_python(f"import sys, {package}; print(sorted({{'ray', 'torch', 'pyarrow'}} & set(sys.modules)))")
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


WALL_CLOCK = re.compile(r"\btime\.time(_ns)?\(|datetime\.(now|today|utcnow)\(|clock_gettime|CLOCK_REALTIME")
SHOWN_TO_PEOPLE = {"status.py", "chronicle.py"}
RAYS_OWN_TIMES = {"drains.py"}


def test_no_decision_reads_a_clock_that_machines_may_disagree_on() -> None:
    """But for the heartbeat that `mottle status` shows, and the time at which Ray says that a machine will be taken away."""
    readers = {path.name for root in SOURCE_ROOTS for path in (ROOT / root).rglob("*.py") if WALL_CLOCK.search(path.read_text())}
    assert readers == SHOWN_TO_PEOPLE | RAYS_OWN_TIMES

"""A machine of a shared fleet is taken away, on a real Ray of several (simulated) nodes, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.ray


def test_a_lent_worker_leaves_its_machine_before_that_is_taken_away_and_another_takes_its_place(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], str(ROOT)])}
    driver = [sys.executable, str(Path(__file__).with_name("machines_driver.py")), str(tmp_path)]
    done = subprocess.run(driver, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen == {"refused": "", "present": ["w1", "w2"], "on_it": [], "killed": []}

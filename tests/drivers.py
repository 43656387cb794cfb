"""Scripts that a test runs in a process of their own, because they start a Ray that no other test may share."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def seen_by(driver: Path, folder: Path) -> Any:
    """What a script, given a folder to write to, says on the last line of its output, as JSON."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], str(ROOT)])}
    command = [sys.executable, str(driver), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])

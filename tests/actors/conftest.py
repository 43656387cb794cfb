"""The folder above the tests, so that `tests.actors.live` has one name here and in the workers' processes."""

import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[2])
if ROOT not in sys.path:
    sys.path.append(ROOT)

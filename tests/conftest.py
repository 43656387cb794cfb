"""Shared fixtures. Child processes of tests find the sources through PYTHONPATH."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE_ROOTS = [str(ROOT / root) for root in ("platform", "actors", "placement", "tune", "clusters")]
os.environ["PYTHONPATH"] = os.pathsep.join([*SOURCE_ROOTS, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

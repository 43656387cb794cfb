"""All benchmarks, one after the other; their output becomes `docs/benchmarks.md`.

python -m benchmarks [--only step_time updates ...]
"""

import argparse
import datetime
import os
import platform
import subprocess
import sys
from pathlib import Path

import psutil
import torch

HERE = Path(__file__).resolve().parent
DOCUMENT = HERE.parent / "docs" / "benchmarks.md"
BENCHMARKS = {
    "updates": "Updates a second with a tiny model",
    "step_time": "A synchronous step against DistributedDataParallel",
    "memory": "Peak memory of workers and shards",
    "failures": "Processes that die, and what backups cost",
    "aggregation": "Robust rules against the mean",
    "correctness": "Rounds that break robust rules",
    "simulator": "Events a second of the simulator",
    "placement": "Placing operator graphs",
    "placement_models": "Predicted steps of well-known models under every placer",
}


def machine() -> str:
    memory = psutil.virtual_memory().total / 2**30
    return f"{os.cpu_count()} cores ({platform.machine()}), {memory:.0f} GiB, Python {platform.python_version()}, torch {torch.__version__}"


def section(name: str) -> str:
    """The output of one benchmark under its heading; a failure is shown, not hidden."""
    done = subprocess.run([sys.executable, str(HERE / f"{name}.py")], capture_output=True, text=True, check=False)
    failure = "" if done.returncode == 0 else f"\n(ended with exit code {done.returncode}: {done.stderr.strip().splitlines()[-1:]})"
    return f"## {BENCHMARKS[name]}\n\n`python benchmarks/{name}.py`\n\n```text\n{done.stdout.rstrip()}{failure}\n```\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS))
    names = parser.parse_args().only
    text = f"# Benchmarks\n\nMade by `make bench` on {datetime.date.today()}: {machine()}.\n\n"
    for name in names:
        print(f"{name} ...", flush=True)
        text += section(name) + "\n"
    if set(names) == set(BENCHMARKS):
        DOCUMENT.write_text(text.rstrip() + "\n")
        print(f"wrote {DOCUMENT}")
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

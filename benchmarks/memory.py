"""Peak memory of live workers and shards in multiples of the parameters' bytes, beside what they are allowed.

    python benchmarks/memory.py [--params 25] [--steps 12] [--optimizer sgd] [--micro-batches 1] [--shards 2]

Trains the perceptron of `step_time.py` with 2 workers, synchronously, and a second time with a ten-thousandth of its parameters; the
difference is what the parameters cost, for everything else is alike. Private memory is `RssAnon` of each process, the largest value seen
while sampling all the time. What lies in Ray's object store is nobody's private memory and is counted once, as the bytes of live objects
that the store reports, the largest value seen: the versions that shards have published. (Between hosts a worker's update lies there too
while it is pushed; within one the shards read it where it is.) The first steps are left out there: the vector that the run started from is
in the store as well until every actor has it. Ray deletes what nobody refers to any more once a second; what the store takes up with that
is printed beside.
`VmHWM`, printed for comparison, counts every shared page that a process has ever looked at as that process's own.
"""

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._private.internal_api import get_memory_info_reply, get_state_from_address
from step_time import build, dataset, loss
from table import tell

from mottle.sdk import Run, Trainer, WorkerGroup

SLOTS = {"sgd": 0, "momentum": 1, "adam": 2}
SPECS: dict[str, dict[str, Any]] = {
    "sgd": {"sgd": {"lr": 0.01}},
    "momentum": {"sgd": {"lr": 0.01, "momentum": 0.9}},
    "adam": {"adam": {"lr": 0.001}},
}
WORKERS = 2
BATCH = 4
FIRST_STEPS = 3
SAMPLE_S = 0.01
ASK_S = 0.5


@dataclass
class Peaks:
    """Largest values seen, in bytes."""

    private: dict[tuple[str, int], int] = field(default_factory=lambda: defaultdict(int))
    """By role and process."""
    high_water: dict[tuple[str, int], int] = field(default_factory=lambda: defaultdict(int))
    live: int = 0
    store: int = 0

    def of(self, role: str) -> list[int]:
        return sorted(value for (whose, _), value in self.private.items() if whose == role)


def watch(run: Run) -> Peaks:
    """Sample all actors of the run until it has finished."""
    peaks, state = Peaks(), get_state_from_address(ray.get_runtime_context().gcs_address)
    actors: dict[int, str] = {}
    asked_s, started = 0.0, False
    while time.monotonic() - asked_s < ASK_S or not run.finished:
        if time.monotonic() - asked_s > ASK_S:
            actors, started, asked_s = find(), run.progress.version >= FIRST_STEPS, time.monotonic()
        for pid, role in actors.items():
            private, high_water = resident(pid)
            peaks.private[role, pid] = max(peaks.private[role, pid], private)
            peaks.high_water[role, pid] = max(peaks.high_water[role, pid], high_water)
        if started:
            stats = get_memory_info_reply(state).store_stats
            peaks.live = max(peaks.live, stats.object_store_bytes_primary_copy)
            peaks.store = max(peaks.store, stats.object_store_bytes_used)
        time.sleep(SAMPLE_S)
    return peaks


def resident(pid: int) -> tuple[int, int]:
    """Private bytes now, and most of all bytes ever; zeros for a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    values = dict(line.split(":", 1) for line in lines)
    private, high_water = (int(values.get(name, "0").split()[0]) * 1024 for name in ("RssAnon", "VmHWM"))
    return private, high_water


def find() -> dict[int, str]:
    """Process ids of the run's actors with their roles."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        try:
            title = " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            continue
        for role in ("TrainingWorker", "ParameterShard"):
            if title.startswith(f"ray::{role}"):
                found[process.pid] = role
    return found


def measure(params: float, steps: int, optimizer: str, micro_batches: int, shards: int) -> Peaks:
    """Peaks of one run with so many million parameters."""
    with tempfile.TemporaryDirectory() as folder:
        run = Trainer(
            partial(build, params),
            loss,
            dataset(WORKERS * BATCH * micro_batches * steps),
            optimizer=SPECS[optimizer],
            batch_size=WORKERS * BATCH * micro_batches,
            micro_batch_size=BATCH,
            until={"epochs": 1},
            strategy="sync",
            scaling_config=WorkerGroup(count=WORKERS, num_cpus=1),
            shards=shards,
            evaluate_every=10**12,
            seed_samples=False,
            folder=f"{folder}/run",
        ).start()
        peaks = watch(run)
        run.result()
    return peaks


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=float, default=25.0, help="millions")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--optimizer", choices=list(SLOTS), default="sgd")
    parser.add_argument("--micro-batches", type=int, default=1, help="in each work order")
    parser.add_argument("--shards", type=int, default=2)
    arguments = parser.parse_args()
    num_bytes = 4 * sum(parameter.numel() for parameter in build(arguments.params).parameters())
    ray.init(address="local", num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    options = (arguments.steps, arguments.optimizer, arguments.micro_batches, arguments.shards)
    small, large = measure(1e-4 * arguments.params, *options), measure(arguments.params, *options)
    workers = [(more - less) / num_bytes for less, more in zip(small.of("TrainingWorker"), large.of("TrainingWorker"), strict=True)]
    shards = (sum(large.of("ParameterShard")) - sum(small.of("ParameterShard"))) / num_bytes
    store = (large.store - small.store) / num_bytes
    live = (large.live - small.live) / num_bytes
    high = (max(large.high_water.values()) - max(small.high_water.values())) / num_bytes
    allowed = 2 + SLOTS[arguments.optimizer] + WORKERS
    print(
        f"{num_bytes / 1e6:.0f} MB of parameters, {arguments.optimizer}, {arguments.micro_batches} micro-batches an order, "
        f"{arguments.shards} shards; in multiples of the parameters:\n"
        f"  each worker, private: {', '.join(f'{each:.2f}' for each in workers)} (allowed 3)\n"
        f"  object store: {live:.2f} ({store:.2f} with what Ray has yet to delete)\n"
        f"  all shards, private: {shards:.2f}; with the object store {shards + live:.2f} "
        f"(allowed {allowed}, and 1 for each held version)\n"
        f"  largest VmHWM of one process, shared pages and all: {high:.2f}",
        flush=True,
    )
    tell(
        f"peak memory, {arguments.params:g} M parameters, {arguments.optimizer}, {WORKERS} workers, {arguments.shards} shards",
        f"a worker {max(workers):.2f} times the parameters; all shards {shards + live:.2f}",
        f"3; {allowed} and 1 for each held version",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What processes cost that die: a worker, a shard's primary and the coordinator, killed with SIGKILL in the middle of a run; what a worker
costs that joins; and what a backup costs when nobody dies.

    python benchmarks/failures.py [--rounds 3] [--params 25]

The first runs train a linear model synchronously with 3 workers whose declared delay makes a step 50 ms; a pause is the longest time
between two published versions after the first ten, and stands beside the usual one. The cost of backups is the step time of
`step_time.py`'s model with a backup of each shard over that without, taking turns; all of it shares one machine.
"""

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import ray
import torch
from step_time import gaps, mottle
from table import tell
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from mottle.sdk import Run, Trainer, WorkerGroup, kept_processes

STEPS = 150
BATCH = 15
KILL_AT = 40


@dataclass(frozen=True)
class Outcome:
    """Seconds between versions, and what was computed more than once."""

    usual_s: float
    longest_s: float
    lost: int
    repeated: int
    missed: int


def squares(model: nn.Module, batch: list[Tensor]) -> Tensor:
    inputs, targets = batch
    return nn.functional.mse_loss(model(inputs), targets)


def worker(run: Run) -> int:
    return run.processes()["w0"]


def primary(run: Run) -> int:
    """The process of shard 0, as its log names it."""
    first = (Path(run.path) / "logs" / "shard0.log").read_text().split("shard0 is process ")[1]
    return int(first.split()[0])


def coordinator(run: Run) -> int:
    return run.places()["coordinator"].pid


def kill(victim: Callable[[Run], int], run: Run) -> None:
    os.kill(victim(run), signal.SIGKILL)


def join(run: Run) -> None:
    run.add_workers(1)


EVENTS: dict[str, tuple[Callable[[Run], None], int, str]] = {
    "a worker of 3 killed": (partial(kill, worker), 0, "under one step"),
    "the primary of a shard with a backup killed": (partial(kill, primary), 1, "3 s"),
    "the coordinator killed": (partial(kill, coordinator), 0, "5 s"),
    "a fourth worker joins": (join, 0, "nobody waits"),
}
"""What happens to the run, with its replicas, and how long the longest pause may be."""


def disturbed(happens: Callable[[Run], None], replicas: int) -> Outcome:
    """A run to which something happens at its 40th version."""
    generator = torch.Generator().manual_seed(0)
    size = STEPS * BATCH
    data = TensorDataset(torch.randn(size, 32, generator=generator), torch.randn(size, 8, generator=generator))
    with tempfile.TemporaryDirectory() as folder:
        run = Trainer(
            partial(nn.Linear, 32, 8),
            squares,
            data,
            optimizer={"sgd": {"lr": 0.01}},
            batch_size=BATCH,
            until={"epochs": 1},
            strategy="sync",
            scaling_config=WorkerGroup(count=3, num_cpus=0.5, delay_s=0.01),
            replicas=replicas,
            folder=f"{folder}/run",
        ).start()
        while run.progress.version < KILL_AT:
            time.sleep(0.01)
        happens(run)
        summary = run.result().summary
        assert summary is not None
        between = gaps(f"{folder}/run")
    (epoch,) = summary.epochs
    return Outcome(statistics.median(between), max(between), summary.updates.lost, epoch.repeated, epoch.missed)


def tell_event(name: str, outcomes: list[Outcome], aim: str) -> None:
    usual_s = statistics.median(each.usual_s for each in outcomes)
    longest = ", ".join(f"{each.longest_s:.2f}" for each in sorted(outcomes, key=lambda each: each.longest_s))
    counts = {what: sum(getattr(each, what) for each in outcomes) for what in ("lost", "repeated", "missed")}
    kept = "nothing lost, repeated or missed" if not any(counts.values()) else ", ".join(f"{n} {what}" for what, n in counts.items())
    tell(f"{name}, 3 workers, synchronous steps of 50 ms", f"longest pause {longest} s, the usual step {usual_s:.2f} s; {kept}", aim)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--params", type=float, default=25.0, help="millions")
    arguments = parser.parse_args()
    ray.init(address="local", num_cpus=8, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    for name, (happens, replicas, aim) in EVENTS.items():
        tell_event(name, [disturbed(happens, replicas) for _ in range(arguments.rounds)], aim)
    with kept_processes():
        ratios = []
        for _ in range(arguments.rounds):
            alone, backed = (statistics.median(mottle(arguments.params, 20, 4, 2, replicas)) for replicas in (0, 1))
            ratios.append(backed / alone)
            print(
                f"{arguments.params:g} M parameters: step {alone:.3f} s without backups, {backed:.3f} s with, {ratios[-1]:.2f}x", flush=True
            )
    tell(
        f"backups of both shards, {arguments.params:g} M parameters, 2 workers, all on {os.cpu_count()} cores",
        f"step {', '.join(f'{ratio:.2f}' for ratio in sorted(ratios))} times that without",
        "1.15",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What processes cost that die: a worker, a shard's primary and the coordinator, killed with SIGKILL in the middle of a run; what a worker
costs that joins; and what a backup costs when nobody dies.

    python benchmarks/failures.py [--rounds 3] [--parts deaths backups apart] [--params 25]

The first runs train a linear model synchronously with 3 workers whose declared delay makes a step 50 ms; a pause is the longest time
between two published versions after the first ten, and stands beside the usual one. The cost of backups is the step time of
`step_time.py`'s model with a backup of each shard over that without, taking turns; all of it shares one machine, whose processors a backup
takes from the workers. So the processor time of each process is told as well, and the same is timed once more where backups have a
processor of their own, as on another host, and everybody else the others (`apart`).
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

import psutil
import ray
import torch
from step_time import WARM_UP, gaps, job
from table import tell
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from mottle.sdk import Run, Trainer, WorkerGroup, kept_processes

STEPS = 150
BATCH = 15
KILL_AT = 40
BACKED_STEPS = 25
BACKED_BATCH = 16
"""Steps, and samples of each worker, as in `step_time.py`."""


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

PARTS = ["deaths", "backups", "apart"]


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


def backups(params: float, rounds: int, apart: bool) -> None:
    """What backups of both shards cost a run in which nobody dies."""
    ratios, costs = [], []
    with kept_processes():
        for _ in range(rounds):
            (alone, _), (backed, spent) = (stepped(params, replicas, apart) for replicas in (0, 1))
            ratios.append(backed / alone)
            costs.append(spent)
            shown = ", ".join(f"{role} {ms:.0f} ms" for role, ms in spent.items())
            print(f"step {alone:.3f} s without backups, {backed:.3f} s with, {ratios[-1]:.2f}x; processor time a step: {shown}", flush=True)
    median = {role: statistics.median(spent[role] for spent in costs) for role in costs[0]}
    rest = sum(median.values()) - median["backups"]
    cores = f"all on {os.cpu_count()} cores" if not apart else f"one of {os.cpu_count()} cores for the backups alone, also without them"
    tell(
        f"backups of both shards, {params:g} M parameters, 2 workers, {BACKED_BATCH} samples each, {cores}",
        f"step {', '.join(f'{ratio:.2f}' for ratio in sorted(ratios))} times that without; processor time a step: the two backups "
        f"{median['backups']:.0f} ms, all others {rest:.0f} ms",
        "1.15",
    )


def stepped(params: float, replicas: int, apart: bool) -> tuple[float, dict[str, float]]:
    """Median seconds of a step, and milliseconds of processor time that it takes by role."""
    with tempfile.TemporaryDirectory() as folder:
        run = job(f"{folder}/run", params, BACKED_STEPS, BACKED_BATCH, 2, replicas).start()
        backups_core = (os.cpu_count() or 1) - 1 if apart else None
        for name, place in run.places().items():
            keep_to(place.pid, backups_core, is_backup=role_of(name) == "backups")
        since, before = spent_s(run, WARM_UP)
        until, after = spent_s(run, WARM_UP + BACKED_STEPS - 2)
        run.result()
        step_s = statistics.median(gaps(f"{folder}/run"))
    return step_s, {role: 1000 * (after[role] - before[role]) / (until - since) for role in before}


def role_of(name: str) -> str:
    """What a process of a run is, by its name there."""
    if name == "coordinator":
        return name
    return "workers" if name.startswith("w") else "backups" if "-" in name else "primaries"


def keep_to(pid: int, backups_core: int | None, *, is_backup: bool) -> None:
    """Have all threads of a process run on the backups' core, or on all others; anywhere for None. Processes serve several runs."""
    cores = range(os.cpu_count() or 1)
    allowed = [each for each in cores if backups_core is None or (each == backups_core) == is_backup]
    for thread in psutil.Process(pid).threads():
        os.sched_setaffinity(thread.id, allowed)


def spent_s(run: Run, version: int) -> tuple[int, dict[str, float]]:
    """A version from that one on, and the processor time that the run's processes had taken when it was there."""
    while (now := run.progress.version) < version:
        time.sleep(0.01)
    spent = dict.fromkeys(("coordinator", "workers", "primaries", "backups"), 0.0)
    for name, place in run.places().items():
        times = psutil.Process(place.pid).cpu_times()
        spent[role_of(name)] += times.user + times.system
    return now, spent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--params", type=float, default=25.0, help="millions")
    arguments = parser.parse_args()
    ray.init(address="local", num_cpus=8, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    if "deaths" in arguments.parts:
        for name, (happens, replicas, aim) in EVENTS.items():
            tell_event(name, [disturbed(happens, replicas) for _ in range(arguments.rounds)], aim)
    if "backups" in arguments.parts:
        backups(arguments.params, arguments.rounds, apart=False)
    if "apart" in arguments.parts:
        if (os.cpu_count() or 1) < 2:
            parser.error("apart needs two processors")
        backups(arguments.params, arguments.rounds, apart=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

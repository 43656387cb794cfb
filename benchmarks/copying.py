"""The exploit step of population-based training: a run of a 25 M-parameter model takes over another's model and optimizer state.

    python benchmarks/copying.py [--params 25] [--rounds 5]

Both runs train with one worker, momentum and one shard each, and go on throughout. A step is timed from the call to the moment when the
copy is the newest version, with another learning rate and momentum; the first one warms up memory and is not counted. Timed beside it is
what a loser does otherwise: it saves, ends, and begins anew at a checkpoint on the same processes.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial

import ray
from step_time import build, dataset, loss
from table import tell

from mottle.sdk import Run, Trainer, WorkerGroup, kept_processes
from mottle.sdk.local import start_local


def trainer(folder: str, params: float) -> Trainer:
    return Trainer(
        partial(build, params),
        loss,
        dataset(4096),
        optimizer={"sgd": {"lr": 0.01, "momentum": 0.9}},
        batch_size=4,
        until={"epochs": 1000},
        strategy="async",
        scaling_config=WorkerGroup(count=1, num_cpus=0.5),
        folder=folder,
    )


def trained(run: Run, versions: int) -> None:
    """Until it has made so many versions more."""
    until = run.progress.version + versions
    while run.progress.version < until:
        time.sleep(0.05)


def live_s(donor: Run, run: Run, rounds: int) -> list[float]:
    taken = []
    for number in range(rounds + 1):
        trained(donor, 2)
        trained(run, 2)
        began = time.perf_counter()
        run.copy_from(donor, lr=0.01 / (number + 1), momentum=0.5 + 0.01 * number)
        taken.append(time.perf_counter() - began)
    return taken[1:]


def durable_s(run: Run, own: Trainer) -> float:
    """A run saves and ends, its processes wait, and a new one begins on them at that checkpoint."""
    began = time.perf_counter()
    run.stop(checkpoint=True)
    run.result()
    resumed = own.resume()
    trained(resumed, 1)
    took_s = time.perf_counter() - began
    resumed.kill()
    return took_s


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=float, default=25.0, help="millions")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    start_local(2)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        stack.enter_context(kept_processes())
        trainers = [trainer(f"{folder}/{name}", options.params) for name in ("winner", "loser")]
        donor, run = (each.start() for each in trainers)
        taken = live_s(donor, run, options.rounds)
        through_disk_s = durable_s(run, trainers[1])
        donor.kill()
    ray.shutdown()
    times = ", ".join(f"{each:.2f}" for each in taken)
    tell(
        f"exploit step of population-based training, {options.params:g} M parameters with momentum, from shard to shard (load {load:.0f})",
        f"{times} s, median {statistics.median(taken):.2f} s; through a checkpoint and a new run {through_disk_s:.1f} s",
        "1 s",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

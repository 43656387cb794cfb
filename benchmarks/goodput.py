"""One failure every 15 s for 10 minutes: what it costs in samples a second and in the final loss, against the same run undisturbed.

    python benchmarks/goodput.py [--minutes 10] [--every 15] [--kill workers] [--strategy sync]

The digits model with 4 workers that declare 10 ms a sample, so that nearly all of a step is waiting and the crew's speed is the job's and
not the machine's. Two runs of the same seed go on at the same time, so that whatever else the machine does slows both, over as many samples
as an undisturbed crew uses in the given minutes; of one a worker is killed with SIGKILL again and again, and another is asked for at once,
as `mottle chaos` does. Goodput is samples that counted a second. A dead worker's share is the time that it was missing until another had
joined; what is missing of goodput beyond that is what failures cost the others.
"""

import argparse
import math
import sys
import tempfile
from dataclasses import dataclass

import ray
from learning_digits import digits
from table import tell

from mottle.observe.result import RunResult
from mottle.sdk import Run, Trainer, WorkerGroup
from mottle.sdk.chaos import Chaos

WORKERS = 4
SAMPLE_S = 0.01
BATCH = 128


@dataclass(frozen=True)
class Outcome:
    """One run to its end."""

    goodput: float
    """Samples that counted, a second."""
    crew: float
    """Workers present, on the average."""
    loss: float
    accuracy: float
    summary: RunResult


def start(folder: str, samples: int, strategy: str, seed: int, replicas: int) -> Run:
    return Trainer(
        digits.DigitNet,
        digits.loss,
        digits.train_data(),
        test_data=digits.test_data(),
        metrics={"accuracy": digits.accuracy},
        optimizer={"sgd": {"lr": 0.05}},
        batch_size=BATCH if strategy == "sync" else BATCH // WORKERS,
        until={"samples": samples},
        strategy=strategy,
        seed=seed,
        scaling_config=WorkerGroup(count=WORKERS, num_cpus=0.5, delay_s=SAMPLE_S),
        replicas=replicas,
        folder=folder,
    ).start()


def end(run: Run) -> Outcome:
    summary = run.result().summary
    assert summary is not None
    if problems := summary.problems():
        raise SystemExit(f"the run contradicts itself: {'; '.join(problems)}")
    return outcome(summary)


def outcome(summary: RunResult) -> Outcome:
    present_s = sum((summary.wall_s if each.left_s is None else each.left_s) - each.joined_s for each in summary.workers)
    metrics = {name: math.nan if value is None else value for name, value in summary.metrics.items()}
    return Outcome(
        sum(epoch.applied for epoch in summary.epochs) / summary.wall_s,
        present_s / summary.wall_s,
        metrics["test_loss"],
        metrics["test_accuracy"],
        summary,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--every", type=float, default=15.0, help="seconds between two failures")
    parser.add_argument("--kill", default="workers", help="what fails: workers, shards, coordinator; several with commas")
    parser.add_argument("--strategy", default="sync", choices=["sync", "async"])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    kinds, samples = arguments.kill.split(","), round(arguments.minutes * 60 * WORKERS / SAMPLE_S)
    replicas = int("shards" in kinds)
    ray.init(address="local", num_cpus=8, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    storm = Chaos(kinds, arguments.every, arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        names = ("undisturbed", "disturbed")
        runs = {name: start(f"{folder}/{name}", samples, arguments.strategy, arguments.seed, replicas) for name in names}
        storm.begin(runs["disturbed"])
        for run in runs.values():
            for _ in run.watch(1.0):
                pass
        storm.stop()
        ended = {name: end(run) for name, run in runs.items()}
    for name, each in ended.items():
        print(
            f"{name}: {each.summary.wall_s:.0f} s, {each.goodput:.1f} samples/s with {each.crew:.2f} workers, loss {each.loss:.4f}, "
            f"accuracy {each.accuracy:.3f}, {each.summary.versions} versions",
            flush=True,
        )
    calm, stormy = ended["undisturbed"], ended["disturbed"]
    kept, alive = stormy.goodput / calm.goodput, stormy.crew / calm.crew
    tell(
        f"a failure every {arguments.every:g} s ({arguments.kill}) for {stormy.summary.wall_s / 60:.1f} min, {len(storm.kills)} in all; "
        f"digits, {arguments.strategy}, {WORKERS} workers, {SAMPLE_S * 1000:.0f} ms a sample",
        f"goodput {kept:.3f} times the undisturbed one, {kept / alive:.3f} less the dead workers' share; loss "
        f"{stormy.loss:.4f} against {calm.loss:.4f}, accuracy {stormy.accuracy:.3f} against {calm.accuracy:.3f}; "
        f"{stormy.summary.updates.lost} updates lost",
        "0.9 of the undisturbed goodput less the dead workers' share",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

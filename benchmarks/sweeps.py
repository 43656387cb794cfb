"""Sixteen trials of the digits with ASHA on four workers of relative speed 1, 1, 1 and 1/4: a shared fleet against plain Ray Tune, where
each trial has one worker from its beginning to its end.

    python benchmarks/sweeps.py [--delay 0.04] [--seeds 1]

Speeds are declared: every sample costs a sleep, and in both systems the same one. So what is measured is who waits for whom, and hardly the
machine. The times are from the first trial that could compute to the end of the last one; how long the whole took, processes and their
imports included, stands beside them. Both use the same ASHA, learning rates in the same order, batches and evaluations; both take up the
processes of trials that were stopped.

ASHA decides as results come in, so whose trial is at which rung when decides how many evaluations a sweep makes: with the same rates two
systems made 41 and 45 of them, or 64 and 42. So the time of an evaluation is compared as well. A seed is an order of the rates.
"""

import argparse
import importlib
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from table import tell

from mottle.sdk.local import start_local
from mottle.tune import Arbiter, Tuner, trainable
from mottle.tune.usage import FleetUsage

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "examples" / "digits"))
digits = importlib.import_module("digits")

TRIALS = 16
SPEEDS = (1.0, 1.0, 1.0, 0.25)
BATCH, PIECE = 16, 4  # a piece is what a sleep is cut into
EVERY = 144
EVALUATIONS = 8

JOB = """
model: digits:DigitNet
loss: digits:loss
train_data: digits:train_data
test_data: digits:test_data
metrics: {{accuracy: digits:accuracy}}
optimizer: {{sgd: {{lr: 0.1, momentum: 0.5}}}}
strategy: {{async: {{max_in_flight: 2}}}}
batch_size: {batch}
micro_batch_size: {piece}
until: {{samples: {samples}}}
evaluate_every: {every}
fleet:
  - {{name: fast, count: 3, num_cpus: 0.5, delay_s: {fast}}}
  - {{name: slow, count: 1, num_cpus: 0.5, delay_s: {slow}}}
"""


class Speeds:
    """Deals the four workers out to plain trials."""

    def __init__(self) -> None:
        self._free = sorted(SPEEDS)
        self._began_s: float | None = None

    def take(self) -> float | None:
        self._began_s = self._began_s or time.monotonic()
        return self._free.pop() if self._free else None

    def seconds(self) -> float:
        """Since the first one was taken."""
        return time.monotonic() - (self._began_s or 0.0)

    def put(self, speed: float) -> None:
        self._free = sorted([*self._free, speed])


class Plain(tune.Trainable):
    """One trial in one process: the usual loop, at the speed of its worker."""

    def setup(self, config: dict[str, Any]) -> None:
        self._speeds = config["speeds"]
        while (speed := ray.get(self._speeds.take.remote())) is None:
            time.sleep(0.05)
        self._speed = speed
        self._delay_s = config["delay_s"] / speed
        self._begin(config)

    def _begin(self, config: dict[str, Any]) -> None:
        torch.manual_seed(0)
        torch.set_num_threads(1)
        self._model, self._samples = digits.DigitNet(), 0
        self._optimizer = torch.optim.SGD(self._model.parameters(), lr=config["optimizer.lr"], momentum=0.5)
        train, test = digits.train_data(), digits.test_data()
        loader = torch.utils.data.DataLoader(train, BATCH, shuffle=True, drop_last=True)
        self._batches = (batch for _ in range(1000) for batch in loader)
        self._test = list(test[:])

    def step(self) -> dict[str, Any]:
        for _ in range(EVERY // BATCH):
            batch = next(self._batches)
            self._optimizer.zero_grad()
            digits.loss(self._model, batch).backward()
            self._optimizer.step()
            time.sleep(self._delay_s * BATCH)
            self._samples += BATCH
        with torch.no_grad():
            accuracy = float(digits.accuracy(self._model, self._test))
        return {"test_accuracy": accuracy, "done": self._samples >= EVERY * EVALUATIONS, "samples": self._samples}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        ray.get(self._speeds.put.remote(self._speed))

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        torch.save(self._model.state_dict(), Path(checkpoint_dir, "model.pt"))


def tune_config() -> tune.TuneConfig:
    scheduler = ASHAScheduler(time_attr="training_iteration", max_t=EVALUATIONS, grace_period=1, reduction_factor=2)
    return tune.TuneConfig(
        metric="test_accuracy", mode="max", scheduler=scheduler, reuse_actors=True, max_concurrent_trials=len(SPEEDS)
    )  # fmt: skip


def rates(seed: int) -> list[float]:
    return np.random.default_rng(seed).permutation(np.geomspace(1e-3, 1.0, TRIALS)).tolist()


def told(name: str, grid: Any, trials_s: float, wall_s: float) -> int:
    """Say how a sweep went. Returns its evaluations."""
    errors = f", {grid.num_errors} FAILED" if grid.num_errors else ""
    done = sorted((result.metrics["training_iteration"] for result in grid if result.metrics), reverse=True)
    best = grid.get_best_result().metrics["test_accuracy"]
    text = f"best accuracy {best:.3f}, {sum(done)} evaluations of {done}{errors}"
    print(f"{name:8} {trials_s:6.1f} s, with all that was started {wall_s:.1f} s; {text}", flush=True)
    return sum(done)


def plain(delay_s: float, seed: int, folder: str) -> tuple[float, int]:
    """Its seconds and its evaluations."""
    speeds = ray.remote(num_cpus=0)(Speeds).remote()
    space = {"optimizer.lr": tune.grid_search(rates(seed)), "delay_s": delay_s, "speeds": speeds}
    kind = tune.with_resources(Plain, {"CPU": 1})
    began = time.monotonic()
    run_config = tune.RunConfig(name="plain", storage_path=folder, verbose=0)
    grid = tune.Tuner(kind, param_space=space, tune_config=tune_config(), run_config=run_config).fit()
    wall_s = time.monotonic() - began
    trials_s: float = ray.get(speeds.seconds.remote())
    return trials_s, told("plain", grid, trials_s, wall_s)


def shared(delay_s: float, seed: int, folder: str, policy: str) -> tuple[FleetUsage, int]:
    """How the fleet was used, and the sweep's evaluations."""
    job = Path(folder, "job.yaml")
    samples = EVERY * EVALUATIONS
    job.write_text(JOB.format(batch=BATCH, piece=PIECE, samples=samples, every=EVERY, fast=delay_s, slow=delay_s / SPEEDS[-1]))
    began = time.monotonic()
    with Arbiter(job, policy=policy, stay_s=1.0) as fleet:
        run_config = tune.RunConfig(name="shared", storage_path=folder, verbose=0)
        space = {"optimizer.lr": tune.grid_search(rates(seed))}
        grid = Tuner(trainable(job, fleet), param_space=space, tune_config=tune_config(), run_config=run_config).fit()
        wall_s, usage = time.monotonic() - began, fleet.usage()
    print(usage)
    return usage, told("shared", grid, usage.seconds, wall_s)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delay", type=float, default=0.04, help="seconds of a sample on a fast worker")
    parser.add_argument("--policy", default="equal")
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent / "examples" / "digits"), str(HERE), os.environ.get("PYTHONPATH", "")])
    start_local(8)
    print(f"{TRIALS} trials, ASHA, {EVALUATIONS} evaluations of {EVERY} samples at most; load {os.getloadavg()[0]:.0f}", flush=True)
    walls, paces, busy = [], [], []
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            plain_s, plain_evaluations = plain(options.delay, seed, folder)
            usage, evaluations = shared(options.delay, seed, folder, options.policy)
        walls.append(usage.seconds / plain_s)
        paces.append(walls[-1] * plain_evaluations / evaluations)
        busy.append(usage.busy)
    tell(
        "16 trials of the digits with ASHA on workers of speed 1, 1, 1, 1/4: shared fleet against plain Ray Tune, declared delays of "
        f"{options.delay:g} s a sample, {options.seeds} orders of the rates",
        f"{listed(walls)} times plain's time, {listed(paces)} times its time of an evaluation; fleet busy {listed(busy)}",
        "0.7; 0.90 busy",
    )
    return 0


def listed(numbers: list[float]) -> str:
    return ", ".join(f"{number:.2f}" for number in numbers)


if __name__ == "__main__":
    sys.exit(main())

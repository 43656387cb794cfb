"""A job file over the tiny models of the live tests, and a driver of a sweep that a test can kill.

    python -m tests.tune.small JOB.yaml FOLDER ADDRESS

begins a sweep on a running Ray and says so on standard output as soon as the durable copy of its first checkpoint is there.
"""

import sys
from pathlib import Path
from typing import Any

import ray
from ray import tune

from mottle.tune import trainable

JOB = """
model: tests.actors.live:linear
loss: tests.actors.live:cross_entropy
train_data: {"tests.actors.live:blobs": {num_samples: 100}}
test_data: {"tests.actors.live:blobs": {num_samples: 50, seed: 1}}
metrics: {accuracy: tests.actors.live:accuracy}
optimizer: {sgd: {lr: 0.05}}
strategy: sync
batch_size: 20
until: {epochs: 3}
evaluate_every: 100
fleet: [{count: 1, num_cpus: 0.5, delay_s: 0.002}]
"""
SAVED = "saved"
NAME = "sweep"


def job_file(folder: Path) -> Path:
    """Three evaluations of a fifth of a second each, by one worker."""
    file = folder / "small.yaml"
    file.write_text(JOB, encoding="utf-8")
    return file


def run_config(folder: Path, **options: Any) -> tune.RunConfig:
    return tune.RunConfig(name=NAME, storage_path=str(folder), verbose=0, **options)


class Teller(tune.Callback):
    """Says when a checkpoint is whole that the state of the sweep knows, which is written before a step of Tune's ends."""

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if any(trial.checkpoint is not None and Path(trial.checkpoint.path, "manifest.json").is_file() for trial in trials):
            print(SAVED, flush=True)


if __name__ == "__main__":
    job, folder, address = sys.argv[1:]
    ray.init(address=address, logging_level="ERROR", log_to_driver=False)
    space = {"optimizer.lr": tune.grid_search([0.01]), "until.epochs": 4, "fleet.workers.delay_s": 0.01}
    tune.Tuner(trainable(job), param_space=space, run_config=run_config(Path(folder), callbacks=[Teller()])).fit()

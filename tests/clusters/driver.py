"""A run's driver inside a host of the testbed: starts a job, then answers questions, one JSON line each way.

`python -m tests.clusters.driver JSON`; the argument names the folder, the worker groups, options of the `Trainer`, and how the driver comes
by its run: `start` (by default), or `attach` to one that it has left on a host before.
"""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import torch
from tests.actors import live
from torch import Tensor, nn

from mottle.sdk import Run, Trainer, WorkerGroup, attach

WIDTH = 10_000
LR = 0.03 * WIDTH  # a logit is the mean of so many outputs


class Wide(nn.Module):
    """A classifier of 840,000 parameters and little work: its updates take long on a thin line."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(live.NUM_FEATURES, live.NUM_CLASSES * WIDTH)

    def forward(self, features_NF: Tensor) -> Tensor:
        logits: Tensor = self.wide(features_NF).view(len(features_NF), live.NUM_CLASSES, WIDTH).mean(2)
        return logits


MODELS = {"wide": (Wide, LR), "perceptron": (live.perceptron, 0.1)}


def describe(folder: str, groups: list[dict[str, Any]], model: str = "wide", **options: Any) -> Trainer:
    crew = [WorkerGroup(**group) for group in groups]
    make, lr = MODELS[model]
    return live.trainer(Path(folder), make, scaling_config=crew, optimizer={"sgd": {"lr": lr}}, **options)


def leave(host: str, description: dict[str, Any]) -> None:
    """Start a detached run from that host and leave it, as a job does that Ray was given for it."""
    ray.init(logging_level="ERROR", log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}})

    def start() -> None:
        describe(**description).start(detached=True)

    starting: Any = ray.remote(num_cpus=0, resources={host: 0.001})(start)
    ray.get(starting.remote())


class Driver:
    """What the test may ask for; the end of the run comes with all that the test checks."""

    def __init__(self, job: Trainer, how: str, model: str = "wide") -> None:
        self._job = job
        self._make, self._lr = MODELS[model]
        self._run: Run = attach(job.job.name) if how == "attach" else job.start()

    def snapshot(self) -> dict[str, Any]:
        return asdict(self._run.progress)

    def coordinator(self) -> int:
        return self._run.places()["coordinator"].pid

    def processes(self) -> dict[str, int]:
        return self._run.processes()

    def add(self, count: int, group: str) -> list[str]:
        return self._run.add_workers(count, group)

    def stop(self) -> None:
        self._run.stop("seen enough")

    def end(self, reference: bool) -> dict[str, Any]:
        live.wait_for_end(self._run)
        ours = self._run.parameters()
        result = self._run.result()
        live.check(self._job, result)
        live.assert_replay(self._job)
        assert result.summary is not None
        gap = None
        if reference:
            gap = self._gap(ours)
        return {"error": str(result.error or ""), "gap": gap, "epochs": [asdict(epoch) for epoch in result.summary.epochs]}

    def _gap(self, ours: dict[str, Tensor]) -> float:
        """Largest difference to plain PyTorch on the same batches, as a share of the largest change that training made."""
        job = self._job.job
        epochs = round((job.total_samples or 0) / job.brain.num_positions)
        theirs = live.reference(self._job, self._make, lambda model: torch.optim.SGD(model.parameters(), lr=self._lr), epochs=epochs)
        torch.manual_seed(job.seed)
        begin = dict(self._make().named_parameters())
        trained = theirs.parameters()
        change = max(float((trained[name] - begin[name]).abs().max()) for name in trained)
        return max(float((ours[name] - trained[name]).abs().max()) for name in trained) / change


def main(description: dict[str, Any]) -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed is for people
    how = description.pop("how", "start")
    if (host := description.pop("leave", None)) is not None:
        leave(host, description)
        ray.shutdown()
    driver = Driver(describe(**description), how, description.get("model", "wide"))
    print(json.dumps("started"), file=replies, flush=True)
    for line in sys.stdin:
        method, *arguments = json.loads(line)
        print(json.dumps(getattr(driver, method)(*arguments)), file=replies, flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

"""One synchronous step of a 25 M-parameter model with 2 workers: Mottle against DistributedDataParallel over gloo, in the same run.

    python benchmarks/step_time.py [--params 25] [--steps 20] [--rounds 3] [--batch 16]

Both train the same multi-layer perceptron on the same random data with plain SGD, one torch thread a worker, and take turns, so that a slow
machine slows both. A step of Mottle is the time between two published versions, a step of DDP the time between two optimizer steps; the
first steps of each turn warm up and are not counted.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import ray
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from table import tell
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from mottle.observe.record import read_run
from mottle.sdk import Trainer, WorkerGroup

FEATURES = 512
CLASSES = 10
WARM_UP = 5


def build(params: float) -> nn.Module:
    """An MLP of about that many million parameters: two square layers between narrow ends."""
    width = int((-(FEATURES + CLASSES) + ((FEATURES + CLASSES) ** 2 + 8 * params * 1e6) ** 0.5) / 4)
    return nn.Sequential(
        nn.Linear(FEATURES, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, CLASSES),
    )


def dataset(samples: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(samples, FEATURES, generator=generator), torch.randint(CLASSES, (samples,), generator=generator))


def loss(model: nn.Module, batch: list[Tensor]) -> Tensor:
    inputs, labels = batch
    return nn.functional.cross_entropy(model(inputs), labels)


def ddp_worker(rank: int, params: float, steps: int, batch: int, store: str, out: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    model = nn.parallel.DistributedDataParallel(build(params))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    data = dataset(2 * batch * (steps + WARM_UP))
    marks = [time.perf_counter()]
    for step in range(steps + WARM_UP):
        start = (2 * step + rank) * batch
        optimizer.zero_grad()
        loss(model, [tensor[start : start + batch] for tensor in data.tensors]).backward()
        optimizer.step()
        marks.append(time.perf_counter())
    if rank == 0:
        Path(out).write_text(json.dumps([b - a for a, b in zip(marks[WARM_UP:], marks[WARM_UP + 1 :], strict=False)]))
    dist.destroy_process_group()


def ddp(params: float, steps: int, batch: int) -> list[float]:
    """Seconds of each step."""
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/times.json"
        mp.spawn(ddp_worker, (params, steps, batch, f"{folder}/store", out), nprocs=2)
        times: list[float] = json.loads(Path(out).read_text())
    return times


def gaps(folder: str) -> list[float]:
    """Seconds between the published versions of a run, those of warming up left out."""
    decided = read_run(folder).timeline
    ends = sorted(decided.groupby("t_s").size().index)
    return [b - a for a, b in zip(ends[WARM_UP:], ends[WARM_UP + 1 :], strict=False)]


def job(folder: str, params: float, steps: int, batch: int, shards: int, replicas: int = 0) -> Trainer:
    """Of so many steps, those of warming up besides, by two workers with `batch` samples each."""
    return Trainer(
        partial(build, params),
        loss,
        dataset(2 * batch * (steps + WARM_UP)),
        optimizer={"sgd": {"lr": 0.01}},
        batch_size=2 * batch,
        micro_batch_size=batch,
        until={"epochs": 1},
        strategy="sync",
        scaling_config=WorkerGroup(count=2, num_cpus=1),
        shards=shards,
        replicas=replicas,
        evaluate_every=10**12,
        seed_samples=False,
        folder=folder,
    )


def mottle(params: float, steps: int, batch: int, shards: int) -> list[float]:
    """Seconds between published versions."""
    with tempfile.TemporaryDirectory() as folder:
        job(f"{folder}/run", params, steps, batch, shards).fit()
        return gaps(f"{folder}/run")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=float, default=25.0, help="millions")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16, help="samples a worker")
    parser.add_argument("--shards", type=int, default=2)
    arguments = parser.parse_args()
    ray.init(address="local", num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    all_theirs, all_ours, ratios = [], [], []
    for number in range(arguments.rounds):
        theirs = ddp(arguments.params, arguments.steps, arguments.batch)
        ours = mottle(arguments.params, arguments.steps, arguments.batch, arguments.shards)
        all_theirs += theirs
        all_ours += ours
        ratios.append(statistics.median(ours) / statistics.median(theirs))
        print(
            f"round {number}: DDP median {statistics.median(theirs):.3f} s (max {max(theirs):.3f}), "
            f"Mottle median {statistics.median(ours):.3f} s (max {max(ours):.3f}), ratio {ratios[-1]:.2f}",
            flush=True,
        )
    print(f"{os.cpu_count()} cores, torch {torch.__version__}: median ratio {statistics.median(ratios):.2f}")
    tell(
        f"synchronous step, {arguments.params:g} M float32 parameters, 2 workers, {arguments.batch} samples each, against DDP over gloo",
        f"{', '.join(f'{ratio:.2f}' for ratio in sorted(ratios))} times DDP ({statistics.median(all_ours):.2f} s against "
        f"{statistics.median(all_theirs):.2f} s); slowest step {max(all_ours):.2f} s against {max(all_theirs):.2f} s",
        "0.8, no spikes",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How many updates a second the machinery carries: a tiny model, 4 workers, asynchronous.

    python benchmarks/updates.py [--workers 4] [--updates 3000] [--rounds 3]

The model is a linear layer of under 10 kB and an order is one sample, so what is timed is orders, pushes, receipts, steps and reads.
"""

import argparse
import os
import statistics
import sys
import tempfile
from functools import partial

import ray
import torch
from table import tell
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from mottle.observe.record import read_run
from mottle.sdk import Trainer, WorkerGroup


def loss(model: nn.Module, batch: list[Tensor]) -> Tensor:
    inputs, labels = batch
    return nn.functional.mse_loss(model(inputs), labels)


def measure(workers: int, updates: int, max_in_flight: int) -> float:
    """Updates a second, from the first quarter on: by then every process is warm."""
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(updates, 32, generator=generator), torch.randn(updates, 8, generator=generator))
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            partial(nn.Linear, 32, 8),
            loss,
            data,
            optimizer={"sgd": {"lr": 0.001}},
            batch_size=1,
            until={"epochs": 1},
            strategy={"async": {"max_in_flight": max_in_flight}},
            scaling_config=WorkerGroup(count=workers, num_cpus=0.5),
            evaluate_every=10**12,
            seed_samples=False,
            folder=f"{folder}/run",
        ).fit()
        times = sorted(read_run(f"{folder}/run").timeline["t_s"])
    warm = times[len(times) // 4 :]
    return (len(warm) - 1) / (warm[-1] - warm[0])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--updates", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    ray.init(address="local", num_cpus=8, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    medians = []
    for max_in_flight in (1, 2):
        rates = [measure(arguments.workers, arguments.updates, max_in_flight) for _ in range(arguments.rounds)]
        print(
            f"{arguments.workers} workers, max_in_flight {max_in_flight}: median {statistics.median(rates):.0f} updates/s "
            f"(of {', '.join(f'{rate:.0f}' for rate in rates)}) on {os.cpu_count()} cores",
            flush=True,
        )
        medians.append(statistics.median(rates))
    one, two = medians
    tell(
        f"updates of a tiny model, {arguments.workers} workers, asynchronous",
        f"{one:.0f} updates/s with one order in flight, {two:.0f} with two",
        "300",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The online agent against fixed settings: one run of `auto_fedrl` and the sixteen of a grid, on the learning simulator.

    python benchmarks/online.py [--seeds 5] [--epochs 20] [--jobs 2]

Digits, rounds of local steps, four workers that are alike. The grid is of the workers' rate and their local steps, two decades and one and
a half, each point as many times the one before, as such grids are laid; the agent searches the same ranges, by factors too. Both are
compared by the accuracy at the end of the same number of samples, means over seeds; the grid's best point is chosen by that very figure,
which favours the grid. Rounds that the agent's guard undoes stay in its count of samples.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from typing import Any, NamedTuple

from learning_digits import train
from table import tell

from mottle.simulate import Fleet, Lognormal, Workers

LR, STEPS = (0.005, 0.5), (1, 32)
POINTS = 4
BATCH = 32
NEVER = 2.0
"""An accuracy that ends no run."""
FLEET = Fleet(workers=(Workers(name="w", count=4, sample_s=Lognormal(median_s=0.001, sigma=0.2)),))


class Point(NamedTuple):
    """Fixed settings."""

    lr: float
    steps: int

    def spec(self, seed: int) -> Any:
        """They know no chance."""
        return {"local_sgd": {"local_steps": self.steps}}

    def __str__(self) -> str:
        return f"rate {self.lr:.3g}, {self.steps} steps"


def grid() -> list[Point]:
    """Every rate with every number of steps."""

    def spread(low: float, high: float) -> list[float]:
        return [low * (high / low) ** (index / (POINTS - 1)) for index in range(POINTS)]

    return [Point(lr, round(steps)) for lr, steps in product(spread(*LR), spread(*STEPS))]


def agent(seed: int) -> Any:
    """With its default options, and draws of its own."""
    return {"auto_fedrl": {"search": {"lr": LR, "local_steps": STEPS}, "log": ["lr", "local_steps"], "seed": seed}}


def ended(spec: Any, lr: float, seed: int, epochs: int) -> float:
    """Accuracy at the end of one run; nothing is evaluated on the way."""
    return train(spec, FLEET, lr, seed, target=NEVER, batch=BATCH, epochs=epochs, evaluate_every=None).last


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs side by side, each in a process of one thread")
    options = parser.parse_args()
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:

        def of_seeds(spec: Callable[[int], Any], lr: float) -> list[Any]:
            return [pool.submit(ended, spec(seed), lr, seed, options.epochs) for seed in range(options.seeds)]

        of_agent = of_seeds(agent, LR[0])
        of_points = {point: of_seeds(point.spec, point.lr) for point in grid()}
        learnt = [run.result() for run in of_agent]
        print(f"{'agent':<24}: {statistics.mean(learnt):.4f} {learnt}", flush=True)
        fixed = {}
        for point, runs in of_points.items():
            fixed[point] = statistics.mean(run.result() for run in runs)
            print(f"{point!s:<24}: {fixed[point]:.4f}", flush=True)
    best, accuracy = max(fixed.items(), key=lambda item: item[1])
    ranked = sorted(fixed.values())
    others = f"median {statistics.median(ranked):.1%}, worst {ranked[0]:.1%}"
    ended_at = f"{statistics.mean(learnt):.1%} ({', '.join(f'{each:.1%}' for each in learnt)})"
    tell(
        f"online agent in one run against {len(fixed)} fixed settings, digits, local SGD, 4 workers, {options.epochs} epochs: accuracy",
        f"{ended_at}; best of the grid {accuracy:.1%} ({best}), {others}",
        "within 1 % of the best",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The online agent against fixed settings: one run of `auto_fedrl` and the sixteen of a grid, on the learning simulator.

    python benchmarks/online.py [--seeds 3] [--epochs 20]

Digits, rounds of local steps, eight workers that are alike. The grid is of the workers' rate and their local steps, two decades and one and
a half, each point as many times the one before, as such grids are laid; the agent searches the same ranges, by factors too. Both are
compared by the accuracy at the end of the same number of samples, means over seeds; the grid's best point is chosen by that very figure,
which favours the grid.
"""

import argparse
import statistics
import sys
from itertools import product

from learning_digits import train
from table import tell

from mottle.simulate import Fleet, Lognormal, Workers

LR, STEPS = (0.005, 0.5), (1, 32)
POINTS = 4
BATCH = 32
NEVER = 2.0
"""An accuracy that ends no run."""


def grid(low: float, high: float) -> list[float]:
    return [low * (high / low) ** (index / (POINTS - 1)) for index in range(POINTS)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    fleet = Fleet(workers=(Workers(name="w", count=8, sample_s=Lognormal(median_s=0.001, sigma=0.2)),))

    def ended(spec: object, lr: float) -> list[float]:
        """Accuracy at the end of each seed."""
        return [train(spec, fleet, lr, seed, target=NEVER, batch=BATCH, epochs=options.epochs).last for seed in range(options.seeds)]

    fixed = {}
    for lr, steps in product(grid(*LR), map(round, grid(*STEPS))):
        fixed[lr, steps] = statistics.mean(ended({"local_sgd": {"local_steps": steps}}, lr))
        print(f"rate {lr:<6.3g} local steps {steps:>2}: {fixed[lr, steps]:.4f}", flush=True)
    agent = ended({"auto_fedrl": {"search": {"lr": LR, "local_steps": STEPS}, "log": ["lr", "local_steps"]}}, LR[0])
    (lr, steps), best = max(fixed.items(), key=lambda item: item[1])
    ranked = sorted(fixed.values())
    others = f"median {statistics.median(ranked):.1%}, worst {ranked[0]:.1%}"
    ended_at = f"{statistics.mean(agent):.1%} ({', '.join(f'{each:.1%}' for each in agent)})"
    tell(
        f"online agent in one run against {len(fixed)} fixed settings, digits, local SGD, 8 workers, {options.epochs} epochs: accuracy",
        f"{ended_at}; best of the grid {best:.1%} (rate {lr:.3g}, {steps} steps), {others}",
        "within 1 % of the best",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

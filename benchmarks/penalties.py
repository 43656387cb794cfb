"""What stale gradients and local steps cost, measured on the learning simulator: the planner's penalty is fitted here.

    python benchmarks/penalties.py [--seeds 3] [--target 0.95]

Digits, workers that are alike, no transfer time: only how many samples it takes to the target counts. Every method is taken at the best
rate of one grid; its worth is synchronous SGD's samples to the target over its own, means over seeds. The curve 1 / (1 + a t) is fitted to
the worths by least squares in a.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

from learning_digits import RATES, Ran, tuned
from matplotlib.figure import Figure
from table import tell

from mottle.observe.palette import BLUE, GRID, INK, PAPER
from mottle.simulate import Fleet, Lognormal, Workers

BATCH = 32


def fleet(count: int) -> Fleet:
    """Workers that are alike but for jitter, so that asynchronous arrivals mix."""
    return Fleet(workers=(Workers(name="w", count=count, sample_s=Lognormal(median_s=0.001, sigma=0.2)),))


STALE: dict[str, tuple[Any, int]] = {
    "abs_sgd, 4 workers": ({"abs_sgd": {"batch_size": BATCH // 4, "least": BATCH // 4}}, 4),
    "async, 2 workers": ("async", 2),
    "async, 4 workers": ("async", 4),
    "async, 8 workers": ("async", 8),
    "async, 16 workers": ("async", 16),
}
LOCAL: dict[str, tuple[Any, int]] = {f"local SGD, {steps} steps": ({"local_sgd": {"local_steps": steps}}, 4) for steps in (2, 4, 8, 16)}


def samples_to_target(spec: Any, count: int, *, target: float, seeds: range, epochs: int) -> tuple[float, float, list[Ran]]:
    """Best rate, mean samples to the target (all of the run's where it was not reached), and the runs."""
    lr, runs = tuned(spec, fleet(count), target=target, batch=BATCH, epochs=epochs, seeds=seeds, by="samples", rates=(0.05, *RATES))
    return lr, statistics.mean(run.ended_samples for run in runs), runs


def fitted(points: list[tuple[float, float]]) -> tuple[float, float]:
    """(a, root mean square error) of 1 / (1 + a t) through (t, worth), by search: one number, a smooth valley."""

    def off(a: float) -> float:
        return statistics.mean((worth - 1 / (1 + a * t)) ** 2 for t, worth in points)

    best = min((step / 1000 for step in range(5001)), key=off)
    return best, off(best) ** 0.5


def draw(stale: list[tuple[float, float]], local: list[tuple[float, float]], a: float, b: float, out: Path) -> None:
    """Both curves with what they were fitted to."""
    figure = Figure(figsize=(9.0, 3.4), layout="constrained", facecolor=PAPER)
    panels = (("steps that a gradient is old", stale, a, 0), ("local steps in a round", local, b, 1))
    for axes, (what, points, factor, first) in zip(figure.subplots(1, 2, sharey=True), panels, strict=True):
        last = max(t for t, _ in points)
        grid = [last * step / 200 for step in range(201)]
        axes.plot([t + first for t in grid], [1 / (1 + factor * t) for t in grid], color=BLUE, lw=1.8, zorder=1)
        axes.plot([first, *(t + first for t, _ in points)], [1.0, *(worth for _, worth in points)], "o", color=INK, ms=5)
        axes.set_xlabel(what, color=INK)
        axes.set_ylim(0, 1.05)
        axes.grid(color=GRID)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
        variable = "t" if first == 0 else "(H - 1)"
        axes.text(0.96, 0.92, f"1 / (1 + {factor:.3f} {variable})", color=BLUE, ha="right", va="top", transform=axes.transAxes)
    figure.axes[0].set_ylabel("worth of a sample", color=INK)
    figure.savefig(out, dpi=150)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--target", type=float, default=0.96)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--picture", type=Path, help="draw both curves there")
    arguments = parser.parse_args()
    options = {"target": arguments.target, "seeds": range(arguments.seeds), "epochs": arguments.epochs}
    lr, fresh, _ = samples_to_target("sync", 4, **options)
    print(f"{'':22} {'rate':>5} {'staleness':>9} {'samples':>8} {'worth':>6}")
    print(f"{'sync, 4 workers':22} {lr:>5g} {0:>9.1f} {fresh:>8,.0f} {1:>6.2f}", flush=True)
    stale: list[tuple[float, float]] = []
    for name, (spec, count) in STALE.items():
        lr, spent, runs = samples_to_target(spec, count, **options)
        staleness = statistics.mean(run.staleness for run in runs)
        stale.append((staleness, fresh / spent))
        print(f"{name:22} {lr:>5g} {staleness:>9.1f} {spent:>8,.0f} {fresh / spent:>6.2f}", flush=True)
    a, error = fitted(stale)
    tell("worth of a gradient t steps old, digits, best rates", f"1 / (1 + {a:.3f} t), root mean square error {error:.3f}")
    local: list[tuple[float, float]] = []
    for name, (spec, count) in LOCAL.items():
        lr, spent, _ = samples_to_target(spec, count, **options)
        local.append((int(name.split()[2]) - 1.0, fresh / spent))
        print(f"{name:22} {lr:>5g} {0:>9.1f} {spent:>8,.0f} {fresh / spent:>6.2f}", flush=True)
    b, error = fitted(local)
    tell("worth of a sample in rounds of H local steps", f"1 / (1 + {b:.3f} (H - 1)), root mean square error {error:.3f}")
    if arguments.picture is not None:
        draw(stale, local, a, b, arguments.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())

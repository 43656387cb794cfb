"""ABS-SGD against its baselines on unequal workers: virtual time to a target accuracy, each strategy at its best rate of one grid.

    python benchmarks/heterogeneous.py [--network 10 1 none] [--wrong 0.4 --target 0.94] [--seeds 5] [--jobs 2] [--out rows.json]

Digits, with labels drawn anew for a share of them: so the noise of the gradients bounds the rate, as it does on tasks that take long, and
not how far a step may go before it overshoots, which is half as far with gradients that are a step old. `--wrong 0 --target 0.96` is the
task without. Four workers of the cluster types of the specification: relative time of a sample 1, 1, 1.25, 1.5 (mild), 1, 1, 2, 2
(moderate), 1, 2, 4, 8 (severe). A sample takes 2 ms on the fastest; updates and versions travel like those of ResNet-18 in float32 (44.7
MB) at 10 or 1 Gb/s, or take no time. Those that step for all at once average by a ring all-reduce, the others push to and pull from
servers that are never the bottleneck; all have one update in flight, but for the last one. Batches: 64 samples a synchronous step, 16 an
asynchronous order; micro-batches of 4, which are what ABS-SGD's rounds are made of.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from learning_digits import tuned
from table import tell

from mottle.simulate import Fleet, Workers

CLUSTERS = {"mild": (1, 1, 1.25, 1.5), "moderate": (1, 1, 2, 2), "severe": (1, 2, 4, 8)}
SAMPLE_S = 0.002
MODEL_BYTES = 44_695_848
DIGITS_BYTES = 4 * 9_962
BATCH, ORDER, MICRO = 64, 16, 4
WRONG, TARGET = 0.4, 0.94
STRATEGIES: dict[str, tuple[Any, str]] = {
    "ABS-SGD": ({"abs_sgd": {"batch_size": ORDER, "least": MICRO}}, "ring"),
    "sync": ({"sync": {"batch_size": BATCH}}, "ring"),
    "LB-BSP": ({"lb_bsp": {"batch_size": BATCH}}, "ring"),
    "SSP": ({"ssp": {"batch_size": ORDER, "slack": 3}}, "servers"),
    "ASP": ({"async": {"batch_size": ORDER}}, "servers"),
    "ASP, two in flight": ({"async": {"batch_size": ORDER, "max_in_flight": 2}}, "servers"),
}
BASELINES = ("sync", "LB-BSP", "SSP", "ASP")


def fleet(cluster: str, gigabits: float | None, exchange: str) -> Fleet:
    """The workers of a cluster type; a digits model travels as slowly as the large one would."""
    bandwidth = None if gigabits is None else gigabits * 1e9 / 8 * DIGITS_BYTES / MODEL_BYTES
    workers = tuple(
        Workers(name=f"w{i}", sample_s=SAMPLE_S * relative, bandwidth_bytes_per_s=bandwidth) for i, relative in enumerate(CLUSTERS[cluster])
    )
    return replace(Fleet(workers=workers), exchange=exchange)


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """One strategy on one cluster at its best rate: a row."""
    spec, exchange = STRATEGIES[task["strategy"]]
    gigabits = None if task["network"] == "none" else float(task["network"])
    lr, runs = tuned(spec, fleet(task["cluster"], gigabits, exchange), batch=BATCH, by="seconds", micro=MICRO, **task["options"])
    return {
        **{key: task[key] for key in ("network", "cluster", "strategy")},
        "lr": lr,
        "s": statistics.mean(run.ended_s for run in runs),
        "samples_per_s": statistics.mean(run.samples_per_s for run in runs),
        "staleness": statistics.mean(run.staleness for run in runs),
        "missed": sum(run.seconds is None for run in runs),
        "runs": [asdict(run) for run in runs],
    }


def compare(network: str, clusters: list[str], *, jobs: int, names: list[str], what: str, **options: Any) -> list[dict[str, Any]]:
    """A row for each cluster type and strategy; the ratio of the best baseline's time to ABS-SGD's is printed."""
    tasks = [{"network": network, "cluster": each, "strategy": name, "options": options} for each in clusters for name in names]
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        rows = []
        for row in pool.map(measure, tasks):
            rows.append(row)
            print(
                f"{network:>5} {row['cluster']:9} {row['strategy']:19} {row['lr']:>5g} {row['s']:>8.2f} s "
                f"{row['samples_per_s']:>7,.0f} samples/s {row['staleness']:>5.1f}{_never(row['missed'])}",
                flush=True,
            )
    times = {(row["cluster"], row["strategy"]): row["s"] for row in rows}
    baselines = [name for name in BASELINES if name in names]
    ratios = [min(times[each, name] for name in baselines) / times[each, "ABS-SGD"] for each in clusters]
    shown = ", ".join(f"{cluster} {ratio:.2f}" for cluster, ratio in zip(clusters, ratios, strict=True))
    where = "no transfer time" if network == "none" else f"{network} Gb/s"
    seeds = len(options["seeds"])
    text = f"best baseline's virtual time to {options['target']:.0%} on {what} over ABS-SGD's, 4 unequal workers, {where}, {seeds} seeds"
    tell(text, f"mean {statistics.mean(ratios):.2f} ({shown})", "1.3" if network == "10" else "")
    return rows


def _never(missed: int) -> str:
    return f"  ({missed} never got there: their whole time counts)" if missed else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", default=["10", "1", "none"], choices=["10", "1", "none"], help="Gb/s")
    parser.add_argument("--cluster", nargs="+", default=list(CLUSTERS), choices=CLUSTERS)
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES), choices=STRATEGIES)
    parser.add_argument("--wrong", type=float, default=WRONG, help="share of the training labels that are drawn anew")
    parser.add_argument("--target", type=float, default=TARGET)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--out", type=Path, help="write the rows there")
    arguments = parser.parse_args()
    print(f"{'Gb/s':>5} {'cluster':9} {'strategy':19} {'rate':>5} {'to target':>10}")
    rows = []
    options = {"seeds": range(arguments.seeds), "target": arguments.target, "epochs": arguments.epochs, "wrong": arguments.wrong}
    what = f"the digits with {arguments.wrong:.0%} of the labels redrawn" if arguments.wrong else "the digits"
    names = list(dict.fromkeys(["ABS-SGD", *arguments.strategies]))
    for network in arguments.network:
        rows += compare(network, arguments.cluster, jobs=arguments.jobs, names=names, what=what, **options)
        if arguments.out is not None:
            arguments.out.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

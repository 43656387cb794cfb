"""ABS-SGD against its baselines on unequal workers: virtual time to a target accuracy, each strategy at its best rate of one grid.

    python benchmarks/heterogeneous.py [--network 10 1 none] [--seeds 5] [--out docs/data/heterogeneous.json]

Digits; four workers of the cluster types of the specification: relative time of a sample 1, 1, 1.25, 1.5 (mild), 1, 1, 2, 2 (moderate),
1, 2, 4, 8 (severe). A sample takes 2 ms on the fastest; updates and versions travel like those of ResNet-18 in float32 (44.7 MB) at 10 or
1 Gb/s, or take no time. Those that step for all at once average by a ring all-reduce, the others push to and pull from servers that are
never the bottleneck; all have one update in flight, but for the last one. Batches: 64 samples a synchronous step, 16 an asynchronous order.
"""

import argparse
import json
import statistics
import sys
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
BATCH, ORDER = 64, 16
STRATEGIES: dict[str, tuple[Any, str]] = {
    "ABS-SGD": ({"abs_sgd": {"batch_size": ORDER, "least": 8}}, "ring"),
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


def compare(network: str, clusters: list[str], *, seeds: int, target: float, epochs: int) -> list[dict[str, Any]]:
    """A row for each cluster type and strategy; the ratio of the best baseline's time to ABS-SGD's is printed."""
    gigabits = None if network == "none" else float(network)
    rows, ratios = [], []
    for cluster in clusters:
        times = {}
        for name, (spec, exchange) in STRATEGIES.items():
            place = fleet(cluster, gigabits, exchange)
            lr, runs = tuned(spec, place, target=target, batch=BATCH, epochs=epochs, seeds=range(seeds), by="seconds")
            times[name] = statistics.mean(run.ended_s for run in runs)
            rate = statistics.mean(run.samples_per_s for run in runs)
            missed = sum(run.seconds is None for run in runs)
            stale = statistics.mean(run.staleness for run in runs)
            rows.append(
                {"network": network, "cluster": cluster, "strategy": name, "lr": lr, "s": times[name], "runs": [asdict(r) for r in runs]}
            )
            print(
                f"{network:>5} {cluster:9} {name:19} {lr:>5g} {times[name]:>8.2f} s {rate:>7,.0f} samples/s {stale:>5.1f}{_never(missed)}",
                flush=True,
            )
        ratios.append(min(times[name] for name in BASELINES) / times["ABS-SGD"])
        print(f"{network:>5} {cluster:9} best baseline / ABS-SGD: {ratios[-1]:.2f}", flush=True)
    shown = ", ".join(f"{cluster} {ratio:.2f}" for cluster, ratio in zip(clusters, ratios, strict=True))
    where = "no transfer time" if gigabits is None else f"{network} Gb/s"
    what = f"best baseline's virtual time to {target:.0%} on the digits over ABS-SGD's, 4 unequal workers, {where}, {seeds} seeds"
    tell(what, f"mean {statistics.mean(ratios):.2f} ({shown})", "1.3" if network == "10" else "")
    return rows


def _never(missed: int) -> str:
    return f"  ({missed} never got there: their whole time counts)" if missed else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", default=["10", "1", "none"], choices=["10", "1", "none"], help="Gb/s")
    parser.add_argument("--cluster", nargs="+", default=list(CLUSTERS), choices=CLUSTERS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--target", type=float, default=0.96)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", type=Path, help="write the rows there")
    arguments = parser.parse_args()
    print(f"{'Gb/s':>5} {'cluster':9} {'strategy':19} {'rate':>5} {'to target':>10}")
    rows = []
    for network in arguments.network:
        rows += compare(network, arguments.cluster, seeds=arguments.seeds, target=arguments.target, epochs=arguments.epochs)
        if arguments.out is not None:
            arguments.out.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How many events a second the timing-only simulator carries on one core, and what bounds it.

    python benchmarks/simulator.py [--workers 10 1000 10000] [--seconds 6] [--versions 1000]

An event is a fact that one of the three machines (brain, shard, worker) takes; the clock's own steps are not counted. Rates are by CPU time
of this thread, once the first hundred updates are in. The shares say where that time went: `driver` is the simulator's own. A whole run of
ABS-SGD, 1,000 workers over `--versions` versions, is timed from its start to its end.
"""

import argparse
import gc
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

from table import tell

from mottle import strategies
from mottle.core.brain import Brain
from mottle.core.config import BrainConfig
from mottle.core.shard import Shard
from mottle.core.worker import Worker
from mottle.simulate import Fleet, Lognormal, Simulation, Synthetic, Workers

SPECS: dict[str, Any] = {"async": "async", "fedbuff": {"fedbuff": {"buffer_size": 100}}, "sync": "sync", "abs_sgd": "abs_sgd"}
MODEL_BYTES = 44_695_848


def simulation(num_workers: int, spec: Any) -> Simulation:
    """Unequal workers on 10 Gb/s links, a quarter of them of varying speed; 32 samples of each at a time."""
    paces: tuple[Any, ...] = (Lognormal(median_s=0.002, sigma=0.2), 0.002, 0.004, 0.008)
    groups = tuple(
        Workers(name=f"g{i}", count=(num_workers + i) // 4, sample_s=pace, bandwidth_bytes_per_s=1.25e9, latency_s=50e-6)
        for i, pace in enumerate(paces)
    )
    batch = 32 * num_workers if spec == "sync" else 32
    config = BrainConfig(num_positions=10**9, max_ns=10**15)
    brain = Brain(config, strategies.build(spec, {"batch_size": batch}))
    return Simulation(brain, Fleet(workers=groups), Synthetic(MODEL_BYTES), micro_batch=8 if spec == "abs_sgd" else None)


class Shares:
    """CPU time spent inside the machines."""

    def __init__(self) -> None:
        self.spent = {"brain": 0.0, "shard": 0.0, "worker": 0.0}
        for name, cls in (("brain", Brain), ("shard", Shard), ("worker", Worker)):
            cls.handle = self._timed(name, cls.handle)  # type: ignore[attr-defined]  # for the time of this script

    def _timed(self, name: str, handle: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            began = time.thread_time()
            try:
                return handle(*arguments, **options)
            finally:
                self.spent[name] += time.thread_time() - began

        return timed


def run_for(run: Simulation, seconds: float) -> tuple[int, float]:
    """Events and CPU seconds of going on for that long."""
    events, began = run.num_events, time.thread_time()
    run.run(until=lambda: run.clock.num_events % 1024 == 0 and time.thread_time() - began > seconds)
    return run.num_events - events, time.thread_time() - began


def warm(num_workers: int, spec: Any) -> Simulation:
    """A run that is under way: the first hundred updates are in."""
    run = simulation(num_workers, spec)
    run.start()
    begun = run.num_brain_events
    run.run(until=lambda: run.num_brain_events > begun + min(200, num_workers))
    gc.collect()
    gc.freeze()  # what stands by now stays; collections need not look at it again
    return run


def whole_run(num_versions: int, num_workers: int = 1000) -> tuple[float, int]:
    """CPU seconds and events of an ABS-SGD run of so many versions."""
    began = time.thread_time()
    run = simulation(num_workers, "abs_sgd")
    run.run(until=lambda: run.tally.num_versions >= num_versions)
    return time.thread_time() - began, run.num_events


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[10, 1000, 10_000])
    parser.add_argument("--seconds", type=float, default=6.0, help="of CPU time for each line")
    parser.add_argument("--versions", type=int, default=1000, help="of the whole run")
    arguments = parser.parse_args()
    if arguments.versions:
        spent_s, events = whole_run(arguments.versions)
        what = f"simulator, timing only, 1,000 workers over {arguments.versions:,} versions of ABS-SGD, CPU time"
        tell(what, f"{spent_s:.0f} s, {events:,} events", "120 s")
    lines = []
    for num_workers in arguments.workers:
        for name, spec in SPECS.items():
            events, spent_s = run_for(warm(num_workers, spec), arguments.seconds)
            lines.append((num_workers, name, spec, events / spent_s))
    for num_workers in arguments.workers:
        rates = ", ".join(f"{rate:,.0f} ({name})" for count, name, _, rate in lines if count == num_workers)
        aim = "50,000" if num_workers == 10_000 else ""
        tell(f"simulator, timing only, {num_workers:,} workers, CPU time", f"{rates} events/s", aim)
    shares = Shares()
    print(f"{'workers':>8} {'strategy':10} {'events/s':>10}   share of the time: brain, shard, worker, driver")
    for num_workers, name, spec, rate in lines:
        run = warm(num_workers, spec)
        shares.spent = dict.fromkeys(shares.spent, 0.0)
        _, spent_s = run_for(run, arguments.seconds / 3)
        parts = [share / spent_s for share in shares.spent.values()]
        print(f"{num_workers:>8,} {name:10} {rate:>10,.0f}   " + " ".join(f"{part:5.0%}" for part in (*parts, 1 - sum(parts))))
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    tell("simulator, timing only, peak memory", f"{peak_gib:.2f} GiB", "1 GiB at 10,000 workers")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What a batch policy is worth when a crew grows: virtual time to a target accuracy on the digits, at the same base batch and rate.

    python benchmarks/batch_policies.py [--seeds 3] [--lr 0.2]

Two workers begin, six more join after a second. A sample takes 2 ms, an exchange with the servers 20 ms; the rate is that of steps of 32
samples, 16 of each of the first two workers.
"""

import argparse
import statistics
import sys
from typing import Any

from learning_digits import tuned
from table import tell

from mottle.simulate import Fault, Fleet, Workers

BASE, EACH = 32, 16
POLICIES: dict[str, Any] = {
    "fixed": "fixed",
    "linear": {"linear": {"per_worker": EACH, "ramp_steps": 20}},
    "linear, rate as it is": {"linear": {"per_worker": EACH, "rate": "constant"}},
    "adascale": {"adascale": {"per_worker": EACH}},
    "noise_scale": {"noise_scale": {"most": 8 * BASE, "hold_steps": 10}},
}


def fleet() -> Fleet:
    joins = tuple(Fault(kind="join", group="w", at_s=1.0) for _ in range(6))
    return Fleet(workers=(Workers(name="w", count=2, sample_s=0.002, latency_s=0.01),), faults=joins)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lr", type=float, default=0.2)
    parser.add_argument("--target", type=float, default=0.96)
    arguments = parser.parse_args()
    shown = []
    for name, policy in POLICIES.items():
        spec = {"sync": {"batch_policy": policy}}
        seeds = range(arguments.seeds)
        _, runs = tuned(spec, fleet(), target=arguments.target, batch=BASE, epochs=12, seeds=seeds, by="seconds", rates=(arguments.lr,))
        seconds, samples = (statistics.mean(getattr(run, each) for run in runs) for each in ("ended_s", "ended_samples"))
        missed = sum(run.seconds is None for run in runs)
        print(f"{name:22} {seconds:>7.2f} s {samples:>8,.0f} samples" + (f"  ({missed} never got there)" if missed else ""), flush=True)
        shown.append(f"{name} {seconds:.2f} s ({samples:,.0f} samples)")
    tell(f"2 workers and 6 more after 1 s, virtual time to {arguments.target:.0%} on the digits, {arguments.seeds} seeds", "; ".join(shown))
    return 0


if __name__ == "__main__":
    sys.exit(main())

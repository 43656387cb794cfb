"""Samples a second of the strategies that bear stragglers, on two simulated crews whose stragglers are other ones every time.

    python benchmarks/stragglers.py [--seconds 120]

`hangs`: 64 equal workers with a large fixed cost of an order (0.3 s, of which 0.05 s are samples), each of which stands still for 1 to 3 s
every 20 s. `jitter`: 16 equal workers whose speed is lognormal with sigma 1.2, drawn anew for every order, and which look for messages
every 4 samples. Time is virtual, so the load of the machine does not matter; every strategy meets the same crew and the same luck.
"""

import argparse
import random
import sys
from collections.abc import Mapping
from typing import Any

from table import tell

from mottle import strategies
from mottle.core.brain import Brain
from mottle.core.config import BrainConfig
from mottle.simulate import Fault, Fleet, Lognormal, Simulation, Synthetic, Workers

SHARE = 24  # samples of a batch, for each worker
MICRO = {"hangs": None, "jitter": 4}
SPECS: Mapping[str, Mapping[str, Any]] = {
    "hangs": {
        "sync": "sync",
        "backup, 8 workers": {"backup": {"num_backups": 8}},
        "gradient_coding, s = 3": {"gradient_coding": {"num_stragglers": 3}},
        "gradient_coding, s = 7": {"gradient_coding": {"num_stragglers": 7}},
        "sr_sgc, lambda = 14": {"sr_sgc": {"num_stragglers": 14}},
        "m_sgc, lambda = 15": {"m_sgc": {"num_stragglers": 15}},
        "m_sgc, lambda = n": {"m_sgc": {"num_stragglers": 64}},
    },
    "jitter": {
        "sync": "sync",
        "backup, 2 workers": {"backup": {"num_backups": 2}},
        "gradient_coding, s = 1": {"gradient_coding": {"num_stragglers": 1}},
        "gradient_coding, s = 3": {"gradient_coding": {"num_stragglers": 3}},
        "sr_sgc, lambda = 4": {"sr_sgc": {"num_stragglers": 4}},
        "m_sgc, lambda = 4": {"m_sgc": {"num_stragglers": 4}},
        "m_sgc, lambda = n": {"m_sgc": {"num_stragglers": 16}},
    },
}


def crew(name: str, seconds: float) -> Fleet:
    if name == "jitter":
        return Fleet(workers=(Workers(count=16, sample_s=Lognormal(median_s=0.01, sigma=1.2)),))
    dice, faults = random.Random(3), []
    for worker in range(64):
        at_s = dice.expovariate(1 / 20)
        while at_s < seconds:
            for_s = dice.uniform(1, 3)
            faults.append(Fault(kind="pause", worker=f"worker-{worker}", at_s=at_s, for_s=for_s))
            at_s += for_s + dice.expovariate(1 / 20)
    return Fleet(workers=(Workers(count=64, sample_s=0.002, overhead_s=0.3),), faults=tuple(faults))


def samples_per_s(fleet: Fleet, spec: Any, micro_batch: int | None, seconds: float) -> float:
    config = BrainConfig(num_positions=10**7, max_ns=round(seconds * 1e9), lease_floor_ns=None)
    brain = Brain(config, strategies.build(spec, {"batch_size": SHARE * fleet.num_workers, "lr": 0.1}))
    run = Simulation(brain, fleet, Synthetic(10**6, 1), micro_batch=micro_batch, seed=1).run()
    return brain.samples / (run.clock.now_ns / 1e9)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0, help="of virtual time for each strategy")
    arguments = parser.parse_args()
    for name, specs in SPECS.items():
        fleet = crew(name, arguments.seconds)
        rates = {label: samples_per_s(fleet, spec, MICRO[name], arguments.seconds) for label, spec in specs.items()}
        figures = "; ".join(f"{label} {rate:,.0f}" for label, rate in rates.items())
        tell(f"samples/s with other stragglers every time, simulated: {name}", figures, "more than sync")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Unequal workers on live Ray, and what the simulator says of the same fleet: throughput of six strategies.

    python benchmarks/unequal.py [--seconds 40] [--strategies sync async ...]

Digits; four workers with declared delays of 20 ms a sample, the last one of 80 ms, which dominate computing by far: their speeds add up to
162.5 samples/s. Throughput counts accepted samples from the first quarter on. The fleet that is simulated is recorded from the live
asynchronous run (as by `mottle fleet record`), so what is predicted for the other strategies is not fitted to them.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples" / "digits"))
import digits
from table import tell

from mottle import strategies
from mottle.core.brain import Brain
from mottle.core.config import BrainConfig
from mottle.observe.record import read_run
from mottle.sdk import Trainer, WorkerGroup, kept_processes
from mottle.simulate import Fleet, Simulation, Synthetic
from mottle.simulate.recorded import fleet_of_run

DELAY_S = 0.02
SPEED = 3 / DELAY_S + 1 / (4 * DELAY_S)
MICRO = 4
WARM = 0.25
LR = {"batch_size": 32, "lr": 0.02, "optimizer": {"sgd": {"lr": 0.02}}}
STRATEGIES: dict[str, Any] = {
    "async": {"async": {"batch_size": 32}},
    "abs_sgd": {"abs_sgd": {"batch_size": 16, "least": 8}},
    "lb_bsp": {"lb_bsp": {"batch_size": 256}},
    "sync": {"sync": {"batch_size": 128}},
    "ssp": {"ssp": {"batch_size": 16, "slack": 3}},
    "diloco": {"diloco": {"batch_size": 64, "local_steps": 4}},
}


def live(spec: Any, folder: str, seconds: float) -> float:
    """Accepted samples a second."""
    Trainer(
        digits.DigitNet,
        digits.loss,
        digits.train_data,
        optimizer=LR["optimizer"],
        batch_size=LR["batch_size"],
        micro_batch_size=MICRO,
        until={"seconds": seconds, "epochs": 1000},
        strategy=spec,
        scaling_config=[
            WorkerGroup(name="fast", count=3, num_cpus=0.4, delay_s=DELAY_S),
            WorkerGroup(name="slow", count=1, num_cpus=0.4, delay_s=4 * DELAY_S),
        ],
        seed_samples=False,
        folder=folder,
    ).fit()
    rows = read_run(folder).timeline
    rows = rows[(rows["verdict"] == "accepted") & (rows["t_s"] >= WARM * seconds)]
    first, last = rows["t_s"].min(), rows["t_s"].max()
    return float(rows[rows["t_s"] > first]["samples"].sum() / (last - first))


def simulated(spec: Any, fleet: Fleet, seconds: float) -> float:
    """The same of the simulator."""
    config = BrainConfig(num_positions=1137, max_ns=round(seconds * 1e9), lease_floor_ns=None)
    brain = Brain(config, strategies.build(spec, LR))
    run = Simulation(brain, fleet, Synthetic(0), micro_batch=MICRO)
    run.run(until=lambda: run.clock.now_ns >= WARM * seconds * 1e9)
    samples, since_ns = brain.samples, run.clock.now_ns
    run.run()
    return (brain.samples - samples) / (run.clock.now_ns - since_ns) * 1e9


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=40.0, help="of each live run")
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    arguments = parser.parse_args()
    names = ["async", *(name for name in arguments.strategies if name != "async")]
    with tempfile.TemporaryDirectory() as folder, kept_processes():
        rates = {}
        for name in names:
            rates[name] = live(STRATEGIES[name], f"{folder}/{name}", arguments.seconds)
            aim = "0.95" if name in ("async", "abs_sgd", "lb_bsp") else ""
            tell(f"4 live workers of speed 1, 1, 1, 1/4, {name}", f"{rates[name] / SPEED:.3f} of the sum of their speeds", aim)
        fleet, _ = fleet_of_run(f"{folder}/async")
    for name in names:
        predicted = simulated(STRATEGIES[name], fleet, 5 * arguments.seconds)
        off = predicted / rates[name] - 1
        tell(f"the same simulated, {name}", f"{predicted:.1f} samples/s, live {rates[name]:.1f}: {off:+.1%}", "10 %")
    return 0


if __name__ == "__main__":
    sys.exit(main())

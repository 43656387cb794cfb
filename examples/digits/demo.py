"""Six workers, one story: one is slow, one lies, one is killed, two arrive late, and the model is trained all the same.

    python examples/digits/demo.py [--out runs/demo]

Zeno++ tests every update against a gradient on trusted data. The same fleet with plain asynchronous averaging is run afterwards, for
comparison: the liar destroys it.
"""

import argparse
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import digits
import ray
from rich.console import Console

from mottle.observe import Display, Snapshot, write_report
from mottle.observe.picture import report_png
from mottle.sdk import Result, Run, Trainer, WorkerGroup

EPOCHS = 24
KILL_AT = 0.3
JOIN_AT = 0.5
FLEET = [
    WorkerGroup(name="honest", count=2, max_count=4, num_cpus=0.5, delay_s=0.0005),
    WorkerGroup(name="slow", count=1, num_cpus=0.5, delay_s=0.002),  # four times the delay of the others
    WorkerGroup(name="liar", count=1, num_cpus=0.5, delay_s=0.0005, attack={"sign_flip": {"scale": 10}}),
]


def trainer(name: str, out: Path, strategy: dict[str, Any]) -> Trainer:
    """The job; only the strategy differs between the two runs."""
    return Trainer(
        digits.DigitNet,
        digits.loss,
        digits.train_data,
        validation_data=digits.validation_data,
        test_data=digits.test_data,
        metrics={"accuracy": digits.accuracy},
        optimizer={"sgd": {"lr": 0.07}},
        lr_schedule={"cosine": {"samples": EPOCHS * len(digits.train_data()), "floor": 0.2}},
        batch_size=32,
        until={"epochs": EPOCHS},
        strategy=strategy,
        scaling_config=FLEET,
        shards=2,
        evaluate_every=1000,
        folder=out / name,
    )


# A fresh reference matters more than a large one: with one that is ten candidates old, steps of its length overshoot.
ZENO = {"zeno++": {"rho": 0.001, "refresh_every": 6, "ahead": 2, "validation_samples": 200}}


class Story:
    """What happens to the fleet: a kill at 30 % of the samples, two arrivals at 50 %."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._killed = False
        self._joined = False

    def tell(self, snapshot: Snapshot) -> None:
        assert snapshot.total_samples is not None
        done = snapshot.samples / snapshot.total_samples
        if done >= KILL_AT and not self._killed:
            os.kill(self._run.processes()["w1"], signal.SIGKILL)
            self._killed = True
        if done >= JOIN_AT and not self._joined:
            self._run.add_workers(2, "honest")
            self._joined = True


def play(job: Trainer, title: str) -> Result:
    """Run to the end under a live display."""
    console = Console()
    console.rule(title)
    run = job.start()
    story = Story(run)
    with Display(console) as display:
        for snapshot in run.watch():
            story.tell(snapshot)
            display.show(snapshot)
        result = run.result()
        display.finish(run.progress)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    out: Path = parser.parse_args().out
    shutil.rmtree(out, ignore_errors=True)
    zeno = play(trainer("zeno++", out, ZENO), "Zeno++")
    plain = play(trainer("async", out, {"async": {}}), "The same fleet, plain asynchronous averaging")
    ray.shutdown()
    assert zeno.metrics is not None
    assert plain.metrics is not None
    report = write_report(out / "zeno++", baseline=out / "async", out=out / "report.html")
    report_png(out / "zeno++", baseline=out / "async", out=out / "report.png")
    print(f"Zeno++ {zeno.metrics['test_accuracy']:.1%}, plain averaging {plain.metrics['test_accuracy']:.1%} test accuracy")
    print(f"report: {report}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

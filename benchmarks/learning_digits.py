"""The digits on virtual time: what the benchmarks of strategies train, and how they find each strategy's best rate."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import TensorDataset

from mottle import data, strategies
from mottle.core.brain import Brain
from mottle.core.config import BrainConfig
from mottle.engines.flat import flatten, layout_of
from mottle.simulate import Fleet, Learning, Simulation, TorchProblem

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples" / "digits"))
import digits

torch.set_num_threads(1)  # the model is small; threads would wait for one another
BEHIND = 1.5
METRIC = "test_accuracy"
RATES = (0.1, 0.2, 0.4, 0.8)
"""The common grid: every strategy is judged at its best one."""
MICRO = 8
"""Samples between two looks of a worker at its mailbox, as in the specification of ABS-SGD."""
EVALUATE_EVERY = 256


@dataclass(frozen=True)
class Ran:
    """One run. Times are virtual; None where the target was not reached."""

    seconds: float | None
    samples: int | None
    ended_s: float
    ended_samples: int
    """Of the whole run; those to the target, if it was reached."""
    samples_per_s: float
    staleness: float
    best: float
    last: float
    """Of the metric, at the end."""


def training_data(wrong: float) -> TensorDataset:
    """The digits, with that share of the labels drawn anew (so that a tenth of these are right by chance)."""
    images, labels = digits.train_data().tensors
    generator = torch.Generator().manual_seed(7)
    drawn = torch.rand(len(labels), generator=generator) < wrong
    return TensorDataset(images, torch.where(drawn, torch.randint(0, 10, labels.shape, generator=generator), labels))


def train(
    spec: Any,
    fleet: Fleet,
    lr: float,
    seed: int,
    *,
    target: float,
    batch: int,
    epochs: int,
    wrong: float = 0.0,
    micro: int = MICRO,
    evaluate_every: int | None = EVALUATE_EVERY,
) -> Ran:
    """To the target, or to the end of the data.

    Args:
        wrong: share of the training labels that are drawn anew; see `training_data`.
        micro: samples between two looks of a worker at its mailbox.
        evaluate_every: samples between two evaluations; None for those of the beginning and of the end alone.
    """
    torch.manual_seed(seed)
    module = digits.DigitNet()
    layout = layout_of(module, ())
    source = data.build(training_data(wrong), None)
    problem = TorchProblem(
        digits.DigitNet,
        digits.loss,
        layout,
        flatten(module, layout),
        data.Loader(source, seed=seed),
        trusted=data.build(digits.validation_data(), None),
        test=data.build(digits.test_data(), None),
        metrics={"accuracy": digits.accuracy},
        micro_batch_size=4096,
        seed=seed,
    )
    optimizer = {"sgd": {"lr": lr}}
    strategy = strategies.build(spec, {"batch_size": batch, "lr": lr, "optimizer": optimizer})
    config = BrainConfig(
        num_positions=source.num_rows,
        max_samples=epochs * source.num_rows,
        evaluate_every=epochs * source.num_rows if evaluate_every is None else evaluate_every,
        target=(METRIC, target),
        lease_floor_ns=None,
        seed=seed,
    )
    brain = Brain(config, strategy)
    numbers = Learning(problem, brain.shards.live, optimizer=strategy.server_optimizer or optimizer, seed=seed)
    run = Simulation(brain, fleet, numbers, micro_batch=micro, seed=seed).run()
    reached = next((point for point in run.tally.points if point.metrics[METRIC] >= target), None)
    used = sum(each.verdicts["accepted"] for each in run.tally.workers.values())
    return Ran(
        None if reached is None else reached.now_ns / 1e9,
        None if reached is None else reached.samples,
        (run.clock.now_ns if reached is None else reached.now_ns) / 1e9,
        brain.samples if reached is None else reached.samples,
        brain.samples / max(1e-9, run.clock.now_ns / 1e9),
        sum(each.staleness_sum for each in run.tally.workers.values()) / max(1, used),
        max((point.metrics[METRIC] for point in run.tally.points), default=0.0),
        run.tally.points[-1].metrics[METRIC],
    )


def tuned(
    spec: Any,
    fleet: Fleet,
    *,
    target: float,
    batch: int,
    epochs: int,
    seeds: Sequence[int],
    by: str,
    rates: Sequence[float] = RATES,
    **more: Any,
) -> tuple[float, list[Ran]]:
    """The rate of the grid with the least mean cost to the target (`by` seconds or samples) over the seeds, and the runs at that rate.

    A run that never gets there costs all that it took. Rates whose first seed takes more than `BEHIND` times as long as the best first one
    are not pursued. What else `train` takes may be given.
    """
    runs = {lr: [train(spec, fleet, lr, seeds[0], target=target, batch=batch, epochs=epochs, **more)] for lr in rates}
    best = min(_cost(each[0], by) for each in runs.values())
    close = [lr for lr in rates if _cost(runs[lr][0], by) <= BEHIND * best]
    for lr in close:
        runs[lr] += [train(spec, fleet, lr, seed, target=target, batch=batch, epochs=epochs, **more) for seed in seeds[1:]]
    lr = min(close, key=lambda rate: sum(_cost(run, by) for run in runs[rate]))
    return lr, runs[lr]


def _cost(run: Ran, by: str) -> float:
    return run.ended_s if by == "seconds" else run.ended_samples

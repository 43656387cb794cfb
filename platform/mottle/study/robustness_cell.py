"""One cell of a robustness study: one model trained by workers of whom some are hostile, under one rule and one attack.

Letters: N workers, Q faulty, B examples of a batch, D parameters.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from mottle import aggregation, attacks
from mottle.core.errors import ConfigError
from mottle.study.robustness_tasks import Examples, Task, build_task

Spec = Mapping[str, Mapping[str, Any]]
Rows = Tensor | list[Tensor | None]
BATCH = 16
"""Examples of a worker's batch: small enough that noise dominates the later rounds, where the subtle attacks live."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What is trained; two equal cells give the same outcome, bit for bit, on one machine."""

    task: str
    rule: Spec
    attack: Spec
    num_workers: int
    num_faulty: int
    rounds: int
    seed: int

    def __post_init__(self) -> None:
        if not 0 <= self.num_faulty < self.num_workers:
            raise ConfigError(
                f"a study needs 0 <= faulty < workers, got {self.num_faulty} of {self.num_workers}; lower the byzantine share"
            )
        if self.rounds < 1:
            raise ConfigError(f"a study needs at least 1 round, got {self.rounds}")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a cell ended."""

    cell: Cell
    accuracy: float
    """On the test examples, after the last round."""
    skipped_rounds: int
    """Rounds without a step, because the rule's condition did not hold for the rows that arrived."""
    diverged: bool
    """Whether a parameter became infinite or NaN; training ends there."""
    parameters: str
    """SHA-256 of the final parameters, first 16 hexadecimal digits: equal for a repetition, bit for bit."""
    note: str = ""
    """Why the last skipped round was skipped."""


def run_cell(cell: Cell) -> Outcome:
    """Train the cell's model."""
    return Training(cell).run()


class Training:
    """The synchronous rounds of one cell. Everything random is drawn from the cell's seed: data, faulty ids and attack apart."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.task: Task = build_task(cell.task, cell.seed)
        self.attack = attacks.build(cell.attack)
        self.rule = aggregation.build(cell.rule)
        self.params_D = self.task.start.clone()
        self.center_D: Tensor | None = None
        self.state: attacks.State = None
        self.data_dice = np.random.default_rng([cell.seed, 2])
        self.attack_dice = attacks.generator_for(cell.seed)
        faulty = np.random.default_rng([cell.seed, 3]).choice(cell.num_workers, cell.num_faulty, replace=False)
        self.faulty_ids = tuple(sorted(int(i) for i in faulty))
        self.skipped, self.note = 0, ""

    def run(self) -> Outcome:
        """All rounds, or as many as the parameters stay finite."""
        for round in range(self.cell.rounds):
            rows_ND, counts_N = self.arrivals(round)
            try:
                step_D = self.aggregate(rows_ND, counts_N)
            except ConfigError as error:
                self.skipped, self.note = self.skipped + 1, str(error)
                continue
            self.center_D = step_D
            self.params_D = self.params_D - self.task.learning_rate * step_D
            if not torch.isfinite(self.params_D).all():
                break
        return Outcome(
            cell=self.cell,
            accuracy=self.task.accuracy(self.params_D),
            skipped_rounds=self.skipped,
            diverged=not bool(torch.isfinite(self.params_D).all()),
            parameters=sha256(self.params_D.numpy().tobytes()).hexdigest()[:16],
            note=self.note,
        )

    def arrivals(self, round: int) -> tuple[Rows, list[float] | None]:
        """The rows that reach the rule, None for those without a valid message, and their sample counts unless all are equal."""
        computed_ND = self.task.gradients(self.params_D, self.batches(round))
        view = attacks.RoundView.split(computed_ND, self.faulty_ids, round=round, rule=self.aggregate)
        sent_QD, self.state = self.attack.step(view, self.state, generator=self.attack_dice)
        if isinstance(self.attack, attacks.Sybil):
            view = self.attack.expand(view)
        sent_QD, counts = self.delivered(sent_QD, view.faulty_ids, round)
        rows_ND = self.attack.ingress(view.assemble(sent_QD), round=round, generator=self.attack_dice)
        if all(count == BATCH for count in counts.values()):
            return rows_ND, None
        ids = sorted(view.faulty_ids + (view.honest_ids or ()))
        claimed = [counts.get(worker, BATCH) for worker in ids]
        arrived = [None if count is None else row_D for count, row_D in zip(claimed, rows_ND, strict=True)]
        return arrived, [BATCH if count is None else count for count in claimed]

    def batches(self, round: int) -> Examples:
        """Every worker's batch, drawn from its own part of the data; the faulty ones' labels as the attack has them."""
        per_worker = len(self.task.train) // self.cell.num_workers
        drawn_NB = self.data_dice.integers(per_worker, size=(self.cell.num_workers, BATCH))
        batches = self.task.train.take(torch.from_numpy(drawn_NB + per_worker * np.arange(self.cell.num_workers)[:, None]))
        labels = batches.labels.clone()
        for worker in self.faulty_ids:
            labels[worker] = self.attack.labels(labels[worker], round=round, generator=self.attack_dice)
        return replace(batches, labels=labels)

    def delivered(self, sent_QD: Tensor, faulty_ids: tuple[int, ...], round: int) -> tuple[Tensor, dict[int, float | None]]:
        """What a server makes of the faulty workers' messages: row and count of the first valid one of each, count None without one."""
        rows_QD, counts = sent_QD.clone(), dict[int, float | None]()
        for place, (worker, row_D) in enumerate(zip(faulty_ids, sent_QD, strict=True)):
            message = attacks.Message(worker=worker, round=round, payload=row_D, count=BATCH)
            forged = self.attack.messages(message, state=self.state, generator=self.attack_dice)
            valid = next((each for each in forged if is_valid(each, worker, round, row_D)), None)
            counts[worker] = None if valid is None else valid.count
            if valid is not None:
                rows_QD[place] = cast(Tensor, valid.payload)
        return rows_QD, counts

    def aggregate(self, rows_ND: Rows, counts_N: list[float] | None = None) -> Tensor:
        """The rule on the rows of a round, with what it needs of the server's own data."""
        needs = self.rule.config.inputs
        return self.rule(
            rows_ND,
            weights=counts_N,
            center=self.center_D if "center" in needs else None,
            reference=self.reference() if "reference" in needs and "score" not in needs else None,
            score=self.descents(rows_ND) if "score" in needs else None,
        )

    def reference(self) -> Tensor:
        """Gradient on the trusted examples, (D,)."""
        trusted = self.task.trusted
        return self.task.gradients(self.params_D, Examples(inputs=trusted.inputs[None], labels=trusted.labels[None]))[0]

    def descents(self, rows_ND: Rows) -> list[float]:
        """By how much a step along each row lowers the loss on the trusted examples; NaN for a missing row."""
        nowhere_D = torch.full_like(self.params_D, torch.nan)
        steps_ND = torch.stack([nowhere_D if row_D is None else row_D for row_D in rows_ND])
        candidates_MD = torch.cat([self.params_D[None], self.params_D - self.task.learning_rate * steps_ND])
        trusted, num_models = self.task.trusted, len(candidates_MD)
        repeated = Examples(inputs=trusted.inputs.expand(num_models, -1, -1), labels=trusted.labels.expand(num_models, -1))
        losses_M = self.task.losses(candidates_MD.double(), replace(repeated, inputs=repeated.inputs.double()))
        return (losses_M[0] - losses_M[1:]).tolist()


def is_valid(message: attacks.Message, worker: int, round: int, row_D: Tensor) -> bool:
    """Whether a server takes the message for an update of this worker in this round."""
    payload = message.payload
    well_formed = isinstance(payload, Tensor) and payload.shape == row_D.shape and payload.dtype == row_D.dtype
    return well_formed and (message.worker, message.round) == (worker, round)

"""Zeno++: asynchronous SGD that survives any number of faulty workers, by testing each update against a trusted gradient.

For a candidate with mean gradient g and the validation gradient v:  h = g * |v| / |g|,  score = lr * v.h - rho * |v|^2,  accepted if and
only if score >= -lr * epsilon; then x <- x - lr * h. Length carries no information, so a liar gains nothing by shouting.

Source: Xie, Koyejo, Gupta, "Zeno++: Robust Fully Asynchronous SGD", ICML 2020, arXiv 1903.07020; `asynchronous.md` B1, whose steps 1-8
this follows. `lr` in the test is the rate that the run starts with, also under a schedule, as in the authors' code: the test compares a
cosine with rho / lr, and a decaying rate would end by rejecting everybody.

`ahead` lets the validator work beside the training: the next reference is asked for that many candidates before it is needed, and each
serves `refresh_every - ahead` candidates, so v is never more than `refresh_every` candidates old. With `ahead=0` it is the paper's loop.
Candidates judged since the newest published version (steps that the shards have yet to make) count into its age.

Buffers (BatchNorm's running statistics) are the validator's: the first step that a reference leads to takes them from the reference, which
moved them over its trusted samples; those of the workers are not looked at.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mottle.core import strategy as s
from mottle.strategies.options import OrderOptions, Usual, below, not_above, refuse, unless
from mottle.strategies.turns import Turns

MAX_FAILED_REFERENCES = 3
MAX_SCALE = 2.0**127
"""Candidates so short that a larger factor would be needed count as zero: the factor must be a number of the parameters' float32 too."""


@dataclass(frozen=True, kw_only=True)
class ZenoPPConfig(OrderOptions):
    """Zeno++."""

    lr: float  # gamma in the paper
    """Step size, that of the server's SGD."""
    rho: float
    """Price of an update's squared length; an update is accepted if its cosine with the trusted gradient reaches rho / lr."""
    epsilon: float = 0.0
    """Slack of the test, in units of the squared length of the trusted gradient."""
    refresh_every: int = 10  # k in the paper
    """Candidates after which the trusted gradient is computed anew."""
    ahead: int = 0
    """Candidates before its use at which the next trusted gradient is asked for; less than `refresh_every`."""
    validation_samples: int = 128  # n_s in the paper
    """Trusted samples of one reference."""

    def __post_init__(self) -> None:
        refuse(
            "zeno++",
            self.faults(),
            not_above(0, lr=self.lr, rho=self.rho),
            below(0, epsilon=self.epsilon),
            below(1, refresh_every=self.refresh_every, validation_samples=self.validation_samples),
            unless(0 <= self.ahead < max(self.refresh_every, 1), f"0 <= ahead < refresh_every, got {self.ahead}"),
            unless(self.epsilon != 0 or self.rho < self.lr, f"rho < lr when epsilon is 0 (else nothing is ever accepted), got {self.rho}"),
        )

    def build(self) -> "ZenoPP":
        return ZenoPP(self)


@dataclass(frozen=True, slots=True)
class _Reference:
    name: str
    norm2: float


class ZenoPP(Usual):
    """State machine of Zeno++. Candidates are judged strictly in order of arrival."""

    needs_validation = True

    def __init__(self, config: ZenoPPConfig) -> None:
        self.config = config
        self.max_in_flight = config.max_in_flight
        self._turns = Turns()
        self._candidates: deque[s.Update] = deque()
        self._reference: _Reference | None = None
        self._following: _Reference | None = None
        self._asked: str | None = None
        self._judged = 0
        """Candidates judged with the reference in use."""
        self._unpublished: deque[tuple[int, int]] = deque()
        """Versions decided and not yet published, each with the candidates that were judged since, its own included."""
        self._buffers_at: int | None = None
        """Version that took the buffers of the reference in use; None while none has."""
        self._retired: list[tuple[str, int]] = []
        """References out of use, and the version that has to be published before they may be forgotten."""
        self._num_references = 0
        self._failed = 0
        self._measuring: str | None = None

    def handle(self, event: s.StrategyEvent, view: s.View) -> list[s.Decision]:
        decisions: list[s.Decision] = []
        match event:
            case s.UpdateArrived(update):
                self._turns.undecided(update.worker)
                self._candidates.append(update)
            case s.WorkerIdle(worker) if self._turns.may_go(worker, view.version):
                decisions.append(self._assign(worker))
            case s.VersionPublished(version):
                decisions += [self._assign(worker) for worker in self._turns.published(version)]
                decisions += self._forget_retired(version.number)
            case s.WorkerGone(worker):
                self._turns.gone(worker)
            case s.ReferenceReady(name, _, norm2) if name == self._asked:
                self._asked, self._following, self._failed = None, _Reference(name, norm2), 0
            case s.ReferenceFailed(name, reason) if name == self._asked:
                self._asked, self._failed = None, self._failed + 1
                if self._failed == MAX_FAILED_REFERENCES:
                    return [s.Halt(f"{self._failed} reference gradients in a row failed; the last one: {reason}")]
            case s.DotsMeasured(tag, dots) if tag == self._measuring:
                self._note_dots(dots)
        return decisions + self._judge_all(view)

    # --- references -------------------------------------------------------------------------------------------------------------------

    @property
    def _period(self) -> int:
        return self.config.refresh_every - self.config.ahead

    def _judge_all(self, view: s.View) -> list[s.Decision]:
        """Judge candidates as far as reference and measurements reach."""
        decisions: list[s.Decision] = []
        head = view.head.number
        while True:
            decisions += self._ask_if_due(view.version.number)
            if self._reference is None or self._judged == self._period:
                if self._following is None:
                    return decisions
                if self._reference is not None:
                    self._retired.append((self._reference.name, self._buffers_at or 0))
                    decisions += self._forget_retired(view.version.number)
                self._reference, self._following, self._judged, self._buffers_at = self._following, None, 0, None
                self._measuring = None
                continue
            if not self._candidates or self._measuring is not None:
                return decisions
            if self._reference.name not in self._candidates[0].dots:
                return [*decisions, self._measure()]
            accepted = self._judge(self._candidates.popleft(), self._reference, head)
            self._judged += 1
            if isinstance(accepted[0], s.Apply):
                head += 1
                self._unpublished.append((head, 0))
            self._unpublished = deque((number, since + 1) for number, since in self._unpublished)
            decisions += accepted

    def _ask_if_due(self, published: int) -> list[s.Decision]:
        """The next reference is asked for when `ahead` candidates, less the age it would begin with, are left for this one.

        So without `ahead` it waits until every step decided so far is published, and v is taken at the current model.
        """
        if self._asked is not None or self._following is not None:
            return []
        while self._unpublished and self._unpublished[0][0] <= published:
            self._unpublished.popleft()
        age = self._unpublished[0][1] if self._unpublished else 0
        left = self._period - self._judged if self._reference is not None else 0
        if left + age > self.config.ahead:
            return []
        self._num_references += 1
        self._asked = f"reference/{self._num_references}"
        return [s.RequestReference(self._asked, self.config.validation_samples)]

    def _measure(self) -> s.MeasureDots:
        assert self._reference is not None
        waiting = tuple(update.work_id for update in self._candidates if self._reference.name not in update.dots)
        self._measuring = f"{self._reference.name}:{','.join(map(str, waiting))}"
        return s.MeasureDots(self._measuring, waiting, self._reference.name)

    def _note_dots(self, dots: tuple[float, ...]) -> None:
        assert self._measuring is not None
        name, _, ids = self._measuring.partition(":")
        measured = dict(zip(map(int, ids.split(",")), dots, strict=True))
        self._measuring = None
        self._candidates = deque(
            replace(update, dots={**update.dots, name: measured[update.work_id]}) if update.work_id in measured else update
            for update in self._candidates
        )

    # --- the test ---------------------------------------------------------------------------------------------------------------------

    def _judge(self, update: s.Update, reference: _Reference, head: int) -> list[s.Decision]:
        config = self.config
        # On the gradient sum: h = scale * G, whatever its sample count. A quotient of roots does not overflow.
        scale = math.sqrt(reference.norm2) / math.sqrt(update.norm2) if 0 < update.norm2 < math.inf else 0.0
        if not 0 < scale <= MAX_SCALE:
            decision: s.Decision = s.Reject(update.work_id, "zero or immeasurable gradient, or zero trusted gradient")
        else:
            score = config.lr * scale * update.dots[reference.name] - config.rho * reference.norm2
            if score >= -config.lr * config.epsilon:
                self._turns.decided(update.worker, version=head + 1)
                return [
                    s.Apply(((update.work_id, scale),), scores={update.work_id: score}, buffers=self._take_buffers(reference, head + 1))
                ]
            decision = s.Reject(update.work_id, "fails the Zeno++ test", score)
        return [decision, self._assign(update.worker)] if self._turns.decided(update.worker) else [decision]

    def _take_buffers(self, reference: _Reference, version: int) -> str:
        """Those of the reference, once; no worker's: the test says nothing of them, and with a majority of liars nor would a median."""
        first, self._buffers_at = self._buffers_at is None, self._buffers_at or version
        return reference.name if first else ""

    def _forget_retired(self, published: int) -> list[s.Decision]:
        gone = [name for name, version in self._retired if version <= published]
        self._retired = [each for each in self._retired if each[0] not in gone]
        return [s.Forget(name) for name in gone]

    def _assign(self, worker: int) -> s.Assign:
        return s.Assign(worker, self.config.batch_size)

    # --- checkpoints ------------------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {"num_references": self._num_references}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The reference is computed anew: it belongs to a version that nobody holds any more."""
        self._num_references = state["num_references"]

    def check(self) -> None:
        assert self._judged <= self._period
        assert len({update.work_id for update in self._candidates}) == len(self._candidates)

"""Gradient coding: every sample of a batch is computed by several workers, so that the exact step needs only some of the crew.

The batch is split into chunks; each worker sends the coded sum of a few of them (`codes.py`). As soon as what came in determines the sum
over the whole batch, the model steps with it and whoever is still computing is given up. So `num_stragglers` workers may be slow, hang or
die in any step, and no sample is left out or put off: backup workers lose theirs to a later step, this computes them more than once.

A step takes as long as the (n - s)-th fastest worker with about s + 1 times its even share of the batch. Worth it where stragglers are
many times slower than the others or are dead, and change from step to step; for workers that are always slower `lb_bsp` is better.

The code follows the crew: whoever joins or leaves is in the code of the next step, and a worker that dies counts as a straggler of this
one. If more are missing than the code bears, the step is tried again with the crew that is left. With too few workers for any code the run
waits for one to join, and says so.

An update that is not finite is refused by the gate and counts as missing. Where that leaves too little to decode, those who sent such
updates sit out the next step if enough others are there; samples that nobody can compute end as rejected (`mottle.core.chunks`).

Source: Tandon et al., "Gradient Coding", ICML 2017 (arXiv 1612.03301); `heterogeneous.md` 7. Differs: a step ends when it can be decoded,
which is never later than with the (1 + mu) rule of the specification. Neutral reference: synchronous SGD on the same batch, step for step
(with the fractional code, that of one worker for each of its chunks, bit for bit).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from mottle.core import strategy as s
from mottle.core.errors import ConfigError
from mottle.strategies.codes import Code, chosen_code
from mottle.strategies.rounds import even_shares

CodeName = Literal["auto", "fractional", "cyclic"]
HOPELESS = 10
"""Rounds in a row without a step for what workers sent: then it will not get better."""


@dataclass(frozen=True, kw_only=True)
class GradientCodingConfig:
    """Synchronous SGD that bears stragglers without leaving out samples."""

    batch_size: int
    """Samples of one step, over all workers."""
    num_stragglers: int = 1  # s in the paper
    """Workers that no step waits for; each worker computes about so many shares more than its own."""
    code: CodeName = "auto"
    """`fractional`: groups of workers compute the same; `cyclic`: neighbours overlap, for crews that are no multiple of num_stragglers + 1;
    `auto`: the one that computes less, as long as its rounding errors stay small."""
    coded: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.num_stragglers < 0:
            raise ConfigError(
                f"gradient_coding needs batch_size >= 1 and num_stragglers >= 0, got {self.batch_size} and {self.num_stragglers}"
            )
        if self.code not in get_args(CodeName):
            raise ConfigError(f"gradient_coding knows the codes {', '.join(get_args(CodeName))}, got {self.code!r}")

    @property
    def least_workers(self) -> int:
        """Workers without which there is no step."""
        return self.num_stragglers + 1

    def build(self) -> "GradientCoding":
        return GradientCoding(self)


@dataclass(slots=True)
class _Round:
    """One step: who computes what of it, who is out, what came in."""

    code: Code
    members: list[int]
    """Workers by their place in the code, ascending slot."""
    first_chunk: int
    samples: int
    asked: set[int] = field(default_factory=set)
    """Asked and not yet known to have an order."""
    orders: dict[int, int] = field(default_factory=dict)
    """Worker -> work id that is still out."""
    arrived: dict[int, int] = field(default_factory=dict)
    """Worker -> work id of its update."""
    refused: set[int] = field(default_factory=set)
    """Workers whose updates failed the gate."""

    @property
    def chunks(self) -> tuple[int, ...]:
        return tuple(range(self.first_chunk, self.first_chunk + self.code.num_chunks))

    def hear(self, event: s.StrategyEvent) -> None:
        """Note what became of an order."""
        match event:
            case s.OrderIssued(work_id, worker, _):
                self.asked.discard(worker)
                self.orders[worker] = work_id
            case s.UpdateArrived(update):
                self.orders.pop(update.worker, None)
                self.arrived[update.worker] = update.work_id
            case s.OrderEnded(work_id, worker, _, refused) if self.orders.get(worker) == work_id:
                del self.orders[worker]
                if refused:
                    self.refused.add(worker)

    def terms(self) -> tuple[tuple[int, float], ...] | None:
        """(work id, weight) that give the batch's mean; None while too little is in."""
        decoded = self.code.decode([place for place, worker in enumerate(self.members) if worker in self.arrived])
        if decoded is None:
            return None
        return tuple((self.arrived[self.members[place]], factor / self.samples) for place, factor in decoded)

    @property
    def hopeless(self) -> bool:
        """Whether too little would be in if all came that are still out."""
        coming = self.asked | self.orders.keys() | self.arrived.keys()
        return self.code.decode([place for place, worker in enumerate(self.members) if worker in coming]) is None


class GradientCoding:
    """State machine of gradient coding."""

    max_in_flight = 1
    barriered = True
    needs_validation = False
    server_optimizer = None
    companion = None

    def __init__(self, config: GradientCodingConfig) -> None:
        self.config = config
        self._round: _Round | None = None
        self._next_chunk = 0
        self._sitting_out: set[int] = set()
        """Workers whose updates left a round undecided; until a step is made."""
        self._failed = 0
        """Such rounds in a row that brought nothing to an end."""
        self._told_short = False

    def handle(self, event: s.StrategyEvent, view: s.View) -> list[s.Decision]:
        if self._round is not None:
            self._round.hear(event)
            return self._go_on(self._round)
        if isinstance(event, s.ChunksReleased) and event.refused:
            self._failed = 0  # samples that nobody can compute come to an end
        if isinstance(event, s.VersionPublished | s.WorkerIdle | s.WorkerGone | s.ChunksReleased):
            return self._begin(view)
        return []

    # --- rounds -----------------------------------------------------------------------------------------------------------------------

    def _begin(self, view: s.View) -> list[s.Decision]:
        batch = min(self.config.batch_size, view.free_samples)
        if view.head != view.version or batch == 0:
            return []
        members = self._members(view)
        if len(members) < self.config.least_workers:
            return self._wait(len(members))
        code = chosen_code(self.config.code, len(members), self.config.num_stragglers, batch)
        current = self._round = _Round(code, members, self._next_chunk, batch, set(members))
        self._next_chunk += code.num_chunks
        self._told_short = False
        shares = even_shares(batch, current.chunks)
        rows = zip(members, code.rows, strict=True)
        return [
            *(s.LendChunk(chunk, samples) for chunk, samples in shares),
            *(s.AssignChunks(worker, tuple((current.first_chunk + j, factor) for j, factor in row)) for worker, row in rows),
        ]

    def _members(self, view: s.View) -> list[int]:
        """The crew without those who sit out, if that is enough."""
        rest = [worker for worker in view.crew if worker not in self._sitting_out]
        return rest if len(rest) >= self.config.least_workers else list(view.crew)

    def _wait(self, num_workers: int) -> list[s.Decision]:
        """Say once that a crew which was large enough is so no more."""
        if self._told_short or not self._next_chunk:
            return []
        self._told_short = True
        needed, stragglers = self.config.least_workers, self.config.num_stragglers
        text = f"gradient_coding with num_stragglers {stragglers} needs {needed} workers, {num_workers} are left: it waits for more to join"
        return [s.Warn(text)]

    def _go_on(self, current: _Round) -> list[s.Decision]:
        terms = current.terms()
        if terms is not None:
            self._round = None
            self._sitting_out.clear()
            self._failed = 0
            return [s.Apply(terms, chunks=current.chunks)]
        if not current.hopeless:
            return []
        self._round = None
        self._sitting_out |= current.refused
        self._failed += bool(current.refused)
        reason = "too few updates came to decode the batch's sum"
        if self._failed >= HOPELESS:
            return [s.Halt(f"{reason}, {self._failed} times in a row, since those of workers {sorted(self._sitting_out)} were refused")]
        return [s.ReleaseChunks(current.chunks, reason)]

    # --- checkpoints ------------------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing to take up: a round does not outlive the run."""

    def check(self) -> None:
        if self._round is not None:
            assert not set(self._round.orders) & set(self._round.arrived), "a worker is both out and in"
            assert self._round.terms() is None, "a step is overdue"

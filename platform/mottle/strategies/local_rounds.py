"""Rounds of local steps: every worker takes H inner optimizer steps from one version, then the model steps once along the mean of where
they went. What the methods of this family differ in is that last step, which is an outer optimizer on the shards (`mottle.optim.outer`).

An inner step takes `batch_size` samples over all workers, so a round takes H times as many; with H = 1 and plain averaging it is
synchronous SGD. Participants weigh by their samples (`local-steps.md` 0). A round never reaches beyond its data epoch: the last one of an
epoch has fewer steps. One that joins waits for the next round and begins with a new inner optimizer state.
"""

from dataclasses import dataclass, replace
from typing import Literal

from mottle.core import strategy as s
from mottle.core.naming import Spec, folded, parse
from mottle.core.protocol import LocalSteps, Settings
from mottle.strategies.barriered import Barriered
from mottle.strategies.options import below, deadline_fault, not_above, others_than, unless
from mottle.strategies.rounds import Round, even_shares

AVERAGING: Settings = {"outer_sgd": {"lr": 1.0}}
"""The outer optimizer that makes the mean of the workers' models the model."""


@dataclass(frozen=True, kw_only=True)
class LocalOptions:
    """What all rounds of local steps have in common."""

    batch_size: int
    """Samples of one inner step, over all workers."""
    optimizer: Spec
    """Of the inner steps: the job's."""
    local_steps: int = 16  # H, K or tau
    """Inner steps of a round."""
    inner_state: Literal["keep", "reset"] = "keep"
    """Whether a worker's inner optimizer goes on from round to round or begins anew."""
    deadline_s: float | None = None
    """Then those who are still out push after the step at hand: slow workers take fewer steps and weigh less. None waits for all."""
    warmup_rounds: int = 0
    """First rounds that are of one inner step only, as synchronous training (post-local SGD)."""

    def faults(self) -> list[str]:
        """What cannot be of these."""
        return [
            *below(1, batch_size=self.batch_size, local_steps=self.local_steps),
            *below(0, warmup_rounds=self.warmup_rounds),
            *others_than(("keep", "reset"), inner_state=self.inner_state),
            *deadline_fault(self.deadline_s),
        ]


@dataclass(frozen=True, kw_only=True)
class RobustLocalOptions(LocalOptions):
    """Of methods in which workers push nothing but pseudo-gradients, which a rule may compare."""

    rule: Settings | None = None
    """Robust rule on the workers' pseudo-gradients in place of their mean: `{phocas: {trim: 2}}`."""


@dataclass(frozen=True, kw_only=True)
class OwnMethodOptions(LocalOptions):
    """Of methods that are an inner optimizer of their own and share a second vector beside the parameters. The job's optimizer gives the
    rate alone. No robust rule: half of an update is no pseudo-gradient."""

    lr: float
    """Of the inner steps, before the schedule: the job's."""

    def faults(self) -> list[str]:
        """What cannot be of these."""
        name, options = parse(self.optimizer, "optimizer")
        return [
            *LocalOptions.faults(self),
            *not_above(0, lr=self.lr),
            *unless(
                folded(name) == "sgd" and options.keys() <= {"lr"},
                "optimizer sgd with an lr and nothing else, for it has an inner optimizer of its own",
            ),
        ]


class LocalRounds(Barriered):
    """State machine of the family.

    Args:
        server_optimizer: the outer one.
        method: what workers step with, where that is not the job's optimizer.
        companion: what the second vector is filled with that the method shares beside the parameters; None for none.
        rule: in place of the mean.
        participants: workers of a round, taken in turn by slot; None for all.
    """

    def __init__(
        self,
        config: LocalOptions,
        server_optimizer: Settings,
        *,
        method: Settings | None = None,
        companion: float | None = None,
        rule: Settings | None = None,
        participants: int | None = None,
    ) -> None:
        super().__init__(rule, deadline_s=config.deadline_s)
        self.config = config
        self.server_optimizer = server_optimizer
        self.companion = companion
        self._inner = config.optimizer if method is None else method
        self._participants = participants
        self._lead = 0
        """Samples of the round before its last inner step."""
        self._last_turn = -1
        """The worker whose turn ended the last round's participants."""

    def _orders(self, crew: list[int], free: int) -> list[s.Assign]:
        """From everybody an even share of every inner step."""
        config = self.config
        most = 1 if self._rounds < config.warmup_rounds else config.local_steps
        crew = self._members(crew)
        whole, rest = divmod(min(config.batch_size * most, free), config.batch_size)
        each = dict(even_shares(config.batch_size, crew))
        last = dict(even_shares(rest, self._takers(crew, rest))) if rest else {}
        shares = {worker: whole * batch + last.get(worker, 0) for worker, batch in each.items()}
        steps = whole + (rest > 0)
        self._lead = (steps - 1) * config.batch_size
        return [s.Assign(worker, samples, local=self._local(each[worker], steps)) for worker, samples in shares.items() if samples]

    def _members(self, crew: list[int]) -> list[int]:
        if self._participants is None:
            return crew
        chosen = sorted(crew, key=lambda worker: (worker <= self._last_turn, worker))[: self._participants]
        self._last_turn = chosen[-1]
        return sorted(chosen)

    def _local(self, batch: int, steps: int) -> LocalSteps:
        return LocalSteps(batch, self._inner, steps, advance=self.config.batch_size, fresh=self.config.inner_state == "reset")

    def _enough(self, current: Round) -> bool:
        return False

    def _step(self, current: Round) -> s.Apply | s.ApplyRule:
        return replace(current.step(self._rule, len(current.members)), lead=self._lead)

    def _heard(self, event: s.StrategyEvent, current: Round | None) -> list[s.Decision]:
        """At the deadline those who are out push after the step at hand."""
        if current is None or event != s.AlarmRang(self._alarm):
            return []
        return [s.CutOrder(work_id) for _, work_id in sorted(current.orders.items())]

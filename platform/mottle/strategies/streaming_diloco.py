"""Streaming DiLoCo: local steps whose outer step is taken fragment by fragment, while the workers go on.

The steps of a worker never end: it sends fragment p every H steps, as soon as its last step there was taken, goes on computing, and tau
steps later mixes in what the outer step made of it: x_p <- alpha x_p + (1 - alpha) theta_p. All other fragments keep training untouched.

Here a work order is the stretch of steps from one sending to the next, and its update is that fragment's pseudo-gradient theta_p - x_p:
so each sending has receipts and a verdict of its own, and each outer step makes a version. The version's number says which fragment moved,
so nothing has to be remembered or agreed upon. Two stretches are out at a time: the next one is ordered, to go on from where the one at
hand ends, when the version before that is there.

A worker that joins begins at the newest version with the next stretch that is ordered; so does one whose chain of orders broke (an order
that failed, an update that was rejected). A worker that dies contributes nothing to the fragment under way, and what it had learnt in
fragments that it had not sent yet is gone. A stretch of which nothing came is begun anew by everybody.

Source: Douillard et al. 2025, arXiv 2501.18512; `local-steps.md` 5. Neutral references: with one fragment, tau 0 and alpha 0 it is DiLoCo;
with outer rate 1 and no momentum as well, and one worker, the inner optimizer; with alpha 1 each worker trains alone.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from mottle.core import strategy as s
from mottle.core.errors import ConfigError
from mottle.core.fragments import Fragmentation, Pattern
from mottle.core.naming import Spec
from mottle.core.protocol import LocalSteps, Settings, Version
from mottle.strategies.options import Usual
from mottle.strategies.rounds import Round, even_shares

Download = Literal["float32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class StreamingDiLoCoConfig:
    """Outer steps of one fragment after the other, behind the workers' backs."""

    batch_size: int
    """Samples of one inner step, over all workers."""
    optimizer: Spec
    """Of the inner steps: the job's."""
    local_steps: int = 30  # H
    """Inner steps between two sendings of a fragment; 30 or 100 in the paper."""
    fragments: int = 4  # F
    """At most one a layer and one in H steps; the paper takes three layers for a fragment."""
    pattern: Pattern = "strided"
    """Layer l in fragment l mod F; or `sequential`: neighbouring layers."""
    overlap: int = 1  # tau
    """Inner steps that a worker takes while its fragment travels; below H / F."""
    alpha: float = 0.5
    """Share of the worker's own parameters in the mixture, in [0, 1]."""
    outer_lr: float = 0.4
    outer_momentum: float = 0.9
    """mu, in [0, 1); Nesterov's."""
    download: Download = "float32"
    """How a fragment that has moved travels to the workers, which measure from what came; the shards step what they have in full."""
    rule: Settings | None = None
    """Robust rule on the workers' pseudo-gradients of a fragment in place of their mean."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or not 1 <= self.fragments <= self.local_steps:
            raise ConfigError(
                "streaming_diloco needs batch_size >= 1 and 1 <= fragments <= local_steps, got "
                f"{self.batch_size}, {self.fragments} and {self.local_steps}"
            )
        if not 0 <= self.overlap < self.local_steps // self.fragments:
            raise ConfigError(
                f"a fragment must be back before the next one goes: overlap below local_steps / fragments = "
                f"{self.local_steps // self.fragments}, got {self.overlap}"
            )
        if self.pattern not in ("strided", "sequential"):
            raise ConfigError(f"pattern is strided or sequential, got {self.pattern!r}")
        if self.download not in get_args(Download):
            raise ConfigError(f"download is {' or '.join(get_args(Download))}, got {self.download!r}")
        if not (0 <= self.alpha <= 1 and self.outer_lr > 0 and 0 <= self.outer_momentum < 1):
            raise ConfigError(
                "streaming_diloco needs 0 <= alpha <= 1, outer_lr > 0 and 0 <= outer_momentum < 1, got "
                f"{self.alpha}, {self.outer_lr} and {self.outer_momentum}"
            )

    def build(self) -> "StreamingDiLoCo":
        return StreamingDiLoCo(self)


@dataclass(slots=True)
class _Stretch:
    """Orders of one sending."""

    number: int
    """Of the version that it makes."""
    samples: int
    """That were asked for."""
    round: Round
    closed: bool = False
    """Its step is under way."""

    def has(self, worker: int, work_id: int) -> bool:
        return self.round.orders.get(worker) == work_id


class StreamingDiLoCo(Usual):
    """The state machine."""

    max_in_flight = 2
    barriered = False  # the next stretch is ordered before the last one ends, beyond the end of an epoch too

    def __init__(self, config: StreamingDiLoCoConfig) -> None:
        self.config = config
        self.fragmentation = Fragmentation(number=config.fragments, pattern=config.pattern, narrow=config.download == "bf16")
        momentum = {"momentum": config.outer_momentum, "nesterov": True} if config.outer_momentum else {}
        self.server_optimizer: Settings = {"outer_sgd": {"lr": config.outer_lr, **momentum}}
        self._rule = config.rule
        self._stretches: deque[_Stretch] = deque()
        """At most two: the one that makes the next version, and the one behind it."""
        self._chains: dict[int, int] = {}
        """Worker -> its newest order, which the next one goes on from."""
        self._weights: dict[int, deque[float]] = {}
        """Of each worker's last F updates in an unbroken chain: what its pseudo-gradient is over."""
        self._refused: set[int] = set()
        """Workers that found nothing to do; heard of again, they are asked again."""

    # --- events -----------------------------------------------------------------------------------------------------------------------

    def handle(self, event: s.StrategyEvent, view: s.View) -> list[s.Decision]:
        decisions: list[s.Decision] = []
        match event:
            case s.VersionPublished(version):
                decisions = self._published(version)
            case s.WorkerIdle(worker):
                self._refused.discard(worker)
            case s.RuleChanged(rule):
                self._rule = rule
            case s.OrderIssued(work_id, worker, _):
                decisions = self._issued(work_id, worker, event, view)
            case s.NoWork(worker):
                self._refused.add(worker)
                for stretch in self._asking():
                    stretch.round.hear(event)
            case s.UpdateArrived(update):
                decisions = self._arrived(update, event)
            case s.OrderEnded(work_id, worker, _):
                decisions = self._ended(work_id, worker, event)
            case s.WorkerGone(worker):
                self._forget(worker)
                self._refused.discard(worker)
        return [*decisions, *self._advance(view)]

    def _published(self, version: Version) -> list[s.Decision]:
        """A step was made, or none could be; those whose next stretch is at hand mix in what it moved."""
        front = self._stretches[0] if self._stretches else None
        if front is not None and front.closed and front.number != version.number:
            return self._restart("no step was made of the fragment")
        if front is not None and front.closed:
            self._stretches.popleft()
        self._refused.clear()
        orders = sorted(self._stretches[0].round.orders.values()) if self._stretches else []
        return [self._mix(work_id, version) for work_id in orders]

    def _mix(self, work_id: int, version: Version) -> s.MixIn:
        return s.MixIn(work_id, self._fragment(version.number), self.config.alpha)

    def _fragment(self, number: int) -> int:
        """That the step to version `number` moves."""
        return (number - 1) % self.config.fragments

    def _asking(self) -> list[_Stretch]:
        """The stretch that is being given out; one at a time."""
        return [stretch for stretch in self._stretches if stretch.round.asked]

    def _issued(self, work_id: int, worker: int, event: s.OrderIssued, view: s.View) -> list[s.Decision]:
        (stretch,) = self._asking()
        stretch.round.hear(event)
        self._chains[worker] = work_id
        at_hand = stretch.number == view.version.number + 1 and view.version.number > 0
        return [self._mix(work_id, view.version)] if at_hand else []

    def _arrived(self, update: s.Update, event: s.UpdateArrived) -> list[s.Decision]:
        for stretch in self._stretches:
            if stretch.has(update.worker, update.work_id):
                stretch.round.hear(event)
                self._weights.setdefault(update.worker, deque(maxlen=self.config.fragments)).append(update.weight)
                return []
        return [s.Discard(update.work_id, "its stretch was begun anew")]

    def _ended(self, work_id: int, worker: int, event: s.OrderEnded) -> list[s.Decision]:
        """No update came of an order: what was to go on from it goes with it."""
        decisions: list[s.Decision] = []
        broken = False
        for stretch in self._stretches:
            if stretch.has(worker, work_id):
                broken = True
                stretch.round.hear(event)
            elif broken and worker in stretch.round.orders:
                decisions.append(s.AbandonOrder(stretch.round.orders.pop(worker), "the order before it came to nothing"))
        if broken:
            self._forget(worker)
        return decisions

    def _forget(self, worker: int) -> None:
        self._chains.pop(worker, None)
        self._weights.pop(worker, None)

    # --- stretches --------------------------------------------------------------------------------------------------------------------

    def _advance(self, view: s.View) -> list[s.Decision]:
        """Step on a stretch that is complete; give out the next one where fewer than two are out."""
        front = self._stretches[0] if self._stretches else None
        if front is None:
            return self._begin(view.version.number + 1, view)
        if front.round.complete and not front.closed:
            if not front.round.arrived:
                return [*self._restart("nothing came of the stretch before"), *self._begin(view.version.number + 1, view)]
            front.closed = True
            return [self._step(front)]
        if len(self._stretches) == 1 and not front.round.asked:
            return self._begin(front.number + 1, view)
        if len(self._stretches) == 2 and not self._stretches[1].round.members:  # nobody found anything
            self._stretches.pop()
        return []

    def _begin(self, number: int, view: s.View) -> list[s.Decision]:
        """Ask everybody for an even share of every step up to the next sending."""
        config, fragment = self.config, self._fragment(number)
        crew = [worker for worker in view.crew if worker not in self._refused]
        most = config.local_steps * (fragment + 1) // config.fragments - config.local_steps * fragment // config.fragments
        total = min(config.batch_size * most, view.free_samples)
        if not crew or not total:
            return []
        whole, rest = divmod(total, config.batch_size)
        each, last = dict(even_shares(config.batch_size, crew)), dict(even_shares(rest, crew))
        shares = {worker: whole * batch + last.get(worker, 0) for worker, batch in each.items()}
        members = [(worker, samples) for worker, samples in shares.items() if samples]
        before = sum(stretch.samples for stretch in self._stretches if not stretch.closed)
        self._stretches.append(_Stretch(number, total, Round.of(members)))
        local = LocalSteps(
            1,
            config.optimizer,
            whole + (rest > 0),
            advance=config.batch_size,
            samples=before,
            send=fragment,
            adopt_after=config.overlap if number > 1 else None,
        )
        return [
            s.Assign(worker, samples, local=replace(local, batch=each[worker], follows=self._chains.get(worker)))
            for worker, samples in members
        ]

    def _step(self, stretch: _Stretch) -> s.Decision:
        """The mean over the samples of the H steps that each pseudo-gradient is over, or what a rule makes of them."""
        current, fragment = stretch.round, self._fragment(stretch.number)
        if self._rule is not None:
            return replace(current.step(self._rule, len(current.members)), fragment=fragment)
        counts = {update.worker: sum(self._weights.get(update.worker, [update.weight])) for update in current.updates}
        total = sum(counts.values())
        return s.Apply(
            tuple((update.work_id, counts[update.worker] / total / update.weight) for update in current.updates), fragment=fragment
        )

    def _restart(self, reason: str) -> list[s.Decision]:
        """Begin anew at the newest version, with the same fragment."""
        decisions: list[s.Decision] = []
        for stretch in self._stretches:
            decisions += stretch.round.abandon_rest(reason)
            if not stretch.closed:
                decisions += [s.Discard(update.work_id, reason) for update in stretch.round.updates]
        self._stretches.clear()
        self._chains.clear()
        self._weights.clear()
        return decisions

    # --- checkpoints ------------------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Nothing: the version's number says which fragment moved last."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """There is nothing to take up."""

    def check(self) -> None:
        assert len(self._stretches) <= 2, "three stretches are out"
        assert len(self._asking()) <= 1, "two stretches are being given out at once"
        for stretch in self._stretches:
            stretch.round.check()

"""Single global merging: every worker trains a model of its own, now and then two of them average theirs, and the end is one mean of all.

Training goes in rounds of `local_steps` inner steps. For each round every worker draws with probability `exchange` one other at random;
in ascending slot, whoever is matched already is skipped. The two of a pair average their models after that round, half and half, everybody
else goes on with its own. When the samples are spent all models are averaged once: that is the model of the run. The few exchanges on the
way are what keeps the models near enough to one another for it; with none of them (`exchange: 0`) the mean is of strangers.

There is no barrier: of a pair, the faster one waits for the other, and nobody else does. A worker's order is the stretch of rounds up to
its next exchange, and its update is its whole model. A step makes a version that is the mean of a pair, or, where an order ended early
(with its data epoch, or cut), of one worker alone; the next version is not made before the members have their next orders, which begin at
this one. So a version on the way is somebody's model, and only the last one is everybody's. What was pushed when nothing was left to lend
stays for the end.

Matches are drawn from the seed, for the crew of when a round is first looked at. One that joins, or lost its model with an order that
failed, begins at the newest version, in the round of the foremost; whose partner is gone goes on alone; a model that was pushed before its
worker died is merged.

Source: Zhu et al. 2025, "A Single Merging Suffices", arXiv 2507.06542; `local-steps.md` 8. Differs: rounds of unequal workers are apart,
and models meet at the shards. Neutral references: with one worker the inner optimizer; with two that meet in every round of one step of
plain SGD, synchronous SGD.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mottle.core import strategy as s
from mottle.core.naming import Spec
from mottle.core.protocol import LocalSteps, Settings
from mottle.strategies.options import Usual, below, refuse, unless

LONGEST = 4.0
"""Rounds that a worker goes without pushing, in usual distances between two exchanges: then it makes a version of its own."""
SELDOM = 100
"""And at most: where there are hardly any exchanges, or none."""


@dataclass(frozen=True, kw_only=True)
class SingleMergingConfig:
    """Models of their own, merged once."""

    batch_size: int
    """Samples of one inner step of one worker."""
    optimizer: Spec
    """Of the inner steps: the job's."""
    local_steps: int = 1
    """Inner steps of a round."""
    exchange: float = 0.2  # R
    """Probability with which a worker draws a partner for a round; 0.2 in the paper."""
    seed: int = 0
    """Of the draws."""

    def __post_init__(self) -> None:
        refuse(
            "single_merging",
            below(1, batch_size=self.batch_size, local_steps=self.local_steps),
            below(0, seed=self.seed),
            unless(0 <= self.exchange <= 1, f"an exchange in [0, 1], a probability, got {self.exchange}"),
        )

    @property
    def longest(self) -> int:
        """Rounds of an order, at most."""
        return SELDOM if not self.exchange else min(SELDOM, round(LONGEST / self.exchange))

    def build(self) -> "SingleMerging":
        return SingleMerging(self)


@dataclass(slots=True)
class _Way:
    """How far a worker has come, and up to where it goes on alone."""

    done: int
    """Rounds."""
    goal: int
    """Rounds after which it exchanges, or pushes at least."""
    partner: int | None
    """With whom."""
    steps: int
    """Inner steps up to there that are not done."""


class SingleMerging(Usual):
    """The state machine."""

    def __init__(self, config: SingleMergingConfig) -> None:
        self.config = config
        self.server_optimizer: Settings = {"merging": {}}
        self._matches: dict[int, dict[int, int]] = {}
        """Round -> worker -> partner, of rounds that somebody has yet to come to."""
        self._drawn = 0
        """Rounds whose matches have been drawn."""
        self._ways: dict[int, _Way] = {}
        self._ready: dict[int, s.Update] = {}
        """Models that wait for a partner, or for the end."""
        self._stepping: tuple[int, ...] = ()
        """Workers that go on from the version that is being made."""
        self._owed: set[int] = set()
        """Workers whose model is the newest version, until they have their next order."""
        self._starved: set[int] = set()
        """Workers that found nothing to do: nobody waits for them."""
        self._new: set[int] = set()
        """Workers without a model, who begin when nobody is owed an order."""

    # --- events -----------------------------------------------------------------------------------------------------------------------

    def handle(self, event: s.StrategyEvent, view: s.View) -> list[s.Decision]:
        match event:
            case s.UpdateArrived(update):
                self._arrived(update)
            case s.OrderIssued(_, worker, _):
                self._owed.discard(worker)
                self._starved.discard(worker)
            case s.NoWork(worker):
                self._starved.add(worker)
            case s.WorkerIdle(worker):
                self._starved.clear()  # there may be something again, for everybody
                if worker in self._owed:
                    return [self._assign(worker, view)]
                if worker not in self._ready and worker not in self._stepping:
                    self._new.add(worker)
            case s.VersionPublished():
                self._owed, self._stepping = {worker for worker in self._stepping if worker in view.crew}, ()
                return self._assign_all(sorted(self._owed), view) or self._advance(view)
            case s.WorkerGone(worker):
                for group in (self._owed, self._starved, self._new):
                    group.discard(worker)
                self._ways.pop(worker, None)
            case s.NothingLeft():
                return self._merge()
        return self._advance(view)

    def _arrived(self, update: s.Update) -> None:
        self._ready[update.worker] = update
        way = self._ways.get(update.worker)
        if way is not None:
            way.steps -= min(way.steps, -(-update.samples // self.config.batch_size))
            if not way.steps:
                way.done = way.goal

    def _assign_all(self, workers: list[int], view: s.View) -> list[s.Decision]:
        """What is left is shared, so that everybody pushes its model once more."""
        orders: list[s.Decision] = []
        free = view.free_samples
        for place, worker in enumerate(workers):
            order = self._assign(worker, view)
            share = min(order.samples, max(1, -(-free // (len(workers) - place))))
            free -= share
            orders.append(replace(order, samples=share))
        return orders

    def _assign(self, worker: int, view: s.View) -> s.Assign:
        """The rest of its way at the newest version, which is its own model, or where one that is new begins."""
        config = self.config
        way = self._ways[worker]
        if not way.steps:
            way = self._ways[worker] = self._way(worker, way.done, view.crew)
        local = LocalSteps(config.batch_size, config.optimizer, way.steps, advance=config.batch_size * max(1, len(view.crew)), whole=True)
        return s.Assign(worker, config.batch_size * way.steps, local=local)

    # --- matches ----------------------------------------------------------------------------------------------------------------------

    def _way(self, worker: int, done: int, crew: tuple[int, ...]) -> _Way:
        last = done + self.config.longest
        for number in range(done, last):
            while self._drawn <= number:
                self._draw(crew)
            partner = self._matches.get(number, {}).get(worker)
            if partner is not None:
                return _Way(done, number + 1, partner, (number + 1 - done) * self.config.local_steps)
        return _Way(done, last, None, self.config.longest * self.config.local_steps)

    def _draw(self, crew: tuple[int, ...]) -> None:
        """Of one more round; rounds that everybody is past are forgotten."""
        rng = np.random.default_rng([self.config.seed, self._drawn])
        matches: dict[int, int] = {}
        for worker in crew:
            others = [each for each in crew if each != worker]
            partner = others[int(rng.integers(len(others)))] if others and rng.random() < self.config.exchange else None
            if partner is not None and worker not in matches and partner not in matches:
                matches |= {worker: partner, partner: worker}
        self._matches[self._drawn] = matches
        self._drawn += 1
        passed = min((way.done for way in self._ways.values()), default=0)
        for number in [number for number in self._matches if number < passed]:
            del self._matches[number]

    # --- steps ------------------------------------------------------------------------------------------------------------------------

    def _advance(self, view: s.View) -> list[s.Decision]:
        """Let new ones begin, or make the next version of models that are complete, where its members will find something to do."""
        self._owed.intersection_update(view.crew)
        if self._stepping or self._owed or view.head != view.version:
            return []
        if begin := sorted(self._new.intersection(view.crew)):
            self._new.clear()
            foremost = max((way.done for way in self._ways.values()), default=self._drawn)
            self._ways |= {worker: self._way(worker, foremost, view.crew) for worker in begin}
            return self._assign_all(begin, view)
        waiting = sorted(self._ready.keys() & set(view.crew))
        if not view.free_samples:  # asked for in vain, so that they are heard of when there is something
            return [s.Assign(worker, self.config.batch_size) for worker in waiting if worker not in self._starved]
        for worker in waiting:
            if group := self._group(worker, view):
                here = [each for each in group if each in view.crew]
                if len(here) > view.free_samples:
                    group, here = (worker,), [worker]
                self._stepping = tuple(here)
                return [self._mean([self._ready.pop(each) for each in group])]
        return []

    def _group(self, worker: int, view: s.View) -> tuple[int, ...]:
        """Whose models make the worker's next one; empty while its partner is on the way."""
        way = self._ways.get(worker)
        if way is None or way.steps or way.partner is None:
            return (worker,)
        partner, other = way.partner, self._ways.get(way.partner)
        met = other is None or (other.goal == way.goal and not other.steps)
        if partner in self._ready and met:
            return tuple(sorted((worker, partner)))
        coming = other is not None and partner in view.crew and partner not in self._starved
        coming = coming and other is not None and (other.goal < way.goal or (other.goal == way.goal and other.steps > 0))
        return () if coming else (worker,)

    @staticmethod
    def _mean(updates: list[s.Update]) -> s.Apply:
        return s.Apply(tuple((update.work_id, 1 / len(updates) / update.weight) for update in updates))

    def _merge(self) -> list[s.Decision]:
        """All models, once."""
        models = [self._ready[worker] for worker in sorted(self._ready)]
        self._ready.clear()
        return [self._mean(models)] if models else []

    # --- checkpoints ------------------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Which rounds have been drawn. Models of workers are not kept: whoever resumes begins with one model for all."""
        return {"drawn": self._drawn}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._drawn = state["drawn"]

    def check(self) -> None:
        assert not self._ready.keys() & (self._owed | set(self._stepping)), "a model waits and is merged already"
        for number, matches in self._matches.items():
            assert all(matches[partner] == worker for worker, partner in matches.items()), f"the pairs of round {number} do not match"

"""Workers that lie, in learning mode: attacks on a worker's own update; where a fleet opens the channel, those that look at others too."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mottle import aggregation, attacks
from mottle.core.errors import ConfigError
from mottle.core.naming import Spec

_COLLUSION = 7919  # sets the dice that colluders share apart from any worker's own


def check_attack(spec: object) -> str:
    """Why workers of a fleet cannot mount that attack; empty if they can."""
    try:
        attack = attacks.build(spec)  # type: ignore[arg-type]  # it refuses what is no spec
    except ConfigError as error:
        return str(error)
    if attack.stage != "update":
        return f"{attack.name} is about data, messages or links, which a simulation has none of; its workers attack with updates"
    return ""


def colludes(spec: Spec | None) -> bool:
    """Whether the attack looks at other workers' updates."""
    return spec is not None and attacks.build(spec).knowledge > attacks.Knowledge.OWN


class Liars:
    """What each hostile worker remembers, and the collusion channel.

    Args:
        seed: of their dice, a stream of its own for each.
        num_workers: of the fleet.
        collusion: whether colluders see what others have computed.
        rule: the defender's, for attacks that optimise against it.
    """

    def __init__(self, seed: int, num_workers: int, *, collusion: bool = False, rule: Spec | None = None) -> None:
        self._seed = seed
        self._num_workers = num_workers
        self._collusion = collusion
        self._rule_spec = rule
        self._built: dict[str, attacks.Attack] = {}
        self._generators: dict[int, np.random.Generator] = {}
        self._states: dict[int, Any] = {}
        self._seen: dict[int, tuple[int, bool, Tensor]] = {}
        """Slot -> base version, whether it lies, and its honest mean update; the newest of each."""

    def see(self, slot: int, spec: Spec | None, base: int, sum_D: Tensor, weight: float) -> None:
        """A worker's honest update, before it is pushed; nobody looks where there is no channel."""
        if self._collusion:
            lies = spec is not None and attacks.build(spec).name != "honest"
            self._seen[slot] = base, lies, sum_D / weight

    def corrupt(self, slot: int, spec: Spec, base: int, sum_D: Tensor, weight: float) -> Tensor:
        """What the worker sends in the place of its gradient sum; attacks work on means.

        Args:
            base: number of the version that it computed on.
            weight: what the sum is divided by to give a mean, above 0.
        """
        attack = self._built.setdefault(repr(spec), attacks.build(spec))
        generator = self._generators.setdefault(slot, attacks.generator_for(self._seed, worker=slot))
        channel = None
        if attack.knowledge > attacks.Knowledge.OWN:
            channel, generator = self._view(base), np.random.default_rng((self._seed, _COLLUSION, base))
            if channel is None:
                return sum_D  # nobody honest is there to be seen
        sent_D, self._states[slot] = attack.corrupt(
            sum_D / weight,
            worker=slot,
            num_workers=self._num_workers,
            round=base,
            state=self._states.get(slot),
            generator=generator,
            channel=channel,
        )
        return sent_D * weight

    def _view(self, base: int) -> attacks.RoundView | None:
        """The round at `base` as far as it was computed by now, or, if no honest part of it was, the newest update of each."""
        there = {slot: each for slot, each in sorted(self._seen.items()) if each[0] == base}
        rows = there if any(not lies for _, lies, _ in there.values()) else dict(sorted(self._seen.items()))
        honest = {slot: mean_D for slot, (_, lies, mean_D) in rows.items() if not lies}
        faulty = {slot: mean_D for slot, (_, lies, mean_D) in rows.items() if lies}
        if not honest:
            return None
        return attacks.RoundView(
            num_workers=len(rows),
            faulty_ids=tuple(faulty),
            honest_ids=tuple(honest),
            round=base,
            own=torch.stack([*faulty.values()]),
            honest=torch.stack([*honest.values()]),
            rule=lambda rows_ND: aggregation.build(self._rule_spec or "mean")(rows_ND),
        )

"""Workers that lie, in learning mode: those attacks that one worker mounts on its own update alone."""

from typing import Any

import numpy as np
from torch import Tensor

from mottle import attacks
from mottle.core.errors import ConfigError
from mottle.core.naming import Spec


def check_attack(spec: object) -> str:
    """Why workers of a fleet cannot mount that attack; empty if they can."""
    try:
        attack = attacks.build(spec)  # type: ignore[arg-type]  # it refuses what is no spec
    except ConfigError as error:
        return str(error)
    if attack.stage != "update" or attack.knowledge > attacks.Knowledge.OWN:
        return f"{attack.name} needs more than a worker's own update; simulated workers take sign_flip, gaussian, non_finite and the like"
    return ""


class Liars:
    """What each hostile worker remembers.

    Args:
        seed: of their dice, a stream of its own for each.
        num_workers: of the fleet.
    """

    def __init__(self, seed: int, num_workers: int) -> None:
        self._seed = seed
        self._num_workers = num_workers
        self._built: dict[str, attacks.Attack] = {}
        self._generators: dict[int, np.random.Generator] = {}
        self._states: dict[int, Any] = {}

    def corrupt(self, slot: int, spec: Spec, base: int, sum_D: Tensor, weight: float) -> Tensor:
        """What the worker sends in the place of its gradient sum; attacks work on means.

        Args:
            base: number of the version that it computed on.
            weight: what the sum is divided by to give a mean, above 0.
        """
        attack = self._built.setdefault(repr(spec), attacks.build(spec))
        generator = self._generators.setdefault(slot, attacks.generator_for(self._seed, worker=slot))
        sent_D, self._states[slot] = attack.corrupt(
            sum_D / weight,
            worker=slot,
            num_workers=self._num_workers,
            round=base,
            state=self._states.get(slot),
            generator=generator,
        )
        return sent_D * weight

"""What a worker does instead of the honest thing, when its group declares an attack. For studies; honest workers never load this."""

from typing import Any

from torch import Tensor

from mottle import attacks
from mottle.actors.job import Job, Spec
from mottle.core.errors import ConfigError

LABELS = ("labels", "label", "targets", "target", "y")


class Faulty:
    """One worker's attack and what it remembers.

    Args:
        spec: `{sign_flip: {scale: 10}}`.
        slot: the worker's, for its dice.
        job: for seed and crew size.
    Raises:
        ConfigError: an attack that needs what a single live worker does not have (others' updates, or the server's link).
    """

    def __init__(self, spec: Spec, slot: int, job: Job) -> None:
        self._attack = attacks.build(spec)
        if self._attack.knowledge > attacks.Knowledge.OWN or self._attack.stage not in ("data", "update"):
            raise ConfigError(
                f"attack {spec!r} needs more than one worker's own data and update, which a live worker group does not have; "
                "use sign_flip, gaussian, bit_flip, label_flip, non_finite or stale_replay, or study it on tensors"
            )
        self._slot = slot
        self._num_workers = sum(group.count for group in job.groups)
        self._generator = attacks.generator_for(job.seed, worker=slot)
        self._state: Any = None

    def batch(self, batch: Any, round: int) -> Any:
        """The batch with its labels as the attacker wants them."""
        if self._attack.stage != "data":
            return batch
        if isinstance(batch, dict):
            key = next((name for name in LABELS if name in batch), None)
            if key is None:
                raise ConfigError(f"a label attack needs labels under one of {', '.join(LABELS)}, the batch has {', '.join(batch)}")
            return {**batch, key: self._attack.labels(batch[key], round=round, generator=self._generator)}
        *inputs, labels = batch
        return (*inputs, self._attack.labels(labels, round=round, generator=self._generator))

    def update(self, update_D: Tensor, round: int) -> Tensor:
        """What goes out instead of the honest update."""
        if self._attack.stage != "update":
            return update_D
        sent_D, self._state = self._attack.corrupt(
            update_D, worker=self._slot, num_workers=self._num_workers, round=round, state=self._state, generator=self._generator
        )
        return sent_D

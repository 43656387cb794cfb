"""What a worker does instead of the honest thing, when its group declares an attack. For studies; honest workers never load this."""

from dataclasses import dataclass
from typing import Any

import ray
import torch
from torch import Tensor

from mottle import aggregation, attacks
from mottle.actors.collusion import rows_of
from mottle.actors.job import Job, Spec
from mottle.core import protocol as p
from mottle.core.errors import ConfigError
from mottle.data import derive_seed

LABELS = ("labels", "label", "targets", "target", "y")


@dataclass(frozen=True)
class Sent:
    """One message of a worker. A liar may claim anything in it."""

    name: str
    sender: int
    samples: Any
    vector: Any
    """Gradient sum, shape (D,), from an honest worker."""
    weight: Any = None
    """Units of the loss, where these are not the samples."""


class Faulty:
    """One worker's attack and what it remembers.

    Args:
        spec: `{sign_flip: {scale: 10}}`.
        slot: the worker's, for its dice.
        job: for seed, crew size, rule, and the collusion channel where there is one.
    Raises:
        ConfigError: an attack that a live worker cannot mount.
    """

    def __init__(self, spec: Spec, slot: int, job: Job) -> None:
        self._attack = attacks.build(spec)
        check_live(spec, collusion=job.collusion)
        self._colludes = self._attack.knowledge > attacks.Knowledge.OWN
        self._slot = slot
        self._job = job
        self._num_workers = sum(group.count for group in job.groups)
        self._generator = attacks.generator_for(job.seed, worker=slot)
        self._state: Any = None

    # --- before the loss --------------------------------------------------------------------------------------------------------------

    def batch(self, batch: Any, base: int) -> Any:
        """The batch with its labels as the attacker wants them."""
        if self._attack.stage != "data":
            return batch
        if isinstance(batch, dict):
            key = next((name for name in LABELS if name in batch), None)
            if key is None:
                raise ConfigError(f"a label attack needs labels under one of {', '.join(LABELS)}, the batch has {', '.join(batch)}")
            return {**batch, key: self._attack.labels(batch[key], round=base, generator=self._generator)}
        *inputs, labels = batch
        return (*inputs, self._attack.labels(labels, round=base, generator=self._generator))

    # --- before the push --------------------------------------------------------------------------------------------------------------

    def messages(self, sum_D: Tensor, weight: float, *, work_id: int, base: int, samples: int) -> list[Sent]:
        """What goes out instead of the honest update: attacks work on means, workers push sums."""
        mean_D, self._state = self._corrupt(sum_D / weight, base)
        # What a liar counts falsely is what its vector is divided by.
        weighted = self._job.brain.weighted_loss
        message = attacks.Message(worker=self._slot, round=base, payload=mean_D, count=weight if weighted else samples)
        messages = self._attack.messages(message, state=self._state, generator=self._generator)
        return [self._sent(each, weight, work_id, base, samples if weighted else None) for each in messages]

    def _corrupt(self, mean_D: Tensor, base: int) -> tuple[Tensor, Any]:
        channel, generator = None, self._generator
        if self._colludes:
            # Colluders evaluate one view with equal dice, each round anew: one who missed a round stays in step.
            channel, generator = self._look(base), attacks.generator_for(derive_seed(self._job.seed, "collusion", base))
            if channel is None:
                return mean_D, self._state  # nobody honest is there to be seen
        return self._attack.corrupt(
            mean_D,
            worker=self._slot,
            num_workers=self._num_workers,
            round=base,
            state=self._state,
            generator=generator,
            channel=channel,
        )

    def _look(self, base: int) -> attacks.RoundView | None:
        seen = ray.get(self._job.channel.look.remote(base))
        if not seen.honest:
            return None
        return attacks.RoundView(
            num_workers=len(seen.honest) + len(seen.faulty),
            faulty_ids=tuple(sorted(seen.faulty)),
            honest_ids=tuple(sorted(seen.honest)),
            round=base,
            own=torch.stack(rows_of(seen.faulty)),
            honest=torch.stack(rows_of(seen.honest)),
            rule=self._rule,
        )

    def _rule(self, rows_ND: Tensor) -> Tensor:
        """The defender's rule, the mean where there is none; one that needs trusted data is not known to attackers."""
        return aggregation.build(self._job.strategy_defaults.get("rule") or "mean")(rows_ND)

    def _sent(self, message: attacks.Message, weight: float, work_id: int, base: int, samples: int | None) -> Sent:
        """`samples` are claimed as they are where the loss has units of its own; None for a loss that counts samples."""
        vector = message.payload
        if isinstance(vector, Tensor) and vector.is_floating_point():
            vector = vector * weight
        # A base version is not claimed but follows from the order; whoever claims another one names another order.
        name = p.update_name(work_id + message.round - base)
        if samples is None:
            return Sent(name, message.worker, message.count, vector)
        return Sent(name, message.worker, samples, vector, message.count)

    def on_the_wire(self, range_S: Tensor, base: int, first: int) -> Tensor:
        """What a faulty link makes of a shard's range."""
        length = self._job.model_layout.size
        return self._attack.ingress(range_S[None], round=base, first=first, num_coordinates=length, generator=self._generator)[0]


def check_live(spec: Spec, *, collusion: bool) -> None:
    """Whether workers of a live job can mount the attack.

    Raises:
        ConfigError: it needs the others' updates and the job opens no channel, or it is about who takes part.
    """
    attack = attacks.build(spec)
    if attack.name == "sybil":
        raise ConfigError(
            "a sybil attack registers more workers; in a live job, give the group more workers with the attack that it carries"
        )
    if attack.knowledge > attacks.Knowledge.OWN and not collusion:
        raise ConfigError(
            f"attack {attack.name!r} looks at other workers' updates, which a job shows to nobody; open the channel with collusion=True, "
            "or use an attack that needs no more than a worker's own update, such as sign_flip, gaussian or label_flip"
        )

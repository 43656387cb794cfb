"""Names of versions, shards, spans of the data and vectors."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from mottle.core.messages import message

Settings = Mapping[str, Any]


PARAMS = "params"


REFERENCE = "reference/"
"""Names of reference vectors begin so; the validator alone may push them."""


KEPT = "kept/"
"""Names of vectors that a strategy keeps for itself begin so; they are part of a checkpoint."""


VALIDATOR = -1
"""Sender of reference vectors; workers have slots from 0."""


class Version(NamedTuple):
    """Name of one published model. `number` exists only when every shard has stepped; `lineage` grows when the model is replaced."""

    lineage: int
    number: int

    def next(self) -> "Version":
        return Version(self.lineage, self.number + 1)


class ReplicaId(NamedTuple):
    """One shard actor: `shard` is the range it holds, `replica` 0 is the primary until it is lost."""

    shard: int
    replica: int


@message
class Lease:
    """Positions [start, stop) of the data order of one epoch, lent to a worker."""

    id: int
    epoch: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@message
class Part:
    """A lease inside a work order; `coefficient` multiplies its gradient sum (gradient coding)."""

    lease: Lease
    coefficient: float = 1.0


_MAX_DIGITS = 18  # of a work id; names come from workers, and Python refuses to read very long numbers


def update_name(work_id: int) -> str:
    """Name on the shards of the update that answers order `work_id`."""
    return f"update/{work_id}"


def work_id_of(name: str) -> int | None:
    """The order whose update has that name; None for every other name, such as another spelling of the number."""
    digits = name.removeprefix("update/")[:_MAX_DIGITS]
    if not (digits.isascii() and digits.isdecimal()):
        return None
    work_id = int(digits)
    return work_id if name == update_name(work_id) else None


def model_name(number: int) -> str:
    """Name on the shards of the parameters of version `number`, where a strategy has them kept."""
    return f"model/{number}"


def work_holder(work_id: int) -> str:
    """Name under which an order holds the version it reads."""
    return f"work/{work_id}"

"""Fault scripts: what goes wrong, and when.

A fault fires at a time or once that many samples are spent, whichever is given, and the simulation records that it did.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from mottle.simulate.checked import check, number

Kind = Literal["crash", "leave", "recall", "join", "rejoin", "drain", "pause", "slow", "lose_replica", "lose_coordinator", "checkpoint"]

_NEEDS: dict[str, tuple[str, ...]] = {
    "crash": ("worker",),
    "leave": ("worker",),
    "recall": ("worker",),
    "join": ("group",),
    "rejoin": ("worker",),
    "drain": ("worker", "for_s"),
    "pause": ("worker", "for_s"),
    "slow": ("worker", "factor"),
    "lose_replica": ("shard",),
    "lose_coordinator": (),
    "checkpoint": (),
}
_TAKES = {"slow": ("for_s",), "lose_replica": ("replica",)}
_OWN = ("worker", "group", "for_s", "factor", "shard", "replica")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that happens to the fleet."""

    kind: Kind
    """`crash` takes a worker without a word, `leave` lets it finish what it has, `recall` does not, `join` adds one to a group, `rejoin`
    brings the machine of one that is gone back with another worker, `drain` gives notice that a worker's machine is taken away `for_s`
    later, `pause` stops a worker, `slow` makes its samples take longer, `lose_replica` takes a shard's process, `lose_coordinator` the
    coordinator's (another one takes over), `checkpoint` asks for one."""
    at_s: float | None = number(default=None, least=0, most=1e9, optional=True)
    at_samples: int | None = number(default=None, least=0, most=10**15, whole=True, optional=True)
    worker: str | None = None
    """A worker by name: `GROUP-INDEX`, counted from 0; those that join come after those that start."""
    group: str | None = None
    for_s: float | None = number(default=None, above=0, most=1e9, optional=True)
    """How long; a slow-down without it lasts to the end."""
    factor: float | None = number(default=None, above=0, most=1e6, optional=True)
    """By which a sample takes longer."""
    shard: int | None = number(default=None, least=0, most=10**6, whole=True, optional=True)
    replica: int | None = number(default=None, least=0, most=10**6, whole=True, optional=True)
    """0, the primary, if left out; 1 is its backup, those that take the place of lost ones are 2, 3, ..."""

    def __post_init__(self) -> None:
        check(self, self._wrong())

    def _wrong(self) -> list[tuple[str, str]]:
        kinds = get_args(Kind)
        if self.kind not in kinds:
            return [("kind", f"wanted one of {', '.join(kinds)}, got {self.kind!r}")]
        wrong = []
        if (self.at_s is None) == (self.at_samples is None):
            wrong.append(("at_s", "wanted either at_s or at_samples, got both" if self.at_s is not None else "or at_samples is needed"))
        needs = _NEEDS[self.kind]
        wrong += [(name, f"is needed for a fault of kind {self.kind}") for name in needs if getattr(self, name) is None]
        takes = (*needs, *_TAKES.get(self.kind, ()))
        surplus = [name for name in _OWN if name not in takes and getattr(self, name) is not None]
        wrong += [(name, f"is not for a fault of kind {self.kind}") for name in surplus]
        return wrong

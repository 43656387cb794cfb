"""The crew: who is here, what they have in hand, how their last updates fared.

A member is `active`, `overdue` (silent beyond its deadline; gets nothing new until it is heard of), `quarantined` (gets nothing for a
while), on `probation` (gets a little at a time), `leaving` (finishes what it has) or gone. Slots grow and are never used again, so
"ascending slot" is an order that all sums can rely on. Knows no lease, shard or strategy.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

AT_WORK = ("active", "probation")
"""States in which a member may get work."""


@dataclass(slots=True)
class Member:
    """A worker of the crew. Times in nanoseconds of the run's clock."""

    slot: int
    device: str
    group: str
    joined_ns: int
    state: str = "active"
    why: str = ""
    """It is, or was last, in quarantine for; empty while it is active."""
    quarantines: int = 0
    host: str = ""
    kind: str = ""
    """Of its arithmetic: members of one kind compute equal bits. Empty where that is not known."""
    left_ns: int | None = None
    left_reason: str = ""
    orders: list[int] = field(default_factory=list)
    """Work ids in hand, oldest first."""
    samples: int = 0
    """Of its acknowledged updates that have a verdict, whatever it was."""
    verdicts: dict[str, int] = field(default_factory=lambda: {"accepted": 0, "unselected": 0, "rejected": 0, "discarded": 0})
    rejected_in_a_row: int = 0
    streak_told: int = 0
    """Longest streak of rejections that people were told of."""
    staleness: int = 0
    """Of its last update."""
    compute_ns: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("useful", "redone", "stale", "rejected"), 0))
    """Compute time that it reported, by what became of it; for display. Redone: samples that had been lent before in vain."""

    def note_verdict(self, verdict: str, *, staleness: int, samples: int, compute_ns: int, redone: float) -> None:
        """Add one of its updates to the tallies; `redone` is the share of its samples that had been lent before in vain."""
        self.verdicts[verdict] += 1
        self.staleness = staleness
        self.samples += samples
        if verdict in ("accepted", "unselected"):
            again_ns = round(compute_ns * redone)
            self.compute_ns["redone"] += again_ns
            self.compute_ns["useful"] += compute_ns - again_ns
        else:
            self.compute_ns["stale" if verdict == "discarded" else "rejected"] += compute_ns
        self.rejected_in_a_row = self.rejected_in_a_row + 1 if verdict == "rejected" else 0

    def take_streak(self, least: int) -> int:
        """Length of a streak of rejections that is worth telling: at least `least`, and twice as long as the last one told; else 0."""
        if self.rejected_in_a_row < max(least, 2 * self.streak_told):
            return 0
        self.streak_told = self.rejected_in_a_row
        return self.streak_told


class Members:
    """Everybody who ever joined, by slot."""

    def __init__(self) -> None:
        self._all: dict[int, Member] = {}
        self._crew: tuple[int, ...] | None = None
        """What `crew` says, until somebody's state changes."""

    def join(self, slot: int, device: str, group: str, *, now_ns: int, host: str = "", kind: str = "") -> Member:
        if slot in self._all:
            raise ValueError(f"slot {slot} joined before; a returning machine takes a new slot")
        self._all[slot] = Member(slot, device, group, now_ns, host=host, kind=kind)
        self._crew = (*self._crew, slot) if self._crew and slot > self._crew[-1] else None
        return self._all[slot]

    def mark(self, member: Member, state: str) -> None:
        """Change a member's state."""
        member.state, self._crew = state, None

    def leave(self, slot: int, reason: str, *, now_ns: int) -> Member | None:
        """The member that left, or None if it was not here."""
        member = self.present(slot)
        if member is not None:
            self.mark(member, "left")
            member.left_ns, member.left_reason = now_ns, reason
        return member

    def present(self, slot: int) -> Member | None:
        member = self._all.get(slot)
        return member if member is not None and member.state != "left" else None

    def here(self, slot: int) -> Member:
        """The member, which must be present."""
        member = self._all.get(slot)
        if member is None or member.state == "left":
            raise AssertionError(f"worker {slot} is not here")
        return member

    def ever(self, slot: int) -> Member:
        """The member, present or past."""
        return self._all[slot]

    def known(self, slot: int) -> Member | None:
        return self._all.get(slot)

    def state(self) -> list[dict[str, Any]]:
        """As JSON types, for a checkpoint."""
        return [asdict(member) for member in self.all]

    def restore(self, state: list[dict[str, Any]]) -> None:
        """Take up the books of a checkpoint: whoever was here then has left with the run that was."""
        self._all = {row["slot"]: Member(**{**row, "orders": []}) for row in state}
        self._crew = None
        for member in self._all.values():
            if member.state != "left":
                member.state, member.left_reason = "left", "the run was resumed"

    @property
    def next_slot(self) -> int:
        """The first slot that nobody ever had."""
        return max(self._all, default=-1) + 1

    @property
    def crew(self) -> tuple[int, ...]:
        """Slots that may get work, ascending."""
        if self._crew is None:
            self._crew = tuple(sorted(slot for slot, member in self._all.items() if member.state in AT_WORK))
        return self._crew

    @property
    def all(self) -> tuple[Member, ...]:
        """Present and past members by ascending slot."""
        return tuple(self._all[slot] for slot in sorted(self._all))

"""Who may still have to read which version, told to the shards as what changed since the last step.

A message of a step that listed everybody would grow with the crew; changes are as many as orders given and ended meanwhile.
"""

from collections import defaultdict
from collections.abc import Mapping

from mottle.core.protocol import Version, work_holder


class Holds:
    """Holders by name; orders as they come and go, the few others all at once."""

    def __init__(self) -> None:
        self._new: dict[str, int] = {}
        """Name -> version number, not yet told."""
        self._gone: list[str] = []
        """Told earlier, over since."""
        self._others: dict[str, int] = {}
        """Those that are not orders, as they were told."""

    def order_issued(self, work_id: int, base: Version) -> None:
        self._new[work_holder(work_id)] = base.number

    def order_over(self, work_id: int) -> None:
        """Its update is stored, or there will be none."""
        self._over(work_holder(work_id))

    def _over(self, name: str) -> None:
        if self._new.pop(name, None) is None:
            self._gone.append(name)

    def changes(self, others: Mapping[str, int]) -> tuple[tuple[tuple[int, tuple[str, ...]], ...], tuple[str, ...]]:
        """(version number, new holders) ascending, and the names that hold nothing any more; both since the last call.

        Args:
            others: every holder now that is not an order: name -> version number.
        """
        for name, number in self._others.items():
            if others.get(name) != number:
                self._gone.append(name)
        self._new |= {name: number for name, number in others.items() if self._others.get(name) != number}
        self._others = dict(others)
        by_number: dict[int, list[str]] = defaultdict(list)
        for name, number in self._new.items():
            by_number[number].append(name)
        gone, self._new, self._gone = tuple(sorted(self._gone)), {}, []
        return tuple((number, tuple(sorted(by_number[number]))) for number in sorted(by_number)), gone

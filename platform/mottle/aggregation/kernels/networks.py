"""Selection networks: fixed sequences of compare-exchanges that put wanted ranks of n values on known wires.

A network does the same whatever the values are, so it runs on vectors of columns without a branch. Batcher's odd-even merge sort is cut
down to what is wanted of its output: ranks that are never read, and sets of ranks that are only added up, need not be told apart.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

Comparator = tuple[int, int]
"""Wires (low, high): afterwards the smaller value is on `low`."""

Need = Literal["rank", "bag", "none"]
"""What is wanted of an output wire: exactly its rank; some value of the bag, each once; nothing."""


def merge_sort(num_wires: int) -> list[Comparator]:
    """Comparators of a full sort, ascending by wire."""
    size = 1
    while size < num_wires:
        size *= 2
    # Wires from num_wires on would hold +infinity throughout: their comparators do nothing.
    return [(low, high) for low, high in _sort(0, size) if high < num_wires]


def _sort(start: int, size: int) -> Iterator[Comparator]:
    if size > 1:
        yield from _sort(start, size // 2)
        yield from _sort(start + size // 2, size // 2)
        yield from _merge(start, size, 1)


def _merge(start: int, size: int, step: int) -> Iterator[Comparator]:
    if 2 * step >= size:
        yield start, start + step
        return
    yield from _merge(start, size, 2 * step)
    yield from _merge(start + step, size, 2 * step)
    for low in range(start + step, start + size - step, 2 * step):
        yield low, low + step


def pruned(comparators: Sequence[Comparator], needs: Sequence[Need]) -> list[tuple[Comparator, bool, bool]]:
    """The comparators that the needs ask for; with each, whether its smaller and its larger value are used.

    Backwards from the outputs: a comparator between two unread wires, or inside the bag, changes nothing that is wanted.
    """
    need: list[Need] = list(needs)
    kept: list[tuple[Comparator, bool, bool]] = []
    for low, high in reversed(comparators):
        if need[low] == need[high] and need[low] != "rank":
            continue
        kept.append(((low, high), need[low] != "none", need[high] != "none"))
        need[low] = need[high] = "rank"
    return kept[::-1]

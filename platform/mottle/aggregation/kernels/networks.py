"""Selection networks: fixed sequences of compare-exchanges that put wanted ranks of n values on known wires.

A network does the same whatever the values are, so it runs on vectors of columns without a branch. A sorting network is cut down to what
is wanted of its output: ranks that are never read, and sets of ranks that are only added up, need not be told apart.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

Comparator = tuple[int, int]
"""Wires (low, high): afterwards the smaller value is on `low`."""

Need = Literal["rank", "bag", "none"]
"""What is wanted of an output wire: exactly its rank; some value of the bag, each once; nothing."""


def pairwise_sort(num_wires: int) -> list[Comparator]:
    """Comparators of a full sort, ascending by wire; the number of wires is a power of 2.

    Source: Parberry, "The pairwise sorting network", Parallel Processing Letters 1992. As many comparators as Batcher's merge sort, but
    fewer are left when only some ranks are wanted (Codish and Zazon-Ivry, "Pairwise cardinality networks", LPAR 2010): of 25 rows a median
    takes 182 minima and maxima here and 202 there.
    """
    return list(_sort(range(num_wires)))


def _sort(wires: Sequence[int]) -> Iterator[Comparator]:
    """Compare neighbours, sort the smaller and the larger ones of the pairs apart, then merge the two."""
    if len(wires) < 2:
        return
    yield from zip(wires[::2], wires[1::2], strict=True)
    yield from _sort(wires[::2])
    yield from _sort(wires[1::2])
    distance = len(wires) // 2 - 1
    while distance > 0:
        yield from zip(wires[1::2], wires[1 + distance :: 2], strict=False)
        distance //= 2


def selection(needs: Sequence[Need]) -> list[tuple[Comparator, bool, bool]]:
    """The cheapest of some networks that fulfil the needs, as `pruned` gives it; one wire a need.

    Wires beyond the values hold an infinity throughout, so that their comparators do nothing. How many of them are below the values and how
    many above makes a difference of up to a fifth.
    """
    size = 1 << (len(needs) - 1).bit_length() if needs else 1
    network, spare = pairwise_sort(size), size - len(needs)
    shifts = range(0, spare + 1, max(1, spare // 8))
    return min((pruned(_window(network, shift, len(needs)), needs) for shift in shifts), key=_num_operations)


def _window(network: Sequence[Comparator], first: int, count: int) -> list[Comparator]:
    """The comparators among wires [first, first + count), which become wires 0 and up."""
    return [(low - first, high - first) for low, high in network if low >= first and high < first + count]


def _num_operations(kept: Sequence[tuple[Comparator, bool, bool]]) -> int:
    return sum(wants_low + wants_high for _, wants_low, wants_high in kept)


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

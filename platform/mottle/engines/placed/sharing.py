"""Who of a gang pushes which coordinates of its one update. Pure: intervals of integers.

Stages have disjoint shares of the flat vector (a tensor that several stages read counts for the first of them), with edges anywhere.
Shards take ranges whose edges are multiples of `BLOCK` from the start of theirs. So a block in which shares meet is pushed by the first of
those stages, and the others give it their part of the block before.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mottle.core.layout import BLOCK, Range


class Piece(NamedTuple):
    """What one stage pushes to one shard in one message; empty for a shard that holds nothing."""

    shard: int
    range: Range
    stage: int


class Transfer(NamedTuple):
    """Coordinates that a stage gives another one before the push."""

    giver: int
    taker: int
    range: Range


class Sharing(NamedTuple):
    """How a gang's update is pushed."""

    pieces: tuple[Piece, ...]
    transfers: tuple[Transfer, ...]


def share(shares: Sequence[Sequence[Range]], shards: Sequence[Range]) -> Sharing:
    """Decide who pushes what.

    Args:
        shares: coordinates of each stage; disjoint. What nobody has, which is zero, goes with what lies before it.
        shards: ranges of the shards, in order; together the whole vector.
    """
    runs = sorted((run.start, run.stop, stage) for stage, own in enumerate(shares) for run in own if run.size)
    pieces: list[Piece] = []
    transfers: list[Transfer] = []
    for number, shard in enumerate(shards):
        inside = [(max(start, shard.start), min(stop, shard.stop), stage) for start, stop, stage in runs]
        inside = [run for run in inside if run[0] < run[1]]
        owned = list(_owned(number, shard, inside))
        pieces += owned
        transfers += _transfers(owned, inside)
    return Sharing(tuple(pieces), tuple(transfers))


def _owned(number: int, shard: Range, inside: Sequence[tuple[int, int, int]]) -> Iterable[Piece]:
    """The shard's range in pieces, each from block to block."""
    stage = inside[0][2] if inside else 0
    at = shard.start
    for start, _, following in inside:
        edge = min(shard.start + -(-(start - shard.start) // BLOCK) * BLOCK, shard.stop)
        if following != stage and edge > at:
            yield Piece(number, Range(at, edge), stage)
            at = edge
        if following != stage and at == edge and edge < shard.stop:
            stage = following
    if at < shard.stop or shard.size == 0:
        yield Piece(number, Range(at, shard.stop), stage)


def _transfers(owned: Sequence[Piece], inside: Sequence[tuple[int, int, int]]) -> Iterable[Transfer]:
    for piece in owned:
        for start, stop, stage in inside:
            low, high = max(start, piece.range.start), min(stop, piece.range.stop)
            if low < high and stage != piece.stage:
                yield Transfer(stage, piece.stage, Range(low, high))


def merged(runs: Iterable[Range]) -> list[Range]:
    """The same coordinates in as few ranges as possible, in order."""
    found: list[Range] = []
    for run in sorted(runs, key=lambda each: (each.start, each.stop)):
        if found and found[-1].stop == run.start:
            found[-1] = Range(found[-1].start, run.stop)
        elif run.size:
            found.append(run)
    return found

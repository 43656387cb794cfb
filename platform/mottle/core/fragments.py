"""Fragments: sets of blocks of the flat vector that are sent and stepped apart from one another.

A fragment's coordinates, one after the other, are a vector of its own. What a shard holds of it is one range of that vector, because a
shard's range of the layout is one piece: so a fragment's update is pushed, stored, measured and combined like one of a smaller model.

A fragment is made of whole layers (`local-steps.md` 5), up to whole blocks of `BLOCK` coordinates: a block goes where most of it belongs.
So a fragment begins with a block in every shard, and sums over it have the same bits however the parameters are cut.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

from mottle.core.errors import ConfigError
from mottle.core.layout import BLOCK, Layout, Range, round_up

Pattern = Literal["strided", "sequential"]


@dataclass(frozen=True, kw_only=True)
class Fragmentation:
    """How a strategy wants the model divided."""

    number: int
    """F, at least 1."""
    pattern: Pattern = "strided"
    """Layer l belongs to fragment l mod F; or `sequential`: fragments of neighbouring layers."""
    narrow: bool = False
    """Whether a fragment that has moved travels to the workers in bfloat16."""


@dataclass(frozen=True, slots=True)
class Fragments:
    """`ranges[p]`: where fragment p lies in the layout, ascending; every range begins with a block."""

    ranges: tuple[tuple[Range, ...], ...]
    narrow: bool = False
    """Whether versions of a fragment travel in bfloat16."""
    apart: bool = False
    """Whether each is a model of its own (`mottle.core.rotation`): whoever computes one has no use for the others."""

    def __len__(self) -> int:
        return len(self.ranges)

    def size(self, fragment: int) -> int:
        """Coordinates of a fragment."""
        return sum(piece.size for piece in self.ranges[fragment])

    def pieces(self, fragment: int, within: Range) -> tuple[Range, ...]:
        """The fragment's coordinates inside a range of the layout, counted from the start of that range."""
        met = ((max(piece.start, within.start), min(piece.stop, within.stop)) for piece in self.ranges[fragment])
        return tuple(Range(start - within.start, stop - within.start) for start, stop in met if start < stop)

    def owned(self, fragment: int, within: Range) -> Range:
        """What a shard with that range of the layout holds, in the fragment's own coordinates; empty where that is nothing."""
        before = sum(piece.size for piece in self.pieces(fragment, Range(0, within.start)))
        return Range(before, before + sum(piece.size for piece in self.pieces(fragment, within)))


def fragments_of(layout: Layout, wanted: Fragmentation) -> Fragments:
    """Divide a model.

    A layer is what the first number in a parameter's name counts (`blocks.3`); in a model without numbers, each top-level module. What
    comes before the first layer goes to the first fragment, what comes behind the last one (final norm, head) to the last.

    Raises:
        ConfigError: fewer layers than fragments, or a fragment without a block of its own.
    """
    layers = _layers(layout)
    if len(set(layers.values()) - {None}) < wanted.number:
        raise ConfigError(
            f"{wanted.number} fragments need as many layers, the model has {len(set(layers.values()) - {None})}; ask for fewer fragments"
        )
    owners = _owners(layout, wanted, layers)
    shares: dict[int, Counter[int]] = {}
    for piece in layout.slices:
        for block in range(piece.start // BLOCK, -(-piece.stop // BLOCK)):
            inside = min(piece.stop, (block + 1) * BLOCK) - max(piece.start, block * BLOCK)
            shares.setdefault(block, Counter())[owners[piece.name]] += inside
    ranges: list[list[Range]] = [[] for _ in range(wanted.number)]
    for block in range(round_up(layout.size) // BLOCK):
        share = shares.get(block, Counter({0: 1}))
        _append(ranges[min(share, key=lambda each: (-share[each], each))], block * BLOCK, min((block + 1) * BLOCK, layout.size))
    if empty := [number for number, pieces in enumerate(ranges) if not pieces]:
        raise ConfigError(
            f"fragments {empty} of {wanted.number} have no block of {BLOCK} coordinates of their own; ask for fewer fragments"
        )
    return Fragments(tuple(map(tuple, ranges)), wanted.narrow)


def _append(pieces: list[Range], start: int, stop: int) -> None:
    begin = pieces.pop().start if pieces and pieces[-1].stop == start else start
    pieces.append(Range(begin, stop))


def _layers(layout: Layout) -> dict[str, str | None]:
    """The layer of each tensor by name; None for those outside of all layers."""
    numbered = any(any(part.isdigit() for part in piece.name.split(".")) for piece in layout.parameters)
    return {piece.name: _layer(piece.name.split("."), numbered) for piece in layout.slices}


def _layer(path: Sequence[str], numbered: bool) -> str | None:
    if not numbered:
        return path[0]
    named = list(takewhile(lambda part: not part.isdigit(), path))
    return ".".join(path[: len(named) + 1]) if len(named) < len(path) else None


def _owners(layout: Layout, wanted: Fragmentation, layers: dict[str, str | None]) -> dict[str, int]:
    """The fragment of each tensor by name."""
    order = list(dict.fromkeys(layer for piece in layout.parameters if (layer := layers[piece.name]) is not None))
    of_layer = {
        layer: index % wanted.number if wanted.pattern == "strided" else index * wanted.number // len(order)
        for index, layer in enumerate(order)
    }
    first = min(piece.start for piece in layout.parameters if layers[piece.name] is not None)
    return {
        piece.name: (0 if piece.start < first else wanted.number - 1) if (layer := layers[piece.name]) is None else of_layer.get(layer, 0)
        for piece in layout.slices
    }

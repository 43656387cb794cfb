"""The flat layout: where every parameter and buffer of a model lies in one vector, and where that vector is cut.

Workers, shards, codecs and checkpoints speak of coordinates of this vector and of nothing else. It has two parts:

* `[0, num_params)`: the trainable parameters, in the order of `named_parameters()`, without gaps. Norms, inner products and robust
  rules that measure distances are taken here only. A frozen parameter (`requires_grad` False) is not in the vector. Where several models
  lie side by side (`mottle.core.rotation`) each begins with a block.
* the *buffer tail* `[tail_start, size)`: the persistent floating-point buffers (BatchNorm's running statistics), from the next multiple of
  `BLOCK` on, so that no block mixes the two. The gap before it holds zeros that nobody touches. A model without such buffers has no
  tail and `size == num_params`.

How each kind combines:

=====================================  ==============================================================================
parameter                              the update is a gradient (or delta); the optimizer steps along the combined one
floating-point buffer                  the update is `base - new`; combined as the parameters are, then subtracted, so
                                       the sample-weighted mean of the workers' values becomes the new value
integer, boolean or complex buffer     stays where it is and is not combined: a count such as `num_batches_tracked`
                                       has no mean that means anything, and a complex one is a table, not a statistic
buffer outside the state dictionary    stays where it is: the model builds it again from its configuration
frozen parameter                       stays where it is: every worker builds the same one
=====================================  ==============================================================================

`num_batches_tracked` matters to BatchNorm only with `momentum=None` (a cumulative average); engines refuse that.

Pure: no torch. Dtypes are torch's names without the prefix, `"float32"`.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import pairwise
from operator import attrgetter
from typing import Any, Literal

from mottle.core.errors import ConfigError

BLOCK = 4096
"""Coordinates in a block: 16 kB of float32, so it fits the first cache together with a few rows. Sums are taken a block at a time and
ranges are cut between blocks, so a decision does not depend on the number of shards."""

BUFFER_GROUP = -1
"""The group of what no optimizer owns: the buffer tail."""

FORMAT = 1
"""Version of the JSON form; a reader refuses others."""

Kind = Literal["parameter", "buffer"]
FlatDtype = Literal["float32", "float64"]


@dataclass(frozen=True, slots=True)
class Slice:
    """One tensor of the model in the flat vector, row-major.

    Attributes:
        start: its first coordinate.
        dtype: what the model holds it in; the flat vector has its own (`Layout.dtype`).
        group: parameter group, from 0; `BUFFER_GROUP` for a buffer.
    """

    name: str
    start: int
    shape: tuple[int, ...]
    dtype: str
    group: int
    kind: Kind

    @property
    def size(self) -> int:
        """Coordinates; 1 for a scalar."""
        return math.prod(self.shape)

    @property
    def stop(self) -> int:
        return self.start + self.size


@dataclass(frozen=True, slots=True)
class Range:
    """Coordinates `[start, stop)`; may be empty."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop:
            raise ValueError(f"a range needs 0 <= start <= stop, got [{self.start}, {self.stop})")

    @property
    def size(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class GroupRange:
    """Neighbouring coordinates of one parameter group, or of the buffer tail (`BUFFER_GROUP`)."""

    start: int
    stop: int
    group: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor before it has a place: what `pack` is given."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    group: int = 0


@dataclass(frozen=True)
class Layout:
    """Where everything lies. Made by `pack` (or, from a model, by `mottle.engines.layout_of`).

    Attributes:
        slices: parameters, then buffers, in ascending order of `start`.
        aliases: name of a tied tensor -> name of the slice that holds it.
        num_params: length of the parameter part.
        size: length of the vector.
        dtype: of the flat vector, of updates and of optimizer state.
    Raises:
        ValueError: the parts contradict each other; from `from_json` too, so a layout from a file or a peer is as sound as our own.
    """

    slices: tuple[Slice, ...]
    num_params: int
    size: int
    dtype: FlatDtype
    aliases: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        problems = list(_problems(self))
        if problems:
            raise ValueError(f"not a layout: {'; '.join(problems)}")

    @property
    def parameters(self) -> tuple[Slice, ...]:
        return tuple(piece for piece in self.slices if piece.kind == "parameter")

    @property
    def buffers(self) -> tuple[Slice, ...]:
        return tuple(piece for piece in self.slices if piece.kind == "buffer")

    @property
    def tail_start(self) -> int:
        """First coordinate of the buffer tail; `size` when there is none."""
        return min(round_up(self.num_params), self.size)

    @property
    def num_groups(self) -> int:
        return 1 + max(piece.group for piece in self.slices)

    @cached_property
    def group_ranges(self) -> tuple[GroupRange, ...]:
        """The vector as the optimizers see it: maximal runs of one group, in order, and the buffer tail. The gap is in none."""
        runs: list[GroupRange] = []
        for piece in filter(attrgetter("size"), self.slices):
            joins = runs and runs[-1].group == piece.group and runs[-1].stop == piece.start
            start = runs.pop().start if joins else piece.start
            runs.append(GroupRange(start, piece.stop, piece.group))
        return tuple(runs)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the JSON form: equal layouts, and only those, have equal digests."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def cut(self, num_shards: int) -> tuple[Range, ...]:
        """Divide the vector between shards at multiples of `BLOCK`.

        Returns:
            `num_shards` ranges in order that cover `[0, size)`; their numbers of blocks differ by at most one. Ranges are empty where
            there are fewer blocks than shards.
        Raises:
            ValueError: `num_shards` below 1.
        """
        if num_shards < 1:
            raise ValueError(f"a layout is cut into at least 1 shard, got {num_shards}")
        num_blocks = round_up(self.size) // BLOCK
        edges = [min(shard * num_blocks // num_shards * BLOCK, self.size) for shard in range(num_shards + 1)]
        return tuple(Range(start, stop) for start, stop in pairwise(edges))

    def groups_in(self, within: Range) -> tuple[GroupRange, ...]:
        """`group_ranges` inside a shard's range, counted from the start of that range."""
        met = ((max(run.start, within.start), min(run.stop, within.stop), run.group) for run in self.group_ranges)
        return tuple(GroupRange(start - within.start, stop - within.start, group) for start, stop, group in met if start < stop)

    def params_in(self, within: Range) -> Range:
        """The coordinates of a shard's range that are parameters, counted from its start: what its norms are taken on."""
        return Range(0, max(0, min(self.num_params, within.stop) - within.start))

    def to_json(self) -> str:
        """One line; the same text for the same layout."""
        body = {
            "format": FORMAT,
            "dtype": self.dtype,
            "num_params": self.num_params,
            "size": self.size,
            "slices": [asdict(piece) for piece in self.slices],
            "aliases": dict(self.aliases),
        }
        return json.dumps(body, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Layout":
        """Read `to_json`'s text.

        Raises:
            ValueError: not JSON, of another format, with a wrong type or a missing key, or not a sound layout.
        """
        body = json.loads(text)
        if not isinstance(body, dict) or body.get("format") != FORMAT:
            found = body.get("format") if isinstance(body, dict) else type(body).__name__
            raise ValueError(f"a layout of format {FORMAT} was wanted, got {found!r}; it was written by another version of Mottle")
        try:
            return cls(
                slices=tuple(_slice_from(piece) for piece in body["slices"]),
                num_params=_integer(body["num_params"]),
                size=_integer(body["size"]),
                dtype=body["dtype"],
                aliases={str(name): str(canonical) for name, canonical in body["aliases"].items()},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a layout: {type(error).__name__} at {error}") from error


def round_up(num_coordinates: int) -> int:
    """The next multiple of `BLOCK`."""
    return -(-num_coordinates // BLOCK) * BLOCK


def pack(
    parameters: Sequence[Entry], buffers: Sequence[Entry] = (), *, aliases: Mapping[str, str] | None = None, dtype: FlatDtype = "float32"
) -> Layout:
    """Give every tensor its place.

    Args:
        parameters: the trainable ones, in the model's order, each once.
        buffers: the floating-point ones that travel; their `group` is not looked at.
        aliases: other names of the same tensors.
    Raises:
        ConfigError: no parameter to train.
        ValueError: a name given twice, or an alias of nothing.
    """
    if not parameters or not sum(math.prod(entry.shape) for entry in parameters):
        raise ConfigError("the model has no trainable parameter: give it one, or set requires_grad on those that should learn")
    slices: list[Slice] = []
    num_params = _place(slices, parameters, 0, "parameter")
    size = _place(slices, buffers, round_up(num_params), "buffer") if buffers else num_params
    return Layout(tuple(slices), num_params=num_params, size=size, dtype=dtype, aliases=dict(aliases or {}))


def _place(slices: list[Slice], entries: Sequence[Entry], start: int, kind: Kind) -> int:
    """Append the entries one after the other; return where the next one would start."""
    for entry in entries:
        group = entry.group if kind == "parameter" else BUFFER_GROUP
        slices.append(Slice(entry.name, start, tuple(entry.shape), entry.dtype, group, kind))
        start = slices[-1].stop
    return start


def _problems(layout: Layout) -> Iterator[str]:
    """Everything that is wrong with it, at once."""
    names = Counter(piece.name for piece in layout.slices)
    if repeated := sorted(name for name, count in names.items() if count > 1):
        yield f"names used twice: {', '.join(repeated)}"
    if lost := sorted(name for name, canonical in layout.aliases.items() if canonical not in names or name in names):
        yield f"aliases that are a slice themselves, or of no slice: {', '.join(lost)}"
    if layout.dtype not in ("float32", "float64"):
        yield f"the flat vector is float32 or float64, not {layout.dtype!r}"
    if wrong := [piece.name for piece in layout.slices if (piece.group < 0) != (piece.kind == "buffer") or min(piece.shape, default=0) < 0]:
        yield f"negative extents, or a group of the wrong kind: {', '.join(wrong)}"
    if list(layout.slices) != [*layout.parameters, *layout.buffers]:
        yield "slices are parameters, then buffers"
    if layout.num_params < 1:
        yield f"{layout.num_params} parameters"
    yield from _gaps(layout.parameters, 0, layout.num_params)
    yield from _gaps(layout.buffers, round_up(layout.num_params) if layout.buffers else layout.num_params, layout.size)


def _gaps(pieces: Sequence[Slice], start: int, stop: int) -> Iterator[str]:
    """Where the pieces fail to fill `[start, stop)` one after the other, or from the next block on, as another model does."""
    for piece in pieces:
        if piece.start not in (start, round_up(start)):
            yield f"{piece.name} starts at {piece.start}, not at {start}"
        start = piece.stop
    if start != stop:
        yield f"the {pieces[0].kind if pieces else 'buffer'}s end at {start}, not at {stop}"


def _slice_from(piece: Any) -> Slice:
    """A slice from its JSON form; types are checked here, values by `Layout`."""
    if piece["kind"] not in ("parameter", "buffer"):
        raise TypeError(f"kind {piece['kind']!r}")
    shape = tuple(_integer(extent) for extent in piece["shape"])
    return Slice(str(piece["name"]), _integer(piece["start"]), shape, str(piece["dtype"]), _integer(piece["group"]), piece["kind"])


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r}, which is no integer")
    return value

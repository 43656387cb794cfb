"""The rows of a round as kernels take them: vectors of one length, dtype and device, without a copy.

Rows come as a matrix, or as one vector a worker (as parameter shards hold them). In the second form a missing message is `None`, and a
message of the wrong length or kind of dtype does not spoil the round: its row is invalid.

Letters: N rows, D coordinates.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from mottle.aggregation.errors import InputError

Updates = Tensor | Sequence[Tensor | None]

FLOAT_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class Rows:
    """N vectors of D coordinates; `positions` are their indices among the rows given, the others were malformed or missing."""

    vectors: tuple[Tensor, ...]
    positions: tuple[int, ...]
    num_given: int
    length: int
    dtype: torch.dtype
    device: torch.device

    @property
    def work_dtype(self) -> torch.dtype:
        """float64 for float64, else float32."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    @cached_property
    def direct(self) -> bool:
        """Whether kernels can read the vectors where they lie: in the working dtype, coordinates next to each other."""
        return self.dtype == self.work_dtype and all(vector.stride(0) == 1 or self.length < 2 for vector in self.vectors)

    def block(self, start: int, stop: int) -> list[Tensor]:
        """Coordinates [start, stop) of every row in the working dtype; views where possible."""
        return [vector[start:stop].to(self.work_dtype) for vector in self.vectors]

    def views(self, start: int, stop: int) -> Sequence[Tensor | npt.NDArray[Any]]:
        """As `block`; in main memory as arrays where that takes no copy, for a view of an array is made in a tenth of the time."""
        arrays = self._arrays
        return self.block(start, stop) if arrays is None else [array[start:stop] for array in arrays]

    @cached_property
    def _arrays(self) -> list[npt.NDArray[Any]] | None:
        if self.device.type != "cpu" or self.dtype != self.work_dtype:
            return None
        return [vector.numpy() for vector in self.vectors]

    def only(self, kept: Sequence[int]) -> "Rows":
        """Some of the rows, by index among `vectors`."""
        vectors = tuple(self.vectors[row] for row in kept)
        return Rows(vectors, tuple(self.positions[row] for row in kept), self.num_given, self.length, self.dtype, self.device)

    def given(self, kept: Sequence[int]) -> "Rows":
        """Some of the rows, by index among the rows given; all of them must be there."""
        at = {position: row for row, position in enumerate(self.positions)}
        return self.only([at[position] for position in kept])


def collect(updates: Updates) -> Rows:
    """Check and collect the rows.

    Args:
        updates: (N, D) matrix, or N vectors of D coordinates of which some may be None; floating point, on one device.
    Raises:
        InputError: no row, not of that shape, integer, boolean or complex, or on several devices.
    """
    if isinstance(updates, Tensor):
        if updates.ndim != 2:
            raise InputError(f"updates are a matrix (rows, coordinates), got shape {tuple(updates.shape)}; flatten each update first")
        _check_dtype(updates.dtype)
        num_rows, length = updates.shape
        vectors = tuple(updates.detach().unbind(0))
        return Rows(vectors, tuple(range(num_rows)), num_rows, length, updates.dtype, updates.device)
    return _from_messages(list(updates))


def _from_messages(messages: list[Tensor | None]) -> Rows:
    present = [message for message in messages if message is not None]
    well_typed = [message for message in present if message.ndim == 1 and message.dtype in FLOAT_DTYPES]
    if not well_typed:
        raise InputError(f"no row to aggregate: of {len(messages)} messages none is a vector of floating point numbers")
    kinds = Counter((message.numel(), message.dtype) for message in well_typed)
    (length, dtype), votes = kinds.most_common(1)[0]
    if 2 * votes <= len(present) and len(kinds) > 1:
        raise InputError(f"rows disagree on length and dtype and no form has a majority: {dict(kinds)}")
    kept = [
        (position, message.detach())
        for position, message in enumerate(messages)
        if message is not None and message.ndim == 1 and (message.numel(), message.dtype) == (length, dtype)
    ]
    devices = {message.device for _, message in kept}
    if len(devices) > 1:
        raise InputError(f"rows lie on several devices ({', '.join(sorted(map(str, devices)))}); move them to one first")
    positions = tuple(position for position, _ in kept)
    return Rows(tuple(message for _, message in kept), positions, len(messages), length, dtype, devices.pop())


def _check_dtype(dtype: torch.dtype) -> None:
    if dtype not in FLOAT_DTYPES:
        raise InputError(f"updates are floating point, got {dtype}; cast them to float32 on purpose if they mean numbers")


def companion(vector: Tensor | None, rows: Rows, name: str) -> Tensor | None:
    """The centre or reference in the working dtype, checked against the rows.

    Raises:
        InputError: wrong length, dtype or device, or not finite.
    """
    if vector is None:
        return None
    if vector.shape != (rows.length,):
        raise InputError(f"{name} is a vector of {rows.length} coordinates like the rows, got shape {tuple(vector.shape)}")
    _check_dtype(vector.dtype)
    if vector.device != rows.device:
        raise InputError(f"{name} is on {vector.device}, the rows are on {rows.device}; move it there")
    if not bool(torch.isfinite(vector.sum(dtype=torch.float64))) and not bool(torch.isfinite(vector).all()):
        raise InputError(f"{name} is not finite; it is the server's own and must be")
    return vector.detach().to(rows.work_dtype).contiguous()


def spans(length: int, size: int) -> Iterator[tuple[int, int]]:
    """[start, stop) pieces of at most `size`; none for length 0."""
    yield from pairwise([*range(0, length, size), length] if length else [0])

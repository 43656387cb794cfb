"""What every kind of training data looks like from outside.

A source knows its rows by global id (0 to num_rows - 1) and says how they lie in blocks. It knows nothing of epochs, seeds,
leases or workers: `order` decides which rows, `loader` joins the two. A source travels to other processes by pickle and
then carries no data of files, open handles or memory maps: those are opened again where it lands.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch

from mottle.data.errors import DataError
from mottle.data.order import IntArray
from mottle.data.randomness import seeded_globals
from mottle.data.seeds import derive_seed

Batch: TypeAlias = Any
"""What `collate_fn` returns: for the default one a tensor, or a dict, tuple or list of batches."""

CollateFn: TypeAlias = Callable[[list[Any]], Batch]

RANDOM_ACCESS_WINDOW_ROWS = 1 << 20
"""Rows mixed in a window where any row is cheap to read: 8 MB of ids and 0.15 s of sorting at most."""


class Source(Protocol):
    """Rows that can be fetched by id, lying in blocks."""

    @property
    def num_rows(self) -> int:
        """Rows in all; at least 1."""

    @property
    def block_sizes(self) -> IntArray:
        """Rows of each block, in the order of the global ids; they add up to `num_rows`."""

    @property
    def window_blocks(self) -> int:
        """How many blocks this source can mix without reading any of them twice in a row of neighbouring leases."""

    def fetch(self, rows: IntArray, sample_seeds: Sequence[int] | None = None) -> Batch:
        """The batch of these rows, in this order; repeats are allowed.

        Args:
            rows: global row ids, shape (n,), n >= 1.
            sample_seeds: one per row: what the row's random transforms are seeded with. None leaves the process's
                generators alone.
        Raises:
            DataError: a row out of range, a row that cannot be read, or samples that cannot be collated.
        """


def checked_rows(rows: IntArray, num_rows: int) -> IntArray:
    """`rows` as int64, shape (n,).

    Raises:
        DataError: not integers, no row, or one outside [0, num_rows).
    """
    rows_N = np.asarray(rows)
    if rows_N.ndim != 1 or rows_N.size == 0 or rows_N.dtype.kind not in "iu":
        raise DataError(f"needs a one-dimensional array of at least one integer row id, got {rows_N.dtype} of shape {rows_N.shape}")
    outside = rows_N[(rows_N < 0) | (rows_N >= num_rows)]
    if outside.size:
        raise DataError(f"needs rows from 0 to {num_rows - 1}, got {int(outside[0])} ({outside.size} of {rows_N.size} are out of range)")
    return rows_N.astype(np.int64, copy=False)


def random_access_window(block_sizes: IntArray) -> int:
    """Blocks that hold about RANDOM_ACCESS_WINDOW_ROWS rows: all of them for small data, which makes a full shuffle."""
    largest = int(block_sizes.max(initial=1))
    return max(1, min(block_sizes.size, RANDOM_ACCESS_WINDOW_ROWS // max(1, largest)))


def split_by_block(rows_N: IntArray, block_ends_B: IntArray) -> Iterator[tuple[int, IntArray, IntArray]]:
    """Yield (block, indices into `rows_N`, rows within the block), blocks in the order in which they first occur.

    First occurrence, because that is the order of windows: the blocks read last are the ones the next range needs.
    """
    block_N = np.searchsorted(block_ends_B, rows_N, side="right")
    blocks, first = np.unique(block_N, return_index=True)
    for block in blocks[np.argsort(first)].tolist():
        places = np.flatnonzero(block_N == block)
        yield block, places, rows_N[places] - (int(block_ends_B[block - 1]) if block else 0)


def collate(samples: list[Any], rows_N: IntArray, collate_fn: CollateFn, sample_seeds: Sequence[int] | None) -> Batch:
    """Apply `collate_fn`; its failure becomes a `DataError` that names the rows and shows what a sample looks like.

    A `collate_fn` that draws random numbers (mixup, masking) sees all samples at once: with seeds it runs under one derived from the
    first sample's, so it depends on where the batch begins.
    """
    try:
        with nullcontext() if sample_seeds is None else seeded_globals(derive_seed(sample_seeds[0], "collate")):
            return collate_fn(samples)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        shown = ", ".join(str(row) for row in rows_N[:4].tolist()) + (", ..." if rows_N.size > 4 else "")
        raise DataError(
            f"the {rows_N.size} samples of rows {shown} cannot be collated into a batch by {name_of(collate_fn)} "
            f"({type(error).__name__}: {error}); the first is {outline(samples[0])}; make samples alike or pass your own collate_fn"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: then a smaller batch helps, and the error must reach who can make it smaller as it is."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def outline(value: Any) -> str:
    """A sample's structure in a few words: types, shapes and dtypes, never its contents."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {outline(item)}" for key, item in list(value.items())[:8]) + "}"
    if isinstance(value, list | tuple) and not hasattr(value, "shape"):
        return f"{type(value).__name__}({', '.join(outline(item) for item in value[:8])})"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{type(value).__name__} {value.dtype} {tuple(value.shape)}"
    return type(value).__name__


def name_of(thing: Any) -> str:
    """A function's or class's name for messages."""
    return str(getattr(thing, "__qualname__", None) or type(thing).__qualname__)

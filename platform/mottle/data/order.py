"""The order of one data epoch: which row stands at which position.

Positions are what the run leases and counts; rows are where the data lies. Rows come in blocks (row groups, record
batches, Ray blocks) because a block is the least that can be read. A full shuffle would make every lease read from every
block; so blocks are shuffled first, then rows inside windows of a few shuffled blocks: a lease reads at most the blocks
of the windows that it touches. A window that holds every block is a full shuffle.

An order is a pure function of (block sizes, seed, epoch, window): it can be rebuilt anywhere and is never shipped.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from mottle.data.seeds import permutation

IntArray = npt.NDArray[np.int64]

SYNTHETIC_BLOCK_ROWS: Final = 4096
"""Rows of a block where the source has none: large enough that a block costs microseconds a row, small enough to be lazy."""


def synthetic_blocks(num_rows: int, block_rows: int = SYNTHETIC_BLOCK_ROWS) -> IntArray:
    """Cut rows that have no blocks of their own (a map-style dataset) into blocks, the last one shorter.

    Example:
        >>> synthetic_blocks(10, 4).tolist()
        [4, 4, 2]
    """
    if num_rows < 0 or block_rows < 1:
        raise ValueError(f"needs num_rows >= 0 and block_rows >= 1, got {num_rows} and {block_rows}")
    starts = np.arange(0, num_rows, block_rows, dtype=np.int64)
    return np.minimum(block_rows, num_rows - starts)


class Order:
    """Position -> global row id, for one epoch; every epoch's positions are a permutation of all rows.

    Args:
        block_sizes: rows of each block in global row order: block b holds the ids after those of blocks 0..b-1. A zero is an
            empty block.
        seed: of the run.
        epoch: of the data, from 0.
        window_blocks: k, blocks whose rows are mixed with one another, at least 1.
        shuffle: False gives rows in their stored order, whatever seed, epoch and window say.
    Raises:
        ValueError: a negative block size or epoch, or a window below 1.
    Cost: O(blocks) to build; `rows` costs one sort of each window it touches. The last window used is kept, so a
        worker that goes through neighbouring ranges pays for each window once: less than reading its blocks costs.
    """

    def __init__(self, block_sizes: Sequence[int] | IntArray, seed: int, epoch: int, window_blocks: int, *, shuffle: bool = True) -> None:
        sizes_B = np.asarray(block_sizes, dtype=np.int64).reshape(-1)
        if (sizes_B < 0).any():
            raise ValueError(f"block sizes must not be negative, got {int(sizes_B.min())} at block {int(sizes_B.argmin())}")
        if window_blocks < 1 or epoch < 0:
            raise ValueError(f"needs window_blocks >= 1 and epoch >= 0, got window_blocks={window_blocks} and epoch={epoch}")
        self.seed = seed
        self.epoch = epoch
        self.window_blocks = window_blocks
        self.shuffle = shuffle
        self._sizes_B = sizes_B
        self._first_row_B = np.cumsum(sizes_B) - sizes_B
        self._blocks_B = permutation(sizes_B.size, seed, "order/blocks", epoch) if shuffle else np.arange(sizes_B.size)
        window_first = np.arange(0, sizes_B.size, window_blocks)
        window_rows = np.add.reduceat(sizes_B[self._blocks_B], window_first) if sizes_B.size else np.zeros(0, np.int64)
        self._window_ends = np.cumsum(window_rows)
        self._kept: tuple[int, IntArray] | None = None  # one tuple, replaced whole: safe to read from a second thread

    @property
    def num_positions(self) -> int:
        """Positions of the epoch, which is the number of rows."""
        return int(self._window_ends[-1]) if self._window_ends.size else 0

    def rows(self, start: int, stop: int) -> IntArray:
        """Global row ids of positions [start, stop), shape (stop - start,), int64.

        Raises:
            ValueError: not 0 <= start <= stop <= num_positions.
        """
        if not 0 <= start <= stop <= self.num_positions:
            raise ValueError(f"needs 0 <= start <= stop <= {self.num_positions} positions, got [{start}, {stop})")
        if not self.shuffle:
            return np.arange(start, stop, dtype=np.int64)
        parts = [np.zeros(0, np.int64)]
        window = int(np.searchsorted(self._window_ends, start, side="right"))
        while start < stop:
            window_end = int(self._window_ends[window])
            row_ids = self._window_row_ids(window)
            offset = start - (window_end - row_ids.size)
            parts.append(row_ids[offset : offset + min(stop, window_end) - start])
            start = min(stop, window_end)
            window += 1
        return np.concatenate(parts)

    def blocks(self, start: int, stop: int) -> IntArray:
        """Blocks that the rows of positions [start, stop) lie in, ascending: what a worker has to read."""
        return np.unique(np.searchsorted(self._first_row_B + self._sizes_B, self.rows(start, stop), side="right"))

    def _window_row_ids(self, window: int) -> IntArray:
        kept = self._kept
        if kept is not None and kept[0] == window:
            return kept[1]
        blocks = self._blocks_B[window * self.window_blocks : (window + 1) * self.window_blocks]
        firsts, sizes = self._first_row_B[blocks], self._sizes_B[blocks]
        in_block = np.arange(int(sizes.sum()), dtype=np.int64) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        row_ids = np.repeat(firsts, sizes) + in_block
        shuffled: IntArray = row_ids[permutation(row_ids.size, self.seed, "order/rows", self.epoch, window)]
        self._kept = (window, shuffled)
        return shuffled

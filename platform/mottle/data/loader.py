"""Positions of an epoch -> batch: the order, the source and the seeds of the samples together.

A loader is what a worker holds. Whatever worker loads positions [a, b) of an epoch, and however [a, b) is cut into micro-batches, each
sample comes out the same.
"""

from functools import partial
from typing import Final, NamedTuple

from mottle.data.lru import Lru
from mottle.data.order import Order
from mottle.data.seeds import derive_seed
from mottle.data.source import Batch, Source

ORDERS_KEPT: Final = 2  # the epoch that ends and the one that begins


class Positions(NamedTuple):
    """Positions [start, stop) of one data epoch."""

    epoch: int
    start: int
    stop: int

    @property
    def num_samples(self) -> int:
        """How many samples."""
        return self.stop - self.start

    def __str__(self) -> str:
        return f"positions [{self.start}, {self.stop}) of epoch {self.epoch}"


class Loader:
    """Loads ranges of positions; picklable if its source is.

    Args:
        source: the rows.
        seed: of the run.
        shuffle: False: rows in stored order, as for evaluation.
        window_blocks: blocks mixed in the shuffle; None: as many as the source serves well.
        seed_samples: seed the random transforms of each sample by (seed, epoch, position). It costs about 20 microseconds a sample
            and reads them one by one; False for data without random transforms, or where reproducing them does not matter.
    """

    def __init__(
        self, source: Source, *, seed: int, shuffle: bool = True, window_blocks: int | None = None, seed_samples: bool = True
    ) -> None:
        self.source = source
        self.seed = seed
        self.shuffle = shuffle
        self.window_blocks = window_blocks
        self.seed_samples = seed_samples
        self._orders: Lru[int, Order] = Lru(ORDERS_KEPT)

    @property
    def num_positions(self) -> int:
        """Positions of an epoch."""
        return self.source.num_rows

    def order(self, epoch: int) -> Order:
        """The order of one epoch."""
        return self._orders.get(epoch, partial(self._make_order, epoch))

    def load(self, positions: Positions) -> Batch:
        """The batch at these positions.

        Raises:
            ValueError: positions outside the epoch.
            DataError: as of `Source.fetch`; also for an empty range.
        """
        rows = self.order(positions.epoch).rows(positions.start, positions.stop)
        if not self.seed_samples:
            return self.source.fetch(rows)
        places = range(positions.start, positions.stop)
        return self.source.fetch(rows, [derive_seed(self.seed, "sample", positions.epoch, place) for place in places])

    def _make_order(self, epoch: int) -> Order:
        window = self.source.window_blocks if self.window_blocks is None else self.window_blocks
        return Order(self.source.block_sizes, self.seed, epoch, window, shuffle=self.shuffle)

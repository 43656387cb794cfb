"""A worker's batches: loaded ahead in a thread of their own while the model computes."""

from mottle.data import Batch, Loader, Positions, Prefetcher

DEPTH = 4
"""Micro-batches waiting or loaded."""


class Feed:
    """One process's; `size` is that of a micro-batch at present."""

    def __init__(self, loader: Loader) -> None:
        self._prefetcher = Prefetcher(loader.load, depth=DEPTH)

    def request(self, epoch: int, start: int, stop: int, size: int) -> None:
        """These positions come next, `size` at a time."""
        for low in range(start, stop, size):
            if not self._prefetcher.request(Positions(epoch, low, min(low + size, stop))):
                return

    def forget(self, epoch: int, start: int, stop: int, size: int) -> None:
        """Make room for what comes next; all that can be on the shelf is micro-batches from `start` on."""
        for low in range(start, stop, size):
            self._prefetcher.discard(Positions(epoch, low, min(low + size, stop)))

    def take(self, epoch: int, start: int, stop: int, size: int, last: int) -> Batch:
        """The batch of these positions; those behind them, as far as `last`, are requested."""
        batch = self._prefetcher.take(Positions(epoch, start, stop))
        self.request(epoch, stop, min(last, stop + (DEPTH - 1) * size), size)
        return batch

    def close(self) -> None:
        """End the thread."""
        self._prefetcher.close()

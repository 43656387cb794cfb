"""What a run tells of its workers while it trains: speed, overhead, exchange and jitter of each. Nothing is computed for it.

A worker's time for b samples is overhead + b * sample (`balance.Predictor`); what passes between its order and the acknowledgement of its
update beside that is the exchange: reading the version, sending the update, waiting for shards.
"""

import math
from collections import deque
from collections.abc import Iterable
from statistics import median, pstdev
from typing import Any

from mottle.core.strategy import Update
from mottle.strategies.balance import Predictor, Speed

SMOOTHING = 0.2
REMEMBERED = 16
"""Orders whose exchange and jitter count."""
ENOUGH = 4
"""Orders of a worker after which its speed is known: the first may hold its warm-up, two more tell overhead from speed."""


class _Worker:
    def __init__(self) -> None:
        self.predictor = Predictor(SMOOTHING)
        self.exchanges_ns: deque[int] = deque(maxlen=REMEMBERED)
        self.errors: deque[float] = deque(maxlen=REMEMBERED)
        """log of measured over predicted time."""


class Measurements:
    """Of every worker that has sent updates."""

    def __init__(self) -> None:
        self._workers: dict[int, _Worker] = {}

    def note(self, update: Update, *, alone: bool) -> None:
        """An update came.

        Args:
            alone: the worker had nothing else in hand, so that its order did not wait for another one.
        """
        worker = self._workers.setdefault(update.worker, _Worker())
        spent_ns = max(1, update.compute_ns)
        if worker.predictor.num_orders >= ENOUGH and (speed := worker.predictor.speed) is not None:
            worker.errors.append(math.log(spent_ns / max(1.0, speed.time(update.samples))))
        worker.predictor.note(update.samples, spent_ns)
        if alone and update.took_ns and worker.predictor.num_orders > 1:  # the first order waits for the worker's warm-up
            worker.exchanges_ns.append(max(0, update.took_ns - spent_ns))

    def gone(self, worker: int) -> None:
        self._workers.pop(worker, None)

    def known(self, worker: int) -> bool:
        """Whether enough of its orders have come."""
        return worker in self._workers and self._workers[worker].predictor.num_orders >= ENOUGH

    def speed(self, crew: Iterable[int]) -> float:
        """Samples a second of these workers together, as far as they are known."""
        speeds = [self._workers[worker].predictor.speed for worker in crew if self.known(worker)]
        return math.fsum(1e9 / each.sample for each in speeds if each is not None)

    def of(self, worker: int) -> dict[str, float] | None:
        """Its numbers as JSON types, times in seconds; None while too little is known."""
        if not self.known(worker):
            return None
        known = self._workers[worker]
        speed = known.predictor.speed or Speed(1.0)
        return {
            "sample_s": speed.sample / 1e9,
            "overhead_s": speed.overhead / 1e9,
            "exchange_s": median(known.exchanges_ns) / 1e9 if known.exchanges_ns else 0.0,
            "jitter": pstdev(known.errors) if len(known.errors) > 1 else 0.0,
        }

    def state(self, crew: Iterable[int]) -> dict[str, Any]:
        """What is known of these, for whoever plans."""
        return {str(worker): numbers for worker in crew if (numbers := self.of(worker)) is not None}

"""How to split a batch among unequal workers so that all finish at once: minimise max_i (overhead_i + b_i * sample_i).

Source: Chen et al., "Semi-Dynamic Load Balancing", SoCC 2020 (arXiv 1806.02508); `heterogeneous.md` 5, steps 1 to 3. Times in one unit.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

_EPSILON = 1e-12  # a share that is a whole number but for rounding; least time of a sample, as a part of its order's
_CLEARLY = 1.5  # ratio of sizes; closer ones would make an overhead of the noise in their times


@dataclass(frozen=True, slots=True)
class Speed:
    """A worker's time for b samples is overhead + b * sample."""

    sample: float
    """Above 0."""
    overhead: float = 0.0

    def time(self, samples: int) -> float:
        return self.overhead + samples * self.sample


def balanced(batch: int, speeds: Sequence[Speed], least: int = 0, most: int | None = None) -> list[int]:
    """Samples for each worker, that add up to `batch` and make the last one finish as soon as may be.

    The continuous optimum T = (B + sum o/c) / sum 1/c gives b = (T - o) / c; rounded down and clamped, then corrected sample by sample: one
    more to whoever would finish first with it (tie: the first), one less to whoever finishes last (tie: the last).

    Args:
        batch: B, at least 0.
        speeds: one a worker, at least one.
        least, most: bounds of every share; None for no upper bound.
    Raises:
        ValueError: the bounds do not admit the batch.
    Cost: O(n log n), and one heap operation for every sample that the clamping moves.
    """
    n = len(speeds)
    highest = batch if most is None else most
    if not least * n <= batch <= highest * n:
        raise ValueError(f"cannot split {batch} samples among {n} workers with {least} to {highest} each; change the bounds or the batch")
    finish = level_time(batch, speeds)
    shares = [min(max(math.floor((finish - each.overhead) / each.sample + _EPSILON), least), highest) for each in speeds]
    missing = batch - sum(shares)
    more = [(speeds[i].time(shares[i] + 1), i) for i in range(n) if shares[i] < highest] if missing > 0 else []
    less = [(-speeds[i].time(shares[i]), -i) for i in range(n) if shares[i] > least] if missing < 0 else []
    heapq.heapify(more)
    heapq.heapify(less)
    for _ in range(missing):
        _, i = heapq.heappop(more)
        shares[i] += 1
        if shares[i] < highest:
            heapq.heappush(more, (speeds[i].time(shares[i] + 1), i))
    for _ in range(-missing):
        _, negative = heapq.heappop(less)
        i = -negative
        shares[i] -= 1
        if shares[i] > least:
            heapq.heappush(less, (-speeds[i].time(shares[i]), -i))
    return shares


def even_time(batch: int, speeds: Sequence[Speed]) -> float:
    """Until the last of these workers has computed an even share of the batch."""
    return max(each.overhead + batch / len(speeds) * each.sample for each in speeds)


def level_time(batch: int, speeds: Sequence[Speed]) -> float:
    """Until all of them have, with shares that make them finish at once: the T above, which whole samples come near to."""
    return (batch + math.fsum(each.overhead / each.sample for each in speeds)) / math.fsum(1 / each.sample for each in speeds)


class Predictor:
    """What a worker is expected to take, from what its last orders took.

    The time of a sample is an exponential moving average of (t - overhead) / b. The overhead is calibrated once, from the first two orders
    whose sizes are clearly different; the first order of all may hold a warm-up and counts for nothing once there is another.

    Args:
        smoothing: weight of the newest measurement, in (0, 1].
        calibrate: measure the overhead; without, it is 0.
    """

    def __init__(self, smoothing: float, *, calibrate: bool = True) -> None:
        self._smoothing = smoothing
        self._first: tuple[int, float] | None = None
        self._overhead = 0.0
        self._sample: float | None = None
        self.num_orders = 0
        self.calibrated = not calibrate

    def note(self, samples: int, time: float) -> None:
        """An order of that many samples took so long; both above 0."""
        self.num_orders += 1
        if self.num_orders <= 2:  # the second takes the place of the warm-up
            self._sample = time / samples
            self._first = (samples, time)
            return
        assert self._sample is not None
        if not self.calibrated and self._calibrate(samples, time):
            return
        newest = max((time - self._overhead) / samples, _EPSILON * time)
        self._sample += self._smoothing * (newest - self._sample)

    def _calibrate(self, samples: int, time: float) -> bool:
        """Two sizes give a line: its slope is the time of a sample, its value at 0 the overhead, which cannot be below 0."""
        assert self._first is not None
        before, before_time = self._first
        if max(samples, before) < _CLEARLY * min(samples, before):
            return False
        self.calibrated = True
        slope = (time - before_time) / (samples - before)
        if slope > 0 and before_time > slope * before:
            self._sample, self._overhead = slope, before_time - slope * before
            return True
        return False

    @property
    def speed(self) -> Speed | None:
        """None while nothing is known."""
        return None if self._sample is None else Speed(self._sample, self._overhead)

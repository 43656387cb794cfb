"""By when an order should be back, from the worker's own times: so that a silent loss costs one lease, not the cluster's patience.

A host that is cut off, or a process that hangs, says nothing; Ray declares a node dead after about 16 s and a hung process never. The
deadline is the median plus a number of deviations of that worker's own last times, and never under a floor: a false alarm costs one lease
(its samples are computed again elsewhere, the late update is discarded), so it may be wrong now and then but not often.
"""

import heapq
from collections import defaultdict, deque
from statistics import median

REMEMBERED = 32
"""Last times of a worker that count."""
DEVIATIONS = 8
"""Deviations above the median that are allowed."""
LEAST_DEVIATION = 0.25
"""Of the median: times that vary less are taken to vary so much."""
NORMAL = 1.4826
"""Standard deviations in one median absolute deviation, for a normal distribution."""


class Deadlines:
    """Expected ends of orders.

    Args:
        floor_ns: least time that an order is given; None sets no deadlines at all.
        first_ns: time that a worker's first order is given, which may include its warm-up.
    """

    def __init__(self, floor_ns: int | None, *, first_ns: int) -> None:
        self._floor_ns = floor_ns
        self._first_ns = first_ns
        self._times: dict[int, deque[tuple[int, int]]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        """Worker -> (nanoseconds, samples) of its last orders."""
        self._extremes: dict[int, tuple[int, int, int]] = {}
        """Worker -> (longest, shortest, fewest samples) of at least those."""
        self._usual_ns: dict[int, float] = {}
        """Medians, as long as they hold."""
        self._heap: list[tuple[int, int]] = []
        """(deadline, work id), earliest first; of orders that are done too, until their time comes."""

    def note(self, worker: int, duration_ns: int, samples: int) -> None:
        """An order of the worker came back after that time."""
        self._times[worker].append((duration_ns, samples))
        self._usual_ns.pop(worker, None)
        longest_ns, shortest_ns, fewest = self._extremes.get(worker, (duration_ns, duration_ns, samples))
        self._extremes[worker] = max(longest_ns, duration_ns), min(shortest_ns, duration_ns), min(fewest, samples)

    def usual_ns(self, worker: int) -> float | None:
        """Median time of its last orders; None before the first."""
        if worker not in self._usual_ns and (times := self._times.get(worker)):
            self._usual_ns[worker] = median(duration for duration, _ in times)
        return self._usual_ns.get(worker)

    def allowed_ns(self, worker: int, samples: int) -> int | None:
        """Time that an order of that many samples is given; None for no deadline."""
        if self._floor_ns is None:
            return None
        times = self._times.get(worker)
        if not times:
            return max(self._floor_ns, self._first_ns)
        if self._surely_short(*self._extremes[worker], samples):
            return self._floor_ns
        self._extremes[worker] = (max(times)[0], min(times)[0], min(count for _, count in times))  # others may be forgotten by now
        # An order of more samples than usual may take longer in proportion, one of fewer not less: some of the time is overhead.
        longer = max(1.0, samples / median(count for _, count in times))
        usual = median(duration for duration, _ in times)
        deviation = max(LEAST_DEVIATION * usual, NORMAL * median(abs(duration - usual) for duration, _ in times))
        return max(self._floor_ns, round(longer * (usual + DEVIATIONS * deviation)))

    def _surely_short(self, longest_ns: int, shortest_ns: int, fewest: int, samples: int) -> bool:
        """Whether the floor is above what `allowed_ns` would say for any times between these extremes: spares the medians."""
        deviation_ns = max(LEAST_DEVIATION * longest_ns, NORMAL * (longest_ns - shortest_ns))
        assert self._floor_ns is not None
        return max(1.0, samples / fewest) * (longest_ns + DEVIATIONS * deviation_ns) < self._floor_ns

    def set(self, work_id: int, at_ns: int) -> bool:
        """Watch an order. Whether its deadline is the earliest one now, so that a timer must be set."""
        heapq.heappush(self._heap, (at_ns, work_id))
        return self._heap[0] == (at_ns, work_id)

    def extend(self, by_ns: int) -> None:
        """Every deadline is so much later: nobody was heard meanwhile."""
        self._heap = [(at_ns + by_ns, work_id) for at_ns, work_id in self._heap]

    def passed(self, now_ns: int) -> list[int]:
        """Orders whose deadline has come, each told once, earliest first; those that are done may be among them."""
        late = []
        while self._heap and self._heap[0][0] <= now_ns:
            late.append(heapq.heappop(self._heap)[1])
        return late

    @property
    def next_ns(self) -> int | None:
        """The earliest deadline that is still to come."""
        return self._heap[0][0] if self._heap else None

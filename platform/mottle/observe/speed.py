"""How fast a run goes and when it will end, from snapshots alone."""

import math
from collections import deque

from mottle.observe.snapshot import Snapshot


class Speed:
    """Samples per second over the latest `window_s` seconds of snapshots: what the rest of the run will likely take."""

    def __init__(self, window_s: float = 20.0) -> None:
        self._window_s = window_s
        self._seen: deque[tuple[float, int]] = deque()

    def saw(self, snapshot: Snapshot) -> None:
        if not self._seen or snapshot.wall_s > self._seen[-1][0]:
            self._seen.append((snapshot.wall_s, snapshot.samples))
        while len(self._seen) > 2 and self._seen[1][0] <= snapshot.wall_s - self._window_s:
            self._seen.popleft()

    @property
    def per_s(self) -> float:
        """NaN before the second snapshot."""
        if len(self._seen) < 2:
            return math.nan
        (t0_s, samples0), (t1_s, samples1) = self._seen[0], self._seen[-1]
        return (samples1 - samples0) / (t1_s - t0_s)

    def eta_s(self, snapshot: Snapshot) -> float:
        """Seconds to the end; NaN when the end or the speed is unknown."""
        if snapshot.total_samples is None or not self.per_s > 0:
            return math.nan
        return max(0, snapshot.total_samples - snapshot.samples) / self.per_s

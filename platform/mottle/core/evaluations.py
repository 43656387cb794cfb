"""When a published model is evaluated: the first, the last, and every so many samples in between; one at a time."""

from dataclasses import dataclass, field

from mottle.core.protocol import Version


@dataclass(slots=True)
class Evaluations:
    """`every`: samples between two; None for none at all."""

    every: int | None
    running: Version | None = field(default=None, init=False)
    _last: Version | None = field(default=None, init=False)
    _last_samples: int = field(default=0, init=False)

    def due(self, samples: int) -> bool:
        """Whether a step to that many samples passed a multiple of `every`."""
        return self.every is not None and self.running is None and samples // self.every > self._last_samples // self.every

    def missing(self, version: Version) -> bool:
        """Whether this version, the first or last of a run, has still to be evaluated."""
        return self.every is not None and self._last != version

    def begin(self, version: Version, samples: int) -> None:
        self.running = self._last = version
        self._last_samples = samples

    def end(self, version: Version) -> bool:
        """Whether that version was being evaluated."""
        awaited = version == self.running
        self.running = None if awaited else self.running
        return awaited

    def restore(self, samples: int) -> None:
        """Go on at that many samples."""
        self._last_samples = samples

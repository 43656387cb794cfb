"""Measures the gradient noise scale of a run as it goes: the updates of a step are compared before the step uses them up.

The gradients of up to `PAIRED` workers are compared with that of one of them, another one each time: the shards add up as many inner
products. A lone worker's is compared with its own of the step before, of which the shards keep a copy under names that take turns (a new
one may be told before the old one is read).
"""

from typing import NamedTuple

from mottle.core import strategy as s
from mottle.core.protocol import KEPT, update_name
from mottle.strategies.noise_scale import NoiseScale

PAIRED = 8
"""Workers whose gradients are compared in a step."""


class _Gradient(NamedTuple):
    """A mean gradient."""

    samples: int
    """That it is over."""
    norm2: float
    scale: float
    """What the vector that is measured is divided by to give it."""

    @classmethod
    def of(cls, update: s.Update) -> "_Gradient":
        return cls(update.samples, update.norm2 / update.weight / update.weight, update.weight)  # squared, a liar's weight may overflow


class NoiseProbe:
    """Of one run.

    Args:
        tag: tells its measurements from others.
    """

    def __init__(self, tag: str) -> None:
        self.noise = NoiseScale()
        self._tag = tag
        self._asked: list[_Gradient] = []
        """Those whose inner products are being measured, the one they are compared with first."""
        self._newest: float | None = None
        """Weight of the step that is being measured."""
        self._turn = 0
        self._earlier: _Gradient | None = None
        """Of the step before, where it was a lone worker's."""

    def compare(self, updates: list[s.Update], *, newest: float | None = None, alone: bool = False) -> list[s.Decision]:
        """What to measure of the updates of a step, to be decided before the step.

        Args:
            newest: weight of this step among all; see `NoiseScale.note`.
            alone: whether to compare a lone worker with itself.
        """
        if self._asked or not updates or (len(updates) == 1 and not alone):
            return []
        self._newest = newest
        self._turn += 1
        if len(updates) == 1:
            return self._with_the_last(updates[0])
        first = (self._turn - 1) % len(updates)
        paired = [updates[first], *updates[:first], *updates[first + 1 :]][:PAIRED]
        self._asked, self._earlier = [_Gradient.of(update) for update in paired], None
        return [s.MeasureDots(self._tag, tuple(update.work_id for update in paired[1:]), update_name(paired[0].work_id))]

    def _with_the_last(self, update: s.Update) -> list[s.Decision]:
        before, now = (f"{self._tag}-{turn % 2}" for turn in (self._turn - 1, self._turn))
        earlier, self._earlier = self._earlier, _Gradient.of(update)
        keep = s.Keep(now, update_name(update.work_id))
        if earlier is None:
            return [keep]
        self._asked = [earlier._replace(scale=1.0), self._earlier]  # what is kept is a mean
        return [s.MeasureDots(self._tag, (update.work_id,), KEPT + before), keep]

    def measured(self, dots: tuple[float, ...]) -> None:
        """The answer."""
        (first, *others), self._asked = self._asked, []
        products = [dot / each.scale / first.scale for dot, each in zip(dots, others, strict=True)]
        gradients = [first, *others]
        self.noise.note([each.samples for each in gradients], [each.norm2 for each in gradients], products, newest=self._newest)

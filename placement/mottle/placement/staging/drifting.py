"""When a model is to be cut anew because its steps do not take what was predicted (specification 7.6), and what is known then.

    k(i, d) <- (1 - 0.2) k(i, d) + 0.2 measured            after every step, for the ops of each stage where they run
    due        measured step > 1.15 predicted step         for 20 steps in a row

What was predicted stays as it was when the model was cut: the averages alone would follow a stage that has become slow, and nobody would
ask for another cut. The text leaves open what an op takes where it has not run. Taking the old estimate would make every place look cheap
where nothing was tried, and ops would change places without end: so the more pessimistic is taken of what the op took elsewhere and of what
others take there. A pessimistic cut may turn out faster than predicted, with more to be gained: steps that are too short count as well.
"""

from collections.abc import Collection, Sequence

OFF = 1.15
"""A step counts that is longer than its prediction by this factor, or shorter."""
STEPS = 20
"""In a row."""
WEIGHT = 0.2
"""Of the newest step in an average."""


class Drift:
    """Of one cut, while it is in force.

    Args:
        step_ns: predicted.
        stages_ns: what each stage is predicted to compute in a step.
        patience: steps in a row.
    """

    def __init__(self, step_ns: float, stages_ns: Sequence[float], patience: int = STEPS) -> None:
        self.step_ns, self.patience = max(1.0, step_ns), patience
        self._predicted = [max(1.0, each) for each in stages_ns]
        self._average = list(self._predicted)
        self._off = 0
        self.seen_ns = self.step_ns
        """Average of the steps that were measured."""

    @property
    def due(self) -> bool:
        """Whether so many steps in a row were off."""
        return self._off >= self.patience

    @property
    def factors(self) -> list[float]:
        """What each stage takes over what it was predicted to."""
        return [seen / predicted for seen, predicted in zip(self._average, self._predicted, strict=True)]

    def observe(self, step_ns: float, stages_ns: Sequence[float]) -> None:
        """A step was measured, and what each stage computed in it."""
        self._average = [_towards(*each) for each in zip(self._average, stages_ns, strict=True)]
        step_ns = max(1.0, step_ns)
        self.seen_ns = _towards(self.seen_ns, step_ns)
        self._off = self._off + 1 if max(step_ns / self.step_ns, self.step_ns / step_ns) > OFF else 0


class Seen:
    """What ops took over what was expected of them, by who ran them."""

    def __init__(self) -> None:
        self._of: dict[int, dict[str, float]] = {}
        self._present: dict[int, float] = {}
        """Of those that a member runs now, on average."""

    def learn(self, member: int, units: Collection[str], factor: float) -> None:
        """The ops that a member runs took so many times what is known of them."""
        known = self._of.setdefault(member, {})
        known |= {unit: factor * self.factor(member, unit) for unit in units}
        self._present[member] = sum(known[unit] for unit in units) / max(1, len(units))

    def factor(self, member: int, unit: str) -> float:
        """Of an op on a member."""
        if (own := self._of.get(member, {}).get(unit)) is not None:
            return own
        elsewhere = max((known[unit] for known in self._of.values() if unit in known), default=None)
        return max((each for each in (elsewhere, self._present.get(member)) if each is not None), default=1.0)

    def forget(self, member: int) -> None:
        """It is another one."""
        self._of.pop(member, None)
        self._present.pop(member, None)


def _towards(average: float, newest: float) -> float:
    return (1 - WEIGHT) * average + WEIGHT * newest

"""Undoing rounds that ruin the model: which version may stay, and which one the run goes back to.

The loss of every version is measured on trusted data while the next round computes. The shards retain the newest version that was found
good and those that nobody has judged yet. A version is ruined if its loss is no number, or is above `cliff` times the median loss of the
last `window` good ones; then the run goes back to the newest good one, and what the workers have in hand on the ruined one is given up.
A round begins only when every version but the newest is judged, so a ruinous one costs itself and a part of the next, and the shards hold
three versions at most. Where the validator keeps up nobody waits for it.

So the model only moves within a region that was seen to be trustworthy, as in trust-region methods, where a trial step that does not do
what it should is taken back (Conn, Gould, Toint 2000, Trust-Region Methods, 6.1). Comparing with several steps, and by a factor, lets
losses go up and down as those of stochastic steps do, as in the nonmonotone line search of Grippo, Lampariello, Lucidi 1986 (which takes
their maximum: after a steep descent that forgives nearly everything). Going back to the weights before a spike is how Chowdhery et al.
2022 (PaLM, arXiv 2204.02311, 5.1) kept their run alive, and what population-based training does between trials.

Samples of a round that is undone stay used: they were part of a version that existed, as those of a trial that copies another one.
"""

import math
import statistics
from collections import deque
from collections.abc import Mapping
from typing import Any, Literal

from mottle.core import strategy as s
from mottle.core.protocol import Version

Judgement = Literal["good", "ruined", "unknown"]


class RoundGuard:
    """What is known of the versions of a run.

    Args:
        cliff: above 1; None: every version stays and none is retained, only their losses are asked for.
        window: good versions that a new one is compared with.
    """

    def __init__(self, cliff: float | None, window: int) -> None:
        self._cliff = cliff
        self._losses: deque[float] = deque(maxlen=window)
        self._good: tuple[int, float] | None = None
        """Number and loss of the newest version that was found good."""
        self._open: list[int] = []
        """Versions that are not judged, ascending."""
        self._lineage: int | None = None
        self._undoing = False
        """The run is to go back to the good version."""
        self._anew = True
        """What was asked before, if anything was, is not answered any more."""
        self._stale: list[int] = []
        """Retained by a guard before this one, and of no use to it."""

    @property
    def waits(self) -> bool:
        """Whether the next round must not begin yet."""
        return self._undoing or (self._cliff is not None and len(self._open) > 1)

    def before(self, number: int) -> float | None:
        """Loss of the version before, where that one is known to be good."""
        return self._good[1] if self._good is not None and self._good[0] == number - 1 else None

    def published(self, version: Version) -> list[s.Decision]:
        """A version exists; or the strategy begins at it, after a resumption, say."""
        decisions = self._release(*self._stale)
        self._stale = []
        if self._lineage not in (None, version.lineage):
            if self._undoing:
                return [*decisions, *self._reverted(version)]
            decisions += self._release(*self._held)
            self._forget()
        self._lineage = version.lineage
        if self._undoing:  # nobody has heard of it
            return [*decisions, self._revert()]
        if self._anew:
            decisions += self._release(*(each for each in self._open if each != version.number))
            self._open = [each for each in self._open if each == version.number]
            self._anew = False
        if self._good is not None and self._good[0] == version.number:
            return decisions
        if version.number not in self._open:
            self._open.append(version.number)
            decisions += self._retain(version.number)
        return [*decisions, s.MeasureLoss()]

    def measured(self, version: Version, loss: float | None) -> tuple[Judgement, list[s.Decision]]:
        """The loss that was asked for; None where it could not be measured: the version stays, and none goes back to it."""
        number = version.number
        if self._undoing or version.lineage != self._lineage or number not in self._open:
            return "unknown", []
        if loss is None:
            self._open.remove(number)
            return "unknown", self._release(number)
        if self._good is not None and self._is_ruin(loss):
            self._undoing = True
            return "ruined", [self._revert()]
        earlier = [each for each in self._held if each < number]
        self._open = [each for each in self._open if each > number]
        self._good = number, loss
        if math.isfinite(loss):
            self._losses.append(loss)
        return "good", self._release(*earlier)

    def _is_ruin(self, loss: float) -> bool:
        if self._cliff is None:
            return False
        return not math.isfinite(loss) or (bool(self._losses) and loss > self._cliff * statistics.median(self._losses))

    def _reverted(self, version: Version) -> list[s.Decision]:
        """The good version has a new number; what was retained of it went with the step."""
        assert self._good is not None
        decisions = [*self._release(*self._open), *self._retain(version.number)]
        self._lineage, self._good, self._open = version.lineage, (version.number, self._good[1]), []
        self._undoing = self._anew = False
        return decisions

    def _forget(self) -> None:
        """Another run's model has taken the place of this one's."""
        self._losses.clear()
        self._good, self._open = None, []

    # --- what the shards hold ---------------------------------------------------------------------------------------------------------

    @property
    def _held(self) -> list[int]:
        return [*([] if self._good is None else [self._good[0]]), *self._open]

    def _retain(self, number: int) -> list[s.Decision]:
        return [] if self._cliff is None else [s.Retain(_name(number))]

    def _release(self, *numbers: int) -> list[s.Decision]:
        return [] if self._cliff is None and not self._stale else [s.Release(_name(number)) for number in numbers]

    def _revert(self) -> s.Decision:
        assert self._good is not None
        return s.Revert(_name(self._good[0]))

    # --- checkpoints ------------------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """As JSON types; what the shards retain is part of a checkpoint as well."""
        return {
            "retains": self._cliff is not None,
            "losses": list(self._losses),
            "good": None if self._good is None else list(self._good),
            "open": list(self._open),
            "lineage": self._lineage,
            "undoing": self._undoing,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take it up; from one that retained nothing, or by one that does not, only the losses."""
        self._losses.extend(state["losses"])
        self._lineage = state["lineage"]
        number_and_loss, self._open = state["good"], list(state["open"])
        self._good = None if number_and_loss is None else (int(number_and_loss[0]), float(number_and_loss[1]))
        if state["retains"] == (self._cliff is not None):
            self._undoing = state["undoing"]
            return
        self._stale = self._held if state["retains"] else []
        self._good, self._open = None, []

    def check(self) -> None:
        assert self._good is not None or not self._undoing, "there is nothing to go back to"
        assert self._open == sorted(self._open)


def _name(number: int) -> str:
    return f"version/{number}"

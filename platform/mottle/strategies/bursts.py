"""Which stragglers a sequential code bears: at most so many in a window of rounds, each in a burst of at most so many of them.

The (B, W, lambda)-bursty model: in every window of W consecutive rounds at most lambda workers straggle, and those rounds in which one of
them does lie within B consecutive ones. A round whose stragglers would leave the model is waited out instead: then it has none.

Source: Krishnan, Ebrahimi, Khisti, "Sequential Gradient Coding For Straggler Mitigation", ICLR 2023 (arXiv 2211.13802); the check as in
the authors' code; `heterogeneous.md` 8. Workers are places of a crew. Pure.
"""

from collections import deque
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from mottle.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class BurstModel:
    """What stragglers are like.

    Attributes:
        burst: B, consecutive rounds in which a straggler's bad ones lie.
        window: W, rounds.
        num_stragglers: lambda, distinct workers in a window.
    """

    burst: int
    window: int
    num_stragglers: int

    def __post_init__(self) -> None:
        if not 1 <= self.burst < self.window or self.num_stragglers < 0:
            raise ConfigError(
                "a burst model needs 1 <= burst < window and num_stragglers >= 0, "
                f"got {self.burst}, {self.window} and {self.num_stragglers}"
            )


class Bursts:
    """The stragglers of the last rounds."""

    def __init__(self, model: BurstModel) -> None:
        self._model = model
        self._past: deque[frozenset[int]] = deque(maxlen=model.window - 1)
        """Of the rounds before the one at hand, oldest first."""

    def bears(self, stragglers: AbstractSet[int]) -> bool:
        """Whether the model still holds if these straggle in the round at hand."""
        distinct = set(stragglers).union(*self._past)
        before_burst = list(self._past)[: max(0, len(self._past) - (self._model.burst - 1))]
        return len(distinct) <= self._model.num_stragglers and not any(stragglers & past for past in before_burst)

    def note(self, stragglers: AbstractSet[int]) -> None:
        """The round is over, with these stragglers that count."""
        self._past.append(frozenset(stragglers))

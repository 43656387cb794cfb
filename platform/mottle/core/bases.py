"""Models of old versions that the shards keep as vectors, for strategies that measure how far the model moved between two of them.

Every step leaves a copy of the version that it makes. A copy goes once no undecided order began at its version and no further one can: new
orders name the newest published version, or a later one.
"""

from collections import deque

from mottle.core.ledger import Ledger
from mottle.core.pipeline import Pipeline
from mottle.core.protocol import PARAMS, model_name


class Bases:
    """Which models the shards keep; nothing before `begin`."""

    def __init__(self, ledger: Ledger, pipeline: Pipeline) -> None:
        self._ledger = ledger
        self._pipeline = pipeline
        self._kept: deque[int] = deque()
        """Published versions, ascending."""

    def begin(self) -> None:
        """Keep the version that is published, with no step under way, and all that follow."""
        assert self._pipeline.idle, "models are kept from the first step on"
        self._pipeline.keeps_models = True
        self._kept.append(self._pipeline.published.number)
        self._pipeline.keep(model_name(self._pipeline.published.number), PARAMS)

    def end(self) -> None:
        """Keep no models any more: whoever wants them begins anew."""
        self._pipeline.keeps_models = False
        self._pipeline.drop(tuple(map(model_name, self._kept)))
        self._kept.clear()

    def published(self) -> None:
        """A version was made, and its updates have their verdicts: drop what nobody began at."""
        if not self._pipeline.keeps_models:
            return
        self._kept.append(self._pipeline.published.number)
        needed = {order.compute.base.number for order in self._ledger.undecided} | {self._pipeline.published.number}
        self._pipeline.drop(tuple(model_name(number) for number in self._kept if number not in needed))
        self._kept = deque(number for number in self._kept if number in needed)

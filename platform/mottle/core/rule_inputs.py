"""What robust rules ask of trusted data: a reference gradient on the shards, or the losses of candidate models.

Steps are taken one at a time, so there is one request at a time. The reference for the next step is asked for as soon as a version is
published, while the workers compute on it. Knows no rule: only which kinds of input one needs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from mottle.core.effects import Effects
from mottle.core.pipeline import Trusted
from mottle.core.protocol import REFERENCE, Refresh, Score, Scored, Version
from mottle.core.references import References

OWN = f"{REFERENCE}rule/"
"""Names of the reference vectors that rules use; a strategy's own are called otherwise."""


@dataclass(slots=True)
class _Request:
    kinds: frozenset[str]
    then: Callable[[Trusted], None]
    score: Score | None = None
    """The question to the validator."""
    descents: tuple[float, ...] | None = None


@dataclass
class RuleInputs:
    """Inputs of the rule of the step under way.

    Args:
        references: vectors on their way to the shards.
        drop: has the shards forget vectors.
        seed: of the run.
        num_samples: trusted samples of one reference or score.
    """

    references: References
    drop: Callable[[tuple[str, ...]], None]
    effects: Effects
    seed: int
    num_samples: int
    _request: _Request | None = field(default=None, init=False)
    _reference: str | None = field(default=None, init=False)
    """The newest reference that was asked for and not given up."""
    _ready: bool = field(default=False, init=False)
    _ahead: bool = field(default=False, init=False)
    """Whether the last step used a reference, so that the next one will."""
    _num_asked: int = field(default=0, init=False)

    def obtain(
        self,
        kinds: frozenset[str],
        rows: tuple[str, ...],
        then: Callable[[Trusted], None],
        *,
        version: Version,
        samples: int,
        lr: float | None,
    ) -> None:
        """Give `then` what a step needs.

        Args:
            kinds: `reference`, `score`.
            rows: names of the updates.
            version: the published one.
            samples: spent so far, the argument of the learning-rate schedule.
            lr: base learning rate in force, where the user changed it.
        """
        self._request = _Request(kinds, then)
        self._ahead = "reference" in kinds
        if self._ahead and self._reference is None:
            self._ask_reference(version)
        if "score" in kinds:
            self._num_asked += 1
            self._request.score = Score(self._num_asked, rows, version, self.seed, self.num_samples, samples, lr)
            self.effects.tell(self._request.score)
        self._give_if_complete()

    def published(self, version: Version) -> None:
        """A step was made: its reference is of no more use, and the next one's can be computed."""
        self._give_up_reference()
        if self._ahead:
            self._ask_reference(version)

    @property
    def awaited(self) -> Score | None:
        """The question to the validator that is not answered."""
        request = self._request
        return None if request is None or request.descents is not None else request.score

    def forget(self) -> None:
        """What was computed ahead is of a model that was replaced."""
        assert self._request is None, "a step is being decided"
        self._reference, self._ready, self._ahead = None, False, False

    # --- answers ----------------------------------------------------------------------------------------------------------------------

    def ready(self, name: str) -> bool:
        """The shards hold a reference. Whether it is one of a rule."""
        if name == self._reference:
            self._ready = True
            self._give_if_complete()
        return name.startswith(OWN)

    def failed(self, name: str, reason: str) -> bool:
        """There will be no such reference. Whether it was to be one of a rule."""
        if name == self._reference:
            self._reference = None
            if self._request is not None and "reference" in self._request.kinds:
                self._give(Trusted(failure=f"no reference gradient: {reason}"))
        return name.startswith(OWN)

    def scored(self, event: Scored) -> None:
        request = self._request
        if request is None or request.score is None or request.score.request != event.request:
            return
        if event.error:
            self._give(Trusted(failure=f"the updates could not be scored: {event.error}"))
        else:
            request.descents = event.descents
            self._give_if_complete()

    def _give_if_complete(self) -> None:
        request = self._request
        if request is None or ("reference" in request.kinds and not self._ready) or ("score" in request.kinds and request.descents is None):
            return
        self._give(Trusted(self._reference if "reference" in request.kinds else None, request.descents))

    def _give(self, trusted: Trusted) -> None:
        assert self._request is not None
        then, self._request = self._request.then, None
        then(trusted)

    # --- references -------------------------------------------------------------------------------------------------------------------

    def _ask_reference(self, version: Version) -> None:
        self._num_asked += 1
        self._reference, self._ready = f"{OWN}{self._num_asked}", False
        self.effects.tell(self.references.ask(Refresh(self._reference, version, self.seed, self.num_samples)))

    def _give_up_reference(self) -> None:
        if self._reference is not None and self.references.forget(self._reference):
            self.drop((self._reference,))
        self._reference, self._ready = None, False

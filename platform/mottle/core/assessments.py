"""Losses on trusted data that a strategy has asked for: each of one version, which the validator reads while training goes on."""

from mottle.core.protocol import Evaluate, Evaluated, Version


class Assessments:
    """Those that are under way."""

    def __init__(self) -> None:
        self._pending: dict[Version, Evaluate] = {}

    def ask(self, version: Version) -> Evaluate | None:
        """What to ask the validator; None if it has been asked."""
        if version in self._pending:
            return None
        order = self._pending[version] = Evaluate(version, trusted=True)
        return order

    def end(self, answer: Evaluated) -> bool:
        """Whether that was waited for."""
        return self._pending.pop(answer.version, None) is not None

    def forget(self) -> None:
        """Whoever asked is not there any more."""
        self._pending.clear()

    @property
    def awaited(self) -> tuple[Evaluate, ...]:
        """Asked and not answered."""
        return tuple(self._pending.values())

    @property
    def holds(self) -> dict[str, int]:
        """Versions that have still to be read, by the name under which the validator reads them."""
        return {reader(version): version.number for version in self._pending}


def reader(version: Version) -> str:
    """Name under which a version is read for its loss."""
    return f"assess/{version.number}"

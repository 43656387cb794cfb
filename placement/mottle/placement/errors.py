"""What can be wrong with a placement problem, and what can be impossible about it."""

from collections.abc import Sequence

from mottle.core.errors import MottleError

_SHOWN = 20  # a broken generator repeats one mistake per op: show enough to see the pattern, then count the rest


class ProblemError(MottleError, ValueError):
    """The problem (or a placement of it) is malformed. `problems` lists every mistake found, not only the first."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        shown = "\n".join(f"- {line}" for line in self.problems[:_SHOWN])
        hidden = len(self.problems) - _SHOWN
        super().__init__(f"{shown}\n- ... and {hidden} more" if hidden > 0 else shown)


class InfeasibleError(MottleError):
    """The problem is well formed, but no placement was found that fits. `reasons` says which bound is broken, by how much."""

    def __init__(self, reasons: Sequence[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__("\n".join(f"- {line}" for line in self.reasons))


class UndecidedError(MottleError):
    """The exact solver reached its limit with neither a placement nor a proof that there is none."""

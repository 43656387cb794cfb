"""What can be wrong with a rule, its budget or its input; all are the user's or a peer's doing, none a bug of ours."""

from mottle.core.errors import ConfigError


class ConditionError(ConfigError):
    """A rule cannot keep its promise with so few rows: its validity condition does not hold.

    A library call raises it; a live run skips the step instead and says why.
    """

    def __init__(self, rule: str, *, num_rows: int, budget: int | None, condition: str, advice: str = "") -> None:
        self.rule = rule
        self.num_rows = num_rows
        self.budget = budget
        self.condition = condition
        declared = "" if budget is None else f" and f={budget}"
        advice = advice or "wait for more rows or lower the declared budget"
        super().__init__(f"{rule} needs {condition}, got n={num_rows}{declared}; {advice}")


class InputError(ConfigError):
    """Rows, weights, centre, reference or scores that no rule can work on, or that this rule lacks."""

"""What rules there are and what they can survive, for people who have to choose one."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields

from mottle.aggregation.decisions.base import Family, Input, RuleConfig
from mottle.aggregation.decisions.registry import RULES, build_config
from mottle.aggregation.errors import ConditionError
from mottle.core.naming import Spec, lookup


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of a rule."""

    name: str
    type: str
    doc: str
    default: object
    required: bool


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One rule of the catalogue."""

    name: str
    summary: str
    family: Family
    condition: str
    guarantee: str
    source: str
    inputs: Mapping[Input, str]
    parameters: tuple[Parameter, ...]


def catalogue() -> tuple[Entry, ...]:
    """All rules with their parameters, conditions, guarantees and sources."""
    return tuple(_entry(rule) for rule in RULES.values())


def _entry(rule: type[RuleConfig]) -> Entry:
    return Entry(
        name=rule.name,
        summary=rule.summary,
        family=rule.family,
        condition=rule.condition,
        guarantee=rule.guarantee,
        source=rule.source,
        inputs=dict(rule.inputs),
        parameters=tuple(
            Parameter(
                name=each.name,
                type=getattr(each.type, "__name__", str(each.type)),
                doc=each.metadata["doc"],
                default=None if each.default is MISSING else each.default,
                required=each.default is MISSING,
            )
            for each in fields(rule)
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Breakdown:
    """How many faulty rows a rule survives with so many workers."""

    rule: str
    num_workers: int
    largest: int
    """Most faulty rows it can survive with the best declaration; negative: it cannot run with so few workers."""
    declared: int | None
    """Budget of this configuration; None for a rule that declares none, or when only a name was given."""
    survives: int
    """Faulty rows survived as configured; negative: its condition does not hold."""
    guarantee: str

    def warning(self, num_faulty: int) -> str | None:
        """What to tell a user whose job has so many faulty workers; None if the rule survives them."""
        if num_faulty <= self.survives:
            return None
        if num_faulty <= self.largest:
            have = f"{self.rule} survives {self.survives} faulty of {self.num_workers} workers as configured"
            return f"{have}, the job has {num_faulty}; declare more"
        return (
            f"{self.rule} survives at most {max(0, self.largest)} faulty of {self.num_workers} workers, the job has {num_faulty}; "
            f"use zeno or fltrust with trusted data, or more honest workers"
        )


def breakdown(rule: Spec | RuleConfig, n: int) -> Breakdown:
    """Faulty rows that a rule survives among n.

    Args:
        rule: a configuration or spec; or the bare name of a rule, which stands for its best declaration.
    """
    if isinstance(rule, str):
        kind = lookup(rule, RULES, "rule")
        if any(each.default is MISSING for each in fields(kind)):
            return _undeclared(kind, n)
    config = build_config(rule)
    declared = config.budget(n)
    largest = config.largest_budget(n)
    try:
        config.check(n, declared)
        survives = largest if declared is None else min(declared, largest)
    except ConditionError:
        survives = -1
    return Breakdown(rule=config.name, num_workers=n, largest=largest, declared=declared, survives=survives, guarantee=config.guarantee)


def _undeclared(kind: type[RuleConfig], n: int) -> Breakdown:
    """Rules whose budget the user must choose, at their best one: the condition does not depend on the other parameters."""
    stand_in = {"num_byzantine": 0, "trim": 0, "rho": 0.0, "inner": RULES["median"]()}
    options = {each.name: stand_in[each.name] for each in fields(kind) if each.default is MISSING}
    largest = kind(**options).largest_budget(n)
    return Breakdown(rule=kind.name, num_workers=n, largest=largest, declared=None, survives=largest, guarantee=kind.guarantee)

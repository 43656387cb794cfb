"""All rules by name, and how a job file's words become a configuration."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from mottle.aggregation.decisions.base import RuleConfig
from mottle.aggregation.decisions.bulyan import Bulyan
from mottle.aggregation.decisions.centered_clipping import CenteredClipping
from mottle.aggregation.decisions.columns import MeaMed, Mean, Median, Phocas, TrimmedMean
from mottle.aggregation.decisions.fltrust import FLTrust
from mottle.aggregation.decisions.geometric_median import GeometricMedian
from mottle.aggregation.decisions.krum import Krum, MultiKrum
from mottle.aggregation.decisions.nnm import Nnm
from mottle.aggregation.decisions.rfa import Rfa
from mottle.aggregation.decisions.zeno import Zeno
from mottle.core.errors import ConfigError, UnknownNameError
from mottle.core.naming import Spec, lookup, parse, suggestion

RULES: Mapping[str, type[RuleConfig]] = {
    rule.name: rule
    for rule in (
        Mean,
        Krum,
        MultiKrum,
        Bulyan,
        Median,
        TrimmedMean,
        Phocas,
        MeaMed,
        GeometricMedian,
        Rfa,
        CenteredClipping,
        Zeno,
        FLTrust,
        Nnm,
    )
}

_BUDGETS = ("num_byzantine", "trim")


def build_config(spec: Spec | RuleConfig, *, num_workers: int | None = None) -> RuleConfig:
    """The configuration that a spec names, `{"phocas": {"trim": 2}}` or `"median"`.

    Args:
        spec: a configuration is passed through.
        num_workers: n, if it is known already; the rule's condition is then checked now, not only at every call.
    Raises:
        ConfigError: unknown rule or parameter (names the nearest), missing parameter, value out of range.
        ConditionError: the rule cannot run with `num_workers` rows.
    """
    rule = spec if isinstance(spec, RuleConfig) else _from_spec(spec)
    if num_workers is not None:
        rule.check(num_workers, rule.budget(num_workers))
        if isinstance(rule, Nnm):
            rule.inner.check(num_workers, rule.inner.budget(num_workers))
    return rule


def _from_spec(spec: Spec) -> RuleConfig:
    name, options = parse(spec, "rule")
    rule = lookup(name, RULES, "rule")
    if rule is Nnm:
        options = _with_inner(options)
    known = [each.name for each in fields(rule)]
    for option in options:
        if option not in known:
            raise UnknownNameError(f"{rule.name} has no parameter {option!r}; {suggestion(option, known)}")
    missing = [each.name for each in fields(rule) if each.default is MISSING and each.name not in options]
    if missing:
        raise ConfigError(f"{rule.name} needs {' and '.join(missing)}; there is no default that would suit every crew")
    return rule(**options)


def _with_inner(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of nnm with the inner rule built; an inner budget that is not given is nnm's own."""
    inner = options.get("inner")
    if inner is None or isinstance(inner, RuleConfig):
        return dict(options)
    name, inner_options = parse(inner, "rule")
    budgets = [each.name for each in fields(lookup(name, RULES, "rule")) if each.name in _BUDGETS]
    inherited = {budget: options["num_byzantine"] for budget in budgets if budget not in inner_options and "num_byzantine" in options}
    return {**options, "inner": _from_spec({name: {**inner_options, **inherited}})}

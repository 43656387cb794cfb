"""What a live run can change, checked in the process of whoever asks for it."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from mottle import strategies
from mottle.core.errors import ConfigError
from mottle.core.naming import Spec, folded, parse, suggestion
from mottle.sdk.live_rule import live_rule


def checked_settings(
    settings: Mapping[str, Any],
    strategy: Spec,
    *,
    trusted: bool = False,
    lr: object = None,
    resized: bool = False,
    defaults: Mapping[str, Any] | None = None,
    optimizer: Spec = "sgd",
) -> dict[str, Any]:
    """The settings as the brain takes them.

    Args:
        settings: by name; see `Run.set`.
        strategy: the run's.
        trusted: whether it has validation data.
        lr: its optimizer's learning rate, None where it was left to the optimizer.
        resized: whether a batch policy changes the rate of steps.
        defaults: what its strategy takes from the job.
        optimizer: of its shards.
    Raises:
        ConfigError: everything that is wrong with them.
    """
    checks: dict[str, Callable[[Any], Any]] = {
        "lr": _rate,
        "momentum": lambda value: _momentum(value, optimizer),
        "rule": lambda rule: _rule(rule, strategy, trusted=trusted, lr=lr, resized=resized),
        "strategy": lambda spec: _strategy(spec, strategy, defaults or {}),
    }
    wrong: list[str] = []
    checked: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in checks:
            wrong.append(f"a live run has no setting {name!r}; {suggestion(name, checks)}")
            continue
        try:
            checked[name] = checks[name](value)
        except ConfigError as error:
            wrong.append(str(error))
    if not settings:
        wrong.append(f"nothing to change was given; known: {', '.join(checks)}")
    if wrong:
        raise ConfigError("; ".join(wrong))
    return checked


def _rate(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value >= 0):
        raise ConfigError(f"lr is a finite number of at least 0, got {value!r}")
    return float(value)


def _momentum(value: Any, optimizer: Spec) -> float:
    name, options = parse(optimizer, "optimizer")
    now = options.get("momentum")
    if folded(name) != "sgd" or not isinstance(now, int | float) or not now:
        raise ConfigError(f"momentum can be changed where the shards step by SGD with some; here they step by {name} with {options}")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ConfigError(f"momentum is a number between 0 and 1, got {value!r}")
    return float(value)


def _strategy(spec: Any, strategy: Spec, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The run's own one with other options: whatever else there is of a run was made for that one."""
    (name, options), (own, _) = parse(spec, "strategy"), parse(strategy, "strategy")
    if folded(name) != folded(own):
        raise ConfigError(f"a live run keeps its strategy {own!r} and can change its options, got {name!r}")
    before, after = (strategies.build(each, dict(defaults)) for each in (strategy, spec))
    for fixed in ("server_optimizer", "companion", "barriered", "needs_validation", "max_in_flight", "fragmentation", "models"):
        was, would_be = (getattr(each, fixed, None) for each in (before, after))
        if was != would_be:
            raise ConfigError(f"{fixed} of strategy {own!r} cannot change in a live run: {was} to {would_be}")
    return {name: options}


def _rule(value: Any, strategy: Spec, *, trusted: bool, lr: object, resized: bool) -> dict[str, Any] | None:
    name, _ = parse(strategy, "strategy")
    if not strategies.takes_rule(name):
        raise ConfigError(f"strategy {name!r} applies no robust rule, so there is none to change")
    local = strategies.takes_local_steps(name)
    return None if value is None else live_rule(value, trusted=trusted, lr=lr, local=local, resized=resized)

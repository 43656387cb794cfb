"""What a live run can change, checked in the process of whoever asks for it."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from mottle import strategies
from mottle.core.errors import ConfigError
from mottle.core.naming import Spec, parse, suggestion
from mottle.sdk.live_rule import live_rule


def checked_settings(
    settings: Mapping[str, Any], strategy: Spec, *, trusted: bool = False, lr: object = None, resized: bool = False
) -> dict[str, Any]:
    """The settings as the brain takes them.

    Args:
        settings: by name; see `Run.set`.
        strategy: the run's.
        trusted: whether it has validation data.
        lr: its optimizer's learning rate, None where it was left to the optimizer.
        resized: whether a batch policy changes the rate of steps.
    Raises:
        ConfigError: everything that is wrong with them.
    """
    checks: dict[str, Callable[[Any], Any]] = {
        "lr": _rate,
        "rule": lambda rule: _rule(rule, strategy, trusted=trusted, lr=lr, resized=resized),
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


def _rule(value: Any, strategy: Spec, *, trusted: bool, lr: object, resized: bool) -> dict[str, Any] | None:
    name, _ = parse(strategy, "strategy")
    if not strategies.takes_rule(name):
        raise ConfigError(f"strategy {name!r} applies no robust rule, so there is none to change")
    local = strategies.takes_local_steps(name)
    return None if value is None else live_rule(value, trusted=trusted, lr=lr, local=local, resized=resized)

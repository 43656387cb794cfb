"""Robust rules in a live run: in the one form that the brain and the shards know, and what they ask of the job."""

from typing import Any

from mottle import aggregation
from mottle.core.errors import ConfigError
from mottle.core.naming import Spec, parse


def live_rule(spec: Spec, *, trusted: bool, lr: object, local: bool, resized: bool) -> dict[str, Any]:
    """The rule as `{name: options}`.

    Args:
        trusted: whether the job has validation data.
        lr: the optimizer's learning rate, None where it was left to the optimizer.
        local: whether workers take local steps.
        resized: whether a batch policy changes the rate of steps.
    Raises:
        ConfigError: unknown rule or option, or one that needs what the job does not have.
    """
    rule = aggregation.build(spec)
    needed = sorted({"reference", "score"} & rule.config.required)
    if needed and local:
        raise ConfigError(
            f"rule {rule.name!r} compares updates with gradients of trusted data, and these are sums of local steps; use a rule that "
            "compares the workers with one another"
        )
    if needed and not trusted:
        raise ConfigError(
            f"rule {rule.name!r} needs a {' and a '.join(needed)} from trusted data in every round; give validation_data, disjoint from "
            "test_data, or use a rule that compares the workers with one another"
        )
    if "score" in needed and lr is None:
        raise ConfigError(f"rule {rule.name!r} tries each update at the learning rate of the step; give the optimizer an lr")
    if "score" in needed and resized:
        raise ConfigError(f"rule {rule.name!r} tries each update at the job's learning rate, and batch_policy changes it; leave one out")
    name, options = parse(spec, "rule")
    return {name: options}

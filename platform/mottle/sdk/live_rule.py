"""Robust rules in a live run: which can be used, in the one form that the brain and the shards know."""

from typing import Any

from mottle import aggregation
from mottle.core.errors import ConfigError
from mottle.core.naming import Spec, parse


def live_rule(spec: Spec) -> dict[str, Any]:
    """The rule as `{name: options}`.

    Raises:
        ConfigError: unknown rule or option; or one that needs a reference gradient or losses of candidate models every round, which a
            synchronous strategy does not ask for.
    """
    rule = aggregation.build(spec)
    if needed := sorted({"reference", "score"} & rule.config.required):
        raise ConfigError(
            f"rule {rule.name!r} needs {' and '.join(needed)} from trusted data in every round, which no synchronous strategy "
            "provides yet; use zeno++ for trusted data, or a rule that compares the workers with one another"
        )
    name, options = parse(spec, "rule")
    return {name: options}

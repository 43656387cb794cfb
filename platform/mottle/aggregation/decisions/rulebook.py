"""The rules as the coordinator's brain calls them: integers from shards in, instructions for shards out."""

from typing import Any, final

from mottle.aggregation.decisions.decide import decide
from mottle.aggregation.decisions.registry import build_config
from mottle.aggregation.decisions.statistics import Statistics
from mottle.aggregation.errors import ConditionError
from mottle.core.pipeline import RuleDecision
from mottle.core.protocol import Settings

MOST_ROWS = 4096
"""A rule that needs more rows than this is taken to need none: no run has them."""


@final
class Rules:
    """Implements `mottle.core.pipeline.RuleBook`. All rows it is asked about were found finite when they were stored.

    Instructions are `Decision.to_settings()`; a shard obeys them with `Rule.apply`.
    """

    def wants_statistics(self, rule: Settings) -> bool:
        """Whether shards must measure before the rule can decide."""
        return not build_config(_spec(rule)).measures.nothing

    def wants_trusted(self, rule: Settings) -> frozenset[str]:
        """Which inputs the validator must give: `reference`, `score`."""
        return build_config(_spec(rule)).required & {"reference", "score"}

    def least_crew(self, rule: Settings) -> int:
        """Fewest rows of which the rule can make a step; those of a rule that never can are 1."""
        for num_rows in range(1, MOST_ROWS):
            try:
                build_config(_spec(rule), num_workers=num_rows)
            except ConditionError:
                continue
            return num_rows
        return 1

    def decide(
        self,
        rule: Settings,
        statistics: tuple[int, ...],
        counts: tuple[float, ...],
        num_expected: int,
        descents: tuple[float, ...] | None = None,
    ) -> RuleDecision:
        """The decision, or why the step must be skipped: a run goes on when a condition fails, it does not raise."""
        config, num_rows = build_config(_spec(rule)), len(counts)
        sums = None if config.measures.nothing else Statistics.from_wire(config.measures, num_rows, statistics)
        try:
            decision = decide(
                config,
                num_rows,
                statistics=sums,
                counts=counts,
                descents=descents,
                num_expected=max(num_expected, num_rows),
                whole=False,  # they may be tokens, or what classes weigh; the brain has checked them against its orders
            )
        except ConditionError as error:
            return RuleDecision((), {}, skip=str(error))
        return RuleDecision(decision.selected, decision.to_settings())


def _spec(rule: Settings) -> dict[str, Any]:
    return dict(rule)

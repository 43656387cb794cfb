"""Robust rules on one shard's rows: the numeric half of `mottle.core.pipeline.RuleBook`."""

from torch import Tensor

from mottle import aggregation
from mottle.core.protocol import Settings


class RangeRules:
    """Rules by their settings, each built once."""

    def __init__(self) -> None:
        self._built: dict[str, aggregation.Rule] = {}

    def _rule(self, settings: Settings) -> aggregation.Rule:
        key = repr(sorted(settings.items()))
        if key not in self._built:
            self._built[key] = aggregation.build(dict(settings))
        return self._built[key]

    def wants_center(self, settings: Settings) -> bool:
        """Whether the rule works around the last direction."""
        return "center" in self._rule(settings).config.inputs

    def measure(
        self, settings: Settings, rows: list[Tensor], center: Tensor | None, reference: Tensor | None, num_params: int
    ) -> tuple[int, ...]:
        """The shard's part of the statistics that the rule decides on, as exact integers; over coordinates below `num_params`."""
        parts = [None if companion is None else companion[:num_params] for companion in (center, reference)]
        return self._rule(settings).measure([row[:num_params] for row in rows], center=parts[0], reference=parts[1]).to_wire()

    def apply(
        self, settings: Settings, decision: Settings | None, rows: list[Tensor], center: Tensor | None, num_params: int, out: Tensor
    ) -> None:
        """Write the shard's part of the direction: the rule on coordinates below `num_params`, the median behind them.

        The median of all rows; of those that trusted data have chosen where the rule stands a majority of liars.

        Args:
            rows: means of the workers, shape (D,) each.
            out: shape (D,).
        """
        obeyed = aggregation.Decision.from_settings(decision or {})
        part = None if center is None else center[:num_params]
        out[:num_params] = self._rule(settings).apply([row[:num_params] for row in rows], obeyed, center=part)
        if num_params < len(out):
            trusted = self._rule(settings).family == "reference" and obeyed.selected
            chosen = [rows[row] for row in obeyed.selected] if trusted else rows
            out[num_params:] = self._rule({"median": {}})([row[num_params:] for row in chosen])

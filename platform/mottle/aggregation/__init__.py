"""Robust aggregation: how the updates of many workers, some of them faulty, become one direction.

    >>> import torch
    >>> from mottle import aggregation
    >>> rule = aggregation.build({"trimmed_mean": {"trim": 1}})
    >>> rule(torch.tensor([[0.0], [1.0], [3.0], [900.0]]))
    tensor([2.])

Importing this package does not load torch, so that `mottle.aggregation.decisions` stays light; `build` and what hangs on it do.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mottle.aggregation.decisions.catalogue import Breakdown, Entry, breakdown, catalogue
from mottle.aggregation.decisions.decide import Decision
from mottle.aggregation.decisions.statistics import Statistics
from mottle.aggregation.errors import ConditionError, InputError

if TYPE_CHECKING:
    from mottle.aggregation.rule import Explanation, FaultBudgetWarning, Rule, build

_ON_TENSORS = ("Explanation", "FaultBudgetWarning", "Rule", "build")

__all__ = [
    "Breakdown",
    "ConditionError",
    "Decision",
    "Entry",
    "Explanation",
    "FaultBudgetWarning",
    "InputError",
    "Rule",
    "Statistics",
    "breakdown",
    "build",
    "catalogue",
]


def __getattr__(name: str) -> Any:
    if name in _ON_TENSORS:
        return getattr(import_module("mottle.aggregation.rule"), name)
    raise AttributeError(f"module 'mottle.aggregation' has no attribute {name!r}")

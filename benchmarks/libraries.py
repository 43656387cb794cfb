"""Robust rules of other libraries under Mottle's names, where they are installed: byzfl (on torch and on numpy) and Flower.

Neither is a dependency, and their own dependencies differ from Mottle's, so they are put into a folder of their own, without them:

    pip install --target others --no-deps byzfl==0.0.11 flwr==1.42.0 \
        httpx httpcore h11 anyio iterators pycryptodome tomli-w grpcio-health-checking
    PYTHONPATH=others python benchmarks/correctness.py

Letters: N rows, D coordinates.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

Counts = Sequence[int] | None
Aggregate = Callable[[Tensor, Counts], Tensor]
"""(rows (N, D), sample counts) -> (D,)."""

WANTED = ("byzfl", "flwr")

CLIPPING_RADIUS = 30.0
"""For all libraries alike: somewhat more than the length of a normal row of 500 coordinates."""


@dataclass(frozen=True)
class Library:
    """Some rules of one library."""

    name: str
    version: str
    weighs: bool
    """Whether its rules take sample counts."""
    rules: Mapping[str, Callable[[int], Aggregate]]
    """By Mottle's name: what makes the rule for a number of faulty rows."""


def missing() -> list[str]:
    """Distributions that are not installed."""
    absent = []
    for name in WANTED:
        try:
            version(name)
        except PackageNotFoundError:
            absent.append(name)
    return absent


def installed() -> list[Library]:
    """The libraries that are there."""
    absent = missing()
    return [*([] if "byzfl" in absent else _byzfl()), *([] if "flwr" in absent else [_flower()])]


# --- byzfl ----------------------------------------------------------------------------------------------------------------------------


def _byzfl() -> list[Library]:
    """Its aggregators alone: its front door also imports a benchmark that needs torchvision."""
    if "byzfl" not in sys.modules:
        spec = find_spec("byzfl")
        assert spec is not None
        assert spec.submodule_search_locations is not None
        package = ModuleType("byzfl")
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules["byzfl"] = package
    rules = import_module("byzfl.aggregators.aggregators")
    mixing = import_module("byzfl.aggregators.preaggregators")
    makers: dict[str, Callable[[int], Callable[[Any], Any]]] = {
        "mean": lambda f: rules.Average(),
        "median": lambda f: rules.Median(),
        "trimmed_mean": lambda f: rules.TrMean(f=f),
        "mea_med": lambda f: rules.Meamed(f=f),
        "krum": lambda f: rules.Krum(f=f),
        "multi_krum": lambda f: rules.MultiKrum(f=f),
        "geometric_median": lambda f: rules.GeometricMedian(),
        "centered_clipping": lambda f: rules.CenteredClipping(tau=CLIPPING_RADIUS),
        "nnm+median": lambda f: lambda rows: rules.Median()(mixing.NNM(f=f)(rows)),
    }
    number = version("byzfl")
    on_torch = {name: partial(_on_torch, make) for name, make in makers.items()}
    on_numpy = {name: partial(_on_numpy, make) for name, make in makers.items()}
    return [Library("byzfl, torch", number, False, on_torch), Library("byzfl, numpy", number, False, on_numpy)]


def _on_torch(make: Callable[[int], Callable[[Any], Any]], f: int) -> Aggregate:
    rule = make(f)
    return lambda rows_ND, counts: rule(rows_ND)


def _on_numpy(make: Callable[[int], Callable[[Any], Any]], f: int) -> Aggregate:
    rule = make(f)
    return lambda rows_ND, counts: torch.as_tensor(rule(rows_ND.numpy()))


# --- Flower ---------------------------------------------------------------------------------------------------------------------------


def _flower() -> Library:
    module = import_module("flwr.server.strategy.aggregate")

    def of_results(function: Callable[..., Any], *arguments: Any, **named: Any) -> Aggregate:
        def aggregate(rows_ND: Tensor, counts: Counts) -> Tensor:
            results = [([row_D], count) for row_D, count in zip(rows_ND.numpy(), counts or [1] * len(rows_ND), strict=True)]
            return torch.as_tensor(function(results, *arguments, **named)[0])

        return aggregate

    def trimmed(f: int) -> Aggregate:
        def aggregate(rows_ND: Tensor, counts: Counts) -> Tensor:
            # It takes a share and cuts int(share * n) rows; a quarter of a row more keeps rounding from cutting one less.
            return of_results(module.aggregate_trimmed_avg, (f + 0.25) / len(rows_ND))(rows_ND, counts)

        return aggregate

    def multi_krum(f: int) -> Aggregate:
        return lambda rows_ND, counts: of_results(module.aggregate_krum, f, len(rows_ND) - f - 2)(rows_ND, counts)

    rules: dict[str, Callable[[int], Aggregate]] = {
        "mean": lambda f: of_results(module.aggregate),
        "median": lambda f: of_results(module.aggregate_median),
        "trimmed_mean": trimmed,
        "krum": lambda f: of_results(module.aggregate_krum, f, 0),
        "multi_krum": multi_krum,
        "bulyan": lambda f: of_results(module.aggregate_bulyan, f, module.aggregate_krum, to_keep=0),
    }
    return Library("Flower", version("flwr"), True, rules)

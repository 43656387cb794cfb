"""What a search found, told and drawn."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import matching
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from ranking import Correlation, correlate
from rich.console import Console
from rich.table import Table
from space import OPERATORS, Architecture, label
from supernet import Measured, num_params
from torch import Tensor

from mottle.observe.palette import BLUE, GRID, INK, PAPER, SOFT

Truth = Mapping[Architecture, Sequence[Measured]]
"""Architectures that were trained alone, and how they did, once for each seed."""

PANELS = 2, 2
"""A ranking each."""
SEEDS = "trained alone, one seed against another"
SIZES = "number of parameters"


@dataclass(kw_only=True)
class Found:
    """What came of a search."""

    scores: dict[str, dict[Architecture, float]] = field(default_factory=dict)
    """By way of training, every architecture's score with inherited weights; see `ranking`."""
    agreements: list[Tensor] = field(default_factory=list)
    """Of each layer's operators, (O, O)."""
    cuts: list[matching.Cut] = field(default_factory=list)
    """Of each layer."""
    chosen: dict[str, Architecture] = field(default_factory=dict)
    """By way of searching."""


def correlations(scores: Mapping[str, Mapping[Architecture, float]], truth: Truth) -> dict[str, Correlation]:
    """Of each way of training with training alone; beside it what the parameters' number alone tells, and training alone with itself."""
    true = {path: mean(each.loss for each in measured) for path, measured in truth.items()}
    rows = {name: correlate(each, true) for name, each in scores.items()}
    rows[SIZES] = correlate({path: -float(num_params(path)) for path in truth}, true)
    if all(len(measured) > 1 for measured in truth.values()):
        one, other = ({path: measured[place].loss for path, measured in truth.items()} for place in (0, 1))
        rows[SEEDS] = correlate(one, other)
    return rows


def tell(found: Found, truth: Truth, best: Truth) -> None:
    """Print the cuts, the rankings' agreement, and how the chosen architectures do alone."""
    console = Console(highlight=False)
    for layer, (groups, weight) in enumerate(found.cuts):
        names = " | ".join(", ".join(OPERATORS[each].name for each in group) for group in groups)
        console.print(f"layer {layer}: agreement across {weight:.3f} at the best cut, {names}")
    table = Table("ranking by", "Kendall's tau", "Spearman's rho", title=f"agreement with {len(truth)} architectures trained alone")
    for name, (kendall, spearman) in correlations(found.scores, truth).items():
        table.add_row(name, f"{kendall:+.3f}", f"{spearman:+.3f}")
    console.print(table)
    table = Table("chosen by", "operators", "parameters", "test loss", "test accuracy", title="the best of each, trained alone")
    for name, path in found.chosen.items():
        table.add_row(name, label(path), str(num_params(path)), *_means(best[path]))
    everybody = [each for measured in truth.values() for each in measured]
    table.add_row("mean of the sample", "", "", *_means(everybody))
    console.print(table)


def _means(measured: Sequence[Measured]) -> tuple[str, str]:
    return f"{mean(each.loss for each in measured):.4f}", f"{mean(each.accuracy for each in measured):.2%}"


def save(found: Found, truth: Truth, out: Path) -> Path:
    """All architectures as JSON, with their scores by way of training and, for those that were trained alone, each seed's test loss."""
    rows = [
        {
            "operators": label(path),
            "parameters": num_params(path),
            "inherited": {name: scores[path] for name, scores in found.scores.items()},
            "alone": [each.loss for each in truth.get(path, [])],
        }
        for path in next(iter(found.scores.values()))
    ]
    out.write_text(json.dumps(rows, indent=1))
    return out


def draw(found: Found, truth: Truth, out: Path) -> Path:
    """A scatter for each way of training: scores with inherited weights against those of training alone."""
    figure = Figure(figsize=(9.0, 7.0), layout="constrained", facecolor=PAPER)
    true = {path: mean(each.loss for each in measured) for path, measured in truth.items()}
    rows = correlations(found.scores, truth)
    for axes, (name, scores) in zip(figure.subplots(*PANELS, sharex=True).flat, found.scores.items(), strict=True):
        axes.plot([true[path] for path in true], [scores[path] for path in true], "o", color=BLUE, ms=4, alpha=0.8)
        axes.set_title(f"{name}: {rows[name]}", loc="left", fontsize=10, color=INK)
        _dress(axes)
    figure.supxlabel("test loss, trained alone", color=SOFT, fontsize=9)
    figure.supylabel("validation loss with inherited weights", color=SOFT, fontsize=9)
    figure.savefig(out, dpi=150)
    return out


def _dress(axes: Any) -> None:
    for scale, axis in ((axes.set_xscale, axes.xaxis), (axes.set_yscale, axes.yaxis)):
        scale("log")
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    axes.grid(color=GRID, which="both", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=SOFT, labelsize=8, length=0, which="both")
    axes.spines[["top", "right", "left"]].set_visible(False)

"""What a robustness study writes: one line a cell, a matrix a task, its heat map, and the command that repeats a cell.

Letters: R rules, A attacks.
"""

import csv
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mottle.core.errors import ConfigError
from mottle.study.robustness_cell import Cell, Outcome, Spec

CELL_COLUMNS = (
    "task", "rule", "attack", "workers", "faulty", "rounds", "seed", "accuracy", "parameters", "skipped_rounds", "diverged", "note",
    "repeat",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Matrix:
    """Final accuracy of one task, mean over the seeds."""

    task: str
    rules: tuple[str, ...]
    attacks: tuple[str, ...]
    accuracy: npt.NDArray[np.float64]
    """(R, A)."""
    spread: npt.NDArray[np.float64]
    """Largest minus smallest over the seeds, (R, A)."""
    setting: str
    """What the cells share: workers, faulty ones, rounds, seeds."""

    @property
    def title(self) -> str:
        return f"{self.task}: final test accuracy in percent, mean over seeds ({self.setting})"


def check_plots() -> None:
    """Raise ConfigError where a plotting library is missing, before hours of training rather than after."""
    missing = [library for library in ("matplotlib", "plotly") if find_spec(library) is None]
    if missing:
        raise ConfigError(f"a study draws with {' and '.join(missing)}, which is not installed; run: pip install 'mottle[plots]'")


def label(spec: Spec) -> str:
    """Short name of a rule or attack for a table: `ipm epsilon=0.5`."""
    ((name, options),) = spec.items()
    return " ".join([name, *(f"{key}={json.dumps(value).replace(' ', '')}" for key, value in options.items())])


def repeat_command(cell: Cell) -> str:
    """The command that trains this cell alone again."""
    share = cell.num_faulty / cell.num_workers
    return shlex.join(
        [
            *("mottle", "study", "robustness", "--tasks", cell.task),
            *("--rules", json.dumps(cell.rule), "--attacks", json.dumps(cell.attack)),
            *("--byzantine", repr(share), "--workers", str(cell.num_workers), "--rounds", str(cell.rounds)),
            *("--seed-list", str(cell.seed), "--out", "robustness-cell"),
        ]
    )


def matrix_of(task: str, outcomes: Sequence[Outcome]) -> Matrix:
    """Mean accuracies of a task's outcomes, rules and attacks in the order in which they first appear."""
    of_task = [outcome for outcome in outcomes if outcome.cell.task == task]
    rules = tuple(dict.fromkeys(label(outcome.cell.rule) for outcome in of_task))
    attacks = tuple(dict.fromkeys(label(outcome.cell.attack) for outcome in of_task))
    found: dict[tuple[str, str], list[float]] = {}
    for outcome in of_task:
        found.setdefault((label(outcome.cell.rule), label(outcome.cell.attack)), []).append(outcome.accuracy)
    accuracy_RA = np.array([[np.mean(found[rule, attack]) for attack in attacks] for rule in rules])
    spread_RA = np.array([[np.ptp(found[rule, attack]) for attack in attacks] for rule in rules])
    return Matrix(task=task, rules=rules, attacks=attacks, accuracy=accuracy_RA, spread=spread_RA, setting=_setting(of_task))


def _setting(outcomes: Sequence[Outcome]) -> str:
    cells = [outcome.cell for outcome in outcomes]
    parts = {
        "workers": sorted({cell.num_workers for cell in cells}),
        "faulty": sorted({cell.num_faulty for cell in cells}),
        "rounds": sorted({cell.rounds for cell in cells}),
        "seeds": [len({cell.seed for cell in cells})],
    }
    return ", ".join(f"{'/'.join(map(str, values))} {what}" for what, values in parts.items())


def write_report(outcomes: Sequence[Outcome], out_dir: Path) -> tuple[tuple[Matrix, ...], tuple[Path, ...]]:
    """Write all files of a study.

    Returns:
        The matrices, one a task, and the paths written.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    matrices = tuple(matrix_of(task, outcomes) for task in dict.fromkeys(outcome.cell.task for outcome in outcomes))
    files = [write_cells(outcomes, out_dir / "cells.csv")]
    for matrix in matrices:
        files.append(write_matrix(matrix, out_dir / f"matrix-{matrix.task}.csv"))
        files.append(draw_png(matrix, out_dir / f"heatmap-{matrix.task}.png"))
        files.append(draw_html(matrix, outcomes, out_dir / f"heatmap-{matrix.task}.html"))
    return matrices, tuple(files)


def write_cells(outcomes: Sequence[Outcome], path: Path) -> Path:
    """One line a training, with the command that repeats it."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(CELL_COLUMNS)
        for outcome in outcomes:
            cell = outcome.cell
            configured = [cell.task, label(cell.rule), label(cell.attack), cell.num_workers, cell.num_faulty, cell.rounds, cell.seed]
            measured = [f"{outcome.accuracy:.6f}", outcome.parameters, outcome.skipped_rounds, outcome.diverged, outcome.note]
            writer.writerow([*configured, *measured, repeat_command(cell)])
    return path


def write_matrix(matrix: Matrix, path: Path) -> Path:
    """The matrix of mean accuracies, a rule a line."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["rule", *matrix.attacks])
        for rule, row in zip(matrix.rules, matrix.accuracy, strict=True):
            writer.writerow([rule, *(f"{value:.4f}" for value in row)])
    return path


def draw_png(matrix: Matrix, path: Path) -> Path:
    """The matrix as a picture, in percent."""
    from matplotlib.figure import Figure  # an optional dependency

    num_rules, num_attacks = matrix.accuracy.shape
    figure = Figure(figsize=(3.5 + 0.85 * num_attacks, 2.2 + 0.42 * num_rules), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(matrix.accuracy * 100, vmin=0, vmax=100, cmap="viridis", aspect="auto")
    axes.set_xticks(range(num_attacks), matrix.attacks, rotation=40, ha="right")
    axes.set_yticks(range(num_rules), matrix.rules)
    for (rule, attack), value in np.ndenumerate(matrix.accuracy):
        axes.text(attack, rule, f"{100 * value:.0f}", ha="center", va="center", color="black" if value > 0.6 else "white")
    axes.set_title(matrix.title)
    figure.colorbar(image, ax=axes)
    figure.savefig(path, dpi=120)
    return path


def draw_html(matrix: Matrix, outcomes: Sequence[Outcome], path: Path) -> Path:
    """The matrix as a page that needs no network; hovering shows the spread over the seeds and the command that repeats the cell."""
    import plotly.graph_objects as go  # an optional dependency

    commands = {
        (label(outcome.cell.rule), label(outcome.cell.attack)): repeat_command(outcome.cell)
        for outcome in reversed(outcomes)
        if outcome.cell.task == matrix.task
    }
    hover = [
        [f"spread {100 * spread:.1f}<br>{_wrapped(commands[rule, attack])}" for attack, spread in zip(matrix.attacks, row, strict=True)]
        for rule, row in zip(matrix.rules, matrix.spread, strict=True)
    ]
    heat = go.Heatmap(
        z=(matrix.accuracy * 100).tolist(),
        x=list(matrix.attacks),
        y=list(matrix.rules),
        zmin=0,
        zmax=100,
        colorscale="Viridis",
        texttemplate="%{z:.0f}",
        customdata=hover,
        hovertemplate="%{y}<br>%{x}<br>accuracy %{z:.1f}<br>%{customdata}<extra></extra>",
    )
    figure = go.Figure(heat)
    figure.update_layout(title=matrix.title)
    figure.update_yaxes(autorange="reversed")
    figure.write_html(path, include_plotlyjs=True)
    return path


def _wrapped(command: str) -> str:
    """The command on several lines of a hover box, one an option."""
    return command.replace("&", "&amp;").replace("<", "&lt;").replace(" --", "<br>  --")

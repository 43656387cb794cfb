"""`mottle study robustness`: which rule survives which attack."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mottle.cli.answers import Answer, BadInputError, Json, say

if TYPE_CHECKING:
    from collections.abc import Callable

    from mottle.study import Matrix, Outcome, Study

_SPECS = "Names with commas between, options as in YAML: 'median,{phocas: {trim: 2}}'"


def robustness(
    rules: Annotated[str | None, typer.Option(metavar="RULES", help=f"{_SPECS}; all rules without it.")] = None,
    attacks: Annotated[str | None, typer.Option(metavar="ATTACKS", help="As rules; one of each family without it.")] = None,
    byzantine: Annotated[float, typer.Option(metavar="SHARE", help="Faulty workers as a share of all, below 1.")] = 0.2,
    workers: Annotated[int, typer.Option(metavar="N", min=1, help="Workers, honest and faulty.")] = 20,
    rounds: Annotated[int, typer.Option(metavar="N", min=1, help="Synchronous steps of each training.")] = 50,
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="Trainings of each cell, with the seeds 0, 1 and so on.")] = 3,
    seed_list: Annotated[str | None, typer.Option(metavar="SEEDS", help="Which seeds instead, with commas between: 0,7.")] = None,
    tasks: Annotated[str | None, typer.Option(metavar="TASKS", help="digits, convex or both, which it is without this.")] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where tables and pictures go.")] = Path("robustness"),
    processes: Annotated[int | None, typer.Option(metavar="N", min=1, help="Trainings side by side; one a core without it.")] = None,
    as_json: Json = False,
) -> Answer:
    """Train every rule under every attack, without Ray, and draw the matrix of final accuracies.

    A budget that a rule leaves open (num_byzantine, trim) is declared as the true number of faulty workers. Every training is repeatable
    bit for bit; cells.csv has the command for each.

    Examples:

        mottle study robustness --out robustness

        mottle study robustness --rules median,zeno --attacks '{ipm: {epsilon: 0.5}}' --byzantine 0.4 --seeds 5 --json
    """
    from mottle.study import run_robustness, specs_from_text
    from mottle.study.robustness_tasks import TASKS

    with _progress() as on_done:
        study = run_robustness(
            None if rules is None else specs_from_text(rules),
            None if attacks is None else specs_from_text(attacks),
            byzantine_share=byzantine,
            workers=workers,
            rounds=rounds,
            seeds=seeds if seed_list is None else _numbers(seed_list),
            out_dir=out,
            processes=processes,
            tasks=tuple(TASKS) if tasks is None else [task.strip() for task in tasks.split(",")],
            on_done=on_done,
        )
    for warning in study.warnings:
        say(f"warning: {warning}")
    return Answer(_data(study), _text(study))


def _numbers(text: str) -> list[int]:
    try:
        seeds = [int(each) for each in text.split(",")]
    except ValueError:
        raise BadInputError(f"--seed-list takes whole numbers with commas between them, got {text!r}") from None
    if min(seeds) < 0:
        raise BadInputError(f"seeds are 0 or more, got {text!r}")
    return seeds


@contextmanager
def _progress() -> "Iterator[Callable[[int, int], None]]":
    """A bar on standard error; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("trainings"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


def _data(study: "Study") -> dict[str, Any]:
    return {
        "matrices": [
            {
                "task": matrix.task,
                "setting": matrix.setting,
                "rules": list(matrix.rules),
                "attacks": list(matrix.attacks),
                "accuracy": matrix.accuracy.tolist(),
                "spread": matrix.spread.tolist(),
            }
            for matrix in study.matrices
        ],
        "cells": [_cell(outcome) for outcome in study.outcomes],
        "warnings": list(study.warnings),
        "files": [str(path) for path in study.files],
    }


def _cell(outcome: "Outcome") -> dict[str, Any]:
    from mottle.study import repeat_command

    cell = outcome.cell
    return {
        "task": cell.task,
        "rule": cell.rule,
        "attack": cell.attack,
        "seed": cell.seed,
        "accuracy": outcome.accuracy,
        "parameters": outcome.parameters,
        "skipped_rounds": outcome.skipped_rounds,
        "diverged": outcome.diverged,
        "note": outcome.note,
        "repeat": repeat_command(cell),
    }


def _text(study: "Study") -> str:
    """The matrices, and how to see one training again: the one that ended worst."""
    from mottle.study import repeat_command
    from mottle.study.robustness_report import label

    worst = min(study.outcomes, key=lambda outcome: outcome.accuracy)
    cell = worst.cell
    return "\n".join(
        [
            *(_table(matrix) for matrix in study.matrices),
            f"the least accurate training ended at {100 * worst.accuracy:.2f} percent, parameters {worst.parameters}: {label(cell.rule)}, "
            f"{label(cell.attack)}, {cell.task}, seed {cell.seed}",
            "the same again, bit for bit:",
            f"  {repeat_command(cell)}",
            *(f"wrote {path}" for path in study.files),
        ]
    )


def _table(matrix: "Matrix") -> str:
    """Attacks are numbered over the columns, for their names are longer than a column is wide."""
    width = max(map(len, matrix.rules))
    numbers = range(1, len(matrix.attacks) + 1)
    lines = [matrix.title, *(f"  {number:>2} {attack}" for number, attack in zip(numbers, matrix.attacks, strict=True))]
    lines.append(" " * width + "".join(f"{number:>5}" for number in numbers))
    lines += [
        f"{rule:<{width}}" + "".join(f"{100 * value:5.0f}" for value in row)
        for rule, row in zip(matrix.rules, matrix.accuracy, strict=True)
    ]
    return "\n".join([*lines, ""])

"""Which rule survives which attack: a grid of small trainings with real gradients, on all cores, without Ray.

Every cell of the grid is one training (`mottle.study.robustness_cell`); the same seed gives the same data, the same faulty workers and the
same start in all of them, so cells differ by rule and attack alone. Budgets that a rule leaves to its user are declared as the true number
of faulty workers.
"""

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from mottle import aggregation, attacks
from mottle.core.errors import ConfigError
from mottle.core.naming import folded, parse, suggestion
from mottle.study.robustness_cell import Cell, Outcome, Spec, run_cell
from mottle.study.robustness_report import Matrix, check_plots, write_report
from mottle.study.robustness_tasks import TASKS

DEFAULT_ATTACKS: tuple[Spec, ...] = (
    {"honest": {}},
    {"gaussian": {"sigma": 200.0}},
    {"sign_flip": {"scale": 1.0}},
    {"sign_flip": {"scale": 10.0}},
    {"bit_flip": {}},
    {"label_flip": {"num_classes": 10}},
    {"alie": {"z": 1.5}},
    {"ipm": {"epsilon": 0.5}},
    {"ipm": {"epsilon": 10.0}},
    {"min_max": {}},
    {"mimic": {}},
    {"non_finite": {}},
)
"""Each family of attack at the strength in which it is known; attacks on messages, labels of rounds and identities are left to tests."""

DEFAULT_RULES: tuple[Spec, ...] = (
    {"mean": {}},
    {"krum": {}},
    {"multi_krum": {}},
    {"bulyan": {}},
    {"median": {}},
    {"trimmed_mean": {}},
    {"phocas": {}},
    {"mea_med": {}},
    {"geometric_median": {}},
    {"rfa": {}},
    # Gradients of the tasks are about 1 long, so the default radius of 10 would clip nothing.
    {"centered_clipping": {"radius": 1.0, "iterations": 3}},
    {"zeno": {"rho": 0.002}},
    {"fltrust": {}},
    {"nnm": {"inner": "trimmed_mean"}},
)


@dataclass(frozen=True, kw_only=True)
class Study:
    """A finished study."""

    outcomes: tuple[Outcome, ...]
    matrices: tuple[Matrix, ...]
    """One a task: mean final accuracy, rules by attacks."""
    files: tuple[Path, ...]
    """What was written."""
    warnings: tuple[str, ...]
    """Rules that cannot survive the faulty workers they are tried on."""


def run_robustness(
    rules: Sequence[Any] | None = None,
    attacks: Sequence[Any] | None = None,
    byzantine_share: float = 0.2,
    workers: int = 20,
    rounds: int = 50,
    seeds: int | Sequence[int] = 3,
    out_dir: str | Path = "robustness",
    processes: int | None = None,
    *,
    tasks: Sequence[str] = tuple(TASKS),
    on_done: Callable[[int, int], None] | None = None,
) -> Study:
    """Train every rule under every attack, and write the matrix of final accuracies.

    Args:
        rules: names or specs, `"phocas"` or `{"phocas": {"trim": 2}}`; all of the library by default. A budget (`num_byzantine`, `trim`)
            that is left out is declared as the true number of faulty workers.
        attacks: names or specs; the default has one of every family.
        byzantine_share: faulty workers, as a share of all; rounded to the nearest count.
        workers: workers of a round, honest and faulty.
        rounds: synchronous steps of every training.
        seeds: how many, counted from 0, or which.
        out_dir: where `cells.csv`, `matrix-<task>.csv`, `heatmap-<task>.png` and `.html` go; made if it is not there.
        processes: trainings side by side; all cores by default, 1 trains in this process.
        tasks: names in `mottle.study.robustness_tasks.TASKS`.
        on_done: called with (cells done, cells in all) after each.
    Returns:
        The outcomes in grid order, whatever the number of processes.
    Raises:
        ConfigError: an unknown name, a value out of range, or a plotting library that is missing (the message names the extra).
    """
    check_plots()
    cells = grid(rules, attacks, byzantine_share=byzantine_share, workers=workers, rounds=rounds, seeds=seeds, tasks=tasks)
    outcomes = tuple(run_cells(cells, processes=processes, on_done=on_done))
    matrices, files = write_report(outcomes, Path(out_dir))
    return Study(outcomes=outcomes, matrices=matrices, files=files, warnings=survival_warnings(cells))


def grid(
    rules: Sequence[Any] | None,
    attacks: Sequence[Any] | None,
    *,
    byzantine_share: float,
    workers: int,
    rounds: int,
    seeds: int | Sequence[int],
    tasks: Sequence[str],
) -> list[Cell]:
    """The cells of a study; every name and value is checked before the first training starts."""
    if not 0 <= byzantine_share < 1:
        raise ConfigError(f"byzantine_share must lie in [0, 1), got {byzantine_share}")
    num_faulty = round(byzantine_share * workers)
    rule_specs = [complete_rule(rule, num_faulty) for rule in (DEFAULT_RULES if rules is None else rules)]
    attack_specs = [complete_attack(attack) for attack in (DEFAULT_ATTACKS if attacks is None else attacks)]
    for task in tasks:
        if task not in TASKS:
            raise ConfigError(f"unknown task {task!r}; {suggestion(task, TASKS)}")
    seed_list = range(seeds) if isinstance(seeds, int) else seeds
    for what, given in {"rule": rule_specs, "attack": attack_specs, "task": tasks, "seed": seed_list}.items():
        if not given:
            raise ConfigError(f"a study needs at least one {what}, got none")
    return [
        Cell(task=task, rule=rule, attack=attack, num_workers=workers, num_faulty=num_faulty, rounds=rounds, seed=seed)
        for task in tasks
        for rule in rule_specs
        for attack in attack_specs
        for seed in seed_list
    ]


def survival_warnings(cells: Sequence[Cell]) -> tuple[str, ...]:
    """What to tell of rules that cannot survive the faulty workers of their cells, each once; the ungated mean is there to fail.

    It looks at numbers of workers, not at the attack: one that forges identities makes more faulty rows than there are faulty workers.
    """
    told: dict[str, None] = {}
    for cell in cells:
        if next(iter(cell.rule)) == "mean":
            continue
        warning = aggregation.breakdown(cell.rule, cell.num_workers).warning(cell.num_faulty)
        if warning is not None:
            told[warning] = None
    return tuple(told)


def complete_rule(rule: Any, num_faulty: int) -> Spec:
    """The rule's spec with the budgets that it leaves out."""
    name, options = parse(rule, "rule")
    parameters = [each.name for entry in aggregation.catalogue() if folded(entry.name) == folded(name) for each in entry.parameters]
    budgets = [budget for budget in ("num_byzantine", "trim") if budget in parameters and budget not in options]
    spec: Spec = {name: {**options, **dict.fromkeys(budgets, num_faulty)}}
    aggregation.build(spec)
    return spec


def complete_attack(attack: Any) -> Spec:
    """The attack's spec with every parameter that matters, so that a table says what was run."""
    name, options = parse(attack, "attack")
    attacks.build({name: options})
    return {name: options}


def run_cells(
    cells: Sequence[Cell], *, processes: int | None = None, on_done: Callable[[int, int], None] | None = None
) -> Iterator[Outcome]:
    """Outcomes of the cells, in their order."""
    processes = min(processes or len(os.sched_getaffinity(0)), len(cells))
    if processes == 1:
        with _one_thread():
            yield from _counted(map(run_cell, cells), len(cells), on_done)
        return
    # Spawned, not forked: a forked child would inherit locks of torch's threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        with _deaf_to_interrupts():
            outcomes = pool.map(run_cell, cells)
        yield from _counted(outcomes, len(cells), on_done)


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes that start in here ignore Ctrl-C for good, from before their first import: a terminal sends it to all of them, and it is
    the parent's to answer. The parent hears again afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may change what a signal does, and only it is interrupted
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _counted(outcomes: Any, total: int, on_done: Callable[[int, int], None] | None) -> Iterator[Outcome]:
    for done, outcome in enumerate(outcomes, start=1):
        if on_done is not None:
            on_done(done, total)
        yield outcome


@contextmanager
def _one_thread() -> Iterator[None]:
    """One torch thread, as in the processes of a pool, so that both give the same bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def specs_from_text(text: str) -> list[Mapping[str, Any] | str]:
    """Rules or attacks as written on a command line: `krum,phocas`, or `[krum, {ipm: {epsilon: 0.5}}]` in JSON or YAML."""
    try:
        read = json.loads(f"[{text}]")  # first: YAML takes JSON's 1e-05 for a word
    except ValueError:
        try:
            read = yaml.safe_load(f"[{text}]")
        except yaml.YAMLError as error:
            raise ConfigError(f"rules and attacks are names with commas between them, or YAML; {text!r} is neither: {error}") from None
    return read[0] if len(read) == 1 and isinstance(read[0], list) else read

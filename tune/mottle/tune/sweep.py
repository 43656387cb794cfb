"""A sweep from two files: run it, and leave its table, its page and the best job."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from ray import tune

from mottle.core.errors import ConfigError, MottleError
from mottle.sdk.jobfile import JobFile
from mottle.storage import Folder
from mottle.tune import crew
from mottle.tune.arbiter import Arbiter
from mottle.tune.fields import applied, leaves
from mottle.tune.pictures import PAGE_FILE, page_html
from mottle.tune.presearch import presearch
from mottle.tune.ranking import Row, best, score, shown, table_csv
from mottle.tune.spacefile import SpaceFile, fidelity_of
from mottle.tune.tuner import check_crew, start_ray, trainable, with_room
from mottle.tune.usage import FleetUsage
from mottle.tune.watching import Display, Watcher

TABLE_FILE = "trials.csv"
TRIALS = "trials"
"""Folder of Ray Tune's own, inside that of the sweep."""
Points = Sequence[Mapping[str, Any]]
WRITTEN = "# Written by mottle tune"


class SweepError(MottleError):
    """Ray Tune could not go on with a sweep."""


@dataclass(frozen=True)
class Sweep:
    """What a sweep came to."""

    rows: Sequence[Row]
    best: Row | None
    interrupted: bool
    """Somebody ended it before all trials were over."""
    usage: FleetUsage | None = None
    """Of the fleet that the trials shared, if they did."""


def run(space: SpaceFile, job: JobFile, folder: Path, display: Display, *, address: str | None = None, resume: bool = False) -> Sweep:
    """Run a sweep whose space was checked, on the Ray at hand.

    Args:
        folder: of the sweep, absolute.
        resume: go on with the one that it holds.
        address: of a Ray cluster; without it, the one of the environment or a Ray of its own.
    Raises:
        CrewError: the cluster is smaller than the crew of one trial.
    """
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the newer reporter prints a banner whatever `verbose` says
    first = space.check(job)
    points = None if resume else _foretold(space, job, display)
    groups = crew.groups_of(first)
    if space.shape.share is not None:
        with Arbiter(job, policy=space.shape.share).start(address=address) as fleet:
            return replace(_run(space, job, folder, display, fleet, points, resume=resume), usage=fleet.usage())
    start_ray(groups, space.shape.concurrent or 1, address)
    check_crew(groups)
    return _run(space, job, folder, display, None, points, resume=resume)


def _run(
    space: SpaceFile, job: JobFile, folder: Path, display: Display, fleet: Arbiter | None, points: Points | None, *, resume: bool
) -> Sweep:
    kind = trainable(job, fleet)
    watcher = Watcher(display.show, lambda config: {".".join(place): value for place, value in leaves(config)})
    if resume:
        tuner = tune.Tuner.restore(str(folder / TRIALS), kind)
        restored: Any = tuner._local_tuner
        restored._run_config.callbacks = [watcher]  # Ray gives a restored sweep no other way to be watched
    else:
        config = tune.RunConfig(
            name=TRIALS, storage_path=str(folder), stop=dict(space.shape.stop) or None, callbacks=[watcher], verbose=0,
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
        )  # fmt: skip
        tune_config = space.tune_config(points)
        if kind.loan is not None:
            tune_config = with_room(tune_config, kind.loan)
        tuner = tune.Tuner(kind, param_space=dict(space.space), tune_config=tune_config, run_config=config)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a trial's failure is a row of the table
    with display:
        try:
            tuner.fit()
        except tune.TuneError as error:
            raise SweepError(str(error).strip().splitlines()[-1]) from error
        display.finish(watcher.rows)
    rows = tuple(watcher.rows)
    return Sweep(rows, best(rows, space.shape.metric, space.shape.mode), any(row.state in ("running", "waiting", "paused") for row in rows))


def _foretold(space: SpaceFile, job: JobFile, display: Display) -> Points | None:
    """The points that the simulator finds worth running; None where it is not asked."""
    how, shape = fidelity_of(space.shape), space.shape
    if how is None:
        return None
    shared = shape.share is not None
    chosen = presearch(job, space.space, shape.trials, metric=shape.metric, mode=shape.mode, how=how, seed=shape.seed, shared=shared)
    best = chosen[0]
    came = f"{shape.metric} {how.target:g} after {best.seconds:.1f} s" if best.reached else f"{shape.metric} {shown(best.score)}"
    display.note(f"simulated {how.candidates} points, {len(chosen)} are run; the best is foretold to have {came}")
    return [each.values for each in chosen]


def write(sweep: Sweep, space: SpaceFile, job: JobFile, folder: Path, best_file: Path) -> None:
    """Leave the table, the page and the best job's file.

    Raises:
        MissingDependencyError: the page needs the extra `plots`; table and job are written by then.
    """
    where, metric = Folder.at(folder), space.shape.metric
    where.write_text(TABLE_FILE, table_csv(sweep.rows))
    if sweep.best is not None:
        Folder.at(best_file.parent).write_text(best_file.name, job_text(job, sweep.best, metric))
    title = f"{space.file.name} on {job.file.name}"
    where.write_text(PAGE_FILE, page_html(title, sweep.rows, metric, space.shape.mode))


def job_text(job: JobFile, row: Row, metric: str) -> str:
    """A trial's job as a file that lies beside the job's own, ready for `mottle train`."""
    told = f"{WRITTEN}: {row.trial} of a sweep over {job.file.name}, {metric} {shown(score(row, metric))} after {row.samples} samples."
    data = applied(job.data, row.values)
    return f"{told}\n{yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)}"


def check_best_file(file: Path, job: JobFile) -> None:
    """Refuse a place where the best job could not be trained from, or where something else would be lost.

    Raises:
        ConfigError: another folder than the job's, the job itself, or a file that no sweep wrote.
    """
    if file.parent.resolve() != job.file.parent.resolve():
        raise ConfigError(f"the best job names modules and paths as {job.file.name} does, so it is written beside it, in {job.file.parent}")
    if file.resolve() == job.file.resolve():
        raise ConfigError(f"the best job would take the place of {job.file.name}; give another name")
    if file.exists() and not file.read_text(encoding="utf-8").startswith(WRITTEN):
        raise ConfigError(f"{file} is there already and no sweep wrote it; give another name")


def as_data(row: Row | None) -> Mapping[str, Any] | None:
    """A trial for programs."""
    return None if row is None else {"trial": row.trial, "state": row.state, "values": dict(row.values), "metrics": dict(row.metrics)}

"""`mottle tune`: search fields of a job file, and leave the best job ready for `mottle train`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mottle.cli.answers import Answer, BadInputError, Code, Json, say
from mottle.cli.running import absolute, before_ray
from mottle.cli.train import Address

if TYPE_CHECKING:
    from mottle.tune.sweep import Sweep

RECORD_FILE = "sweep.json"
"""Says that a folder holds a sweep, and of which files."""


def tune(
    space: Annotated[Path, typer.Argument(metavar="SPACE.yaml", help="What to search, and how: see docs/tune.md.")],
    job: Annotated[Path, typer.Option("--job", metavar="JOB.yaml", help="Job file whose fields are searched.")],
    out: Annotated[str | None, typer.Option(metavar="DIR", help="The sweep's folder; sweeps/NAME of the space file without it.")] = None,
    best: Annotated[Path | None, typer.Option(metavar="FILE", help="Best job's file, beside the job; JOB.best.yaml without it.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Delete an earlier sweep in that folder.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the sweep in that folder.")] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set a value over what the space file says; can be given again.")
    ] = None,
    address: Address = None,
    as_json: Json = False,
) -> Answer:
    """Try a job with some of its fields changed, many times over, and keep what was best.

    Every choice of the space is tried on paper first. The folder gets trials.csv, sweep.html and Ray Tune's own files.

    Examples:

        mottle tune examples/digits/space.yaml --job examples/digits/async.yaml --out sweeps/digits

        mottle tune space.yaml --job job.yaml --set trials=32 --set concurrent=4 --address auto

        mottle train job.best.yaml
    """
    before_ray()
    from rich.console import Console

    from mottle.sdk import jobfile
    from mottle.tune import spacefile, sweep
    from mottle.tune.given import job_of
    from mottle.tune.watching import Display

    read = spacefile.read(space, tuple(settings or ()))
    base = job_of(jobfile.read(job))
    read.check(base).trainer(folder="unused")  # model, loss and data are tried once here rather than in every trial
    best_file = (best or base.file.with_name(f"{base.file.stem}.best.yaml")).absolute()
    sweep.check_best_file(best_file, base)
    folder = Path(absolute(out or f"sweeps/{read.file.stem}"))
    _prepare(folder, replace=replace, resume=resume)
    (folder / RECORD_FILE).write_text(json.dumps({"space": str(read.file), "job": str(base.file)}) + "\n", encoding="utf-8")
    display = Display(Console(stderr=True, highlight=False) if as_json else Console(highlight=False), read.shape.metric, read.shape.mode)
    done = sweep.run(read, base, folder, display, address=address, resume=resume)
    trouble = _written(done, read, base, folder, best_file)
    if trouble:
        say(f"mottle: {trouble}")
    return _answer(done, read.shape.metric, folder, best_file)


def _prepare(folder: Path, *, replace: bool, resume: bool) -> None:
    """See that the folder is free, or holds the sweep that is gone on with."""
    from mottle.storage import Folder

    holds = (folder / RECORD_FILE).is_file()
    if resume and not holds:
        raise BadInputError(f"{folder} holds no sweep to go on with; leave --resume out")
    if not resume and folder.exists() and any(folder.iterdir()):
        if not holds:
            raise BadInputError(f"{folder} holds files and no sweep; name another folder with --out")
        if not replace:
            raise BadInputError(
                f"{folder} holds a sweep already; go on with --resume, delete it with --replace, or name another with --out"
            )
        Folder.at(folder).remove_all()
    folder.mkdir(parents=True, exist_ok=True)


def _written(done: "Sweep", space: Any, job: Any, folder: Path, best_file: Path) -> str:
    """Leave the sweep's files; why the page is missing, if it is."""
    from mottle.observe import MissingDependencyError
    from mottle.tune import sweep

    try:
        sweep.write(done, space, job, folder, best_file)
    except MissingDependencyError as error:
        return f"no page was written: {error}"
    return ""


def _answer(done: "Sweep", metric: str, folder: Path, best_file: Path) -> Answer:
    from mottle.tune import sweep
    from mottle.tune.pictures import PAGE_FILE
    from mottle.tune.ranking import score, shown

    page = folder / PAGE_FILE
    data = {
        "sweep": str(folder),
        "trials": [sweep.as_data(row) for row in done.rows],
        "best": sweep.as_data(done.best),
        "best_job": str(best_file) if done.best is not None else None,
        "page": str(page) if page.is_file() else None,
        "table": str(folder / sweep.TABLE_FILE),
        "fleet_busy": None if done.usage is None else done.usage.busy,
    }
    if done.best is None:
        return Answer(data, f"no trial came to a result; see {folder / sweep.TABLE_FILE}", Code.FAILED)
    text = f" best    {done.best.trial} with {metric} {shown(score(done.best, metric))}\n train   mottle train {best_file}"
    text += f"\n page    {page}" if page.is_file() else ""
    text += "" if done.usage is None else f"\n fleet   busy {done.usage.busy:.0%} of {done.usage.seconds:.0f} s"
    return Answer(data, text, Code.INTERRUPTED if done.interrupted else Code.OK)

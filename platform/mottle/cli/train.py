"""`mottle train`: run a job file."""

from pathlib import Path
from typing import Annotated

import typer

from mottle.cli.answers import Answer, BadInputError, Json
from mottle.cli.running import absolute, before_ray, conduct

Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set a value over what the job says; can be given again.")
]
Address = Annotated[str | None, typer.Option(help="Ray cluster to run on; without it, the one of RAY_ADDRESS or a Ray of its own.")]


def train(
    job: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="Job file.")],
    out: Annotated[str | None, typer.Option(metavar="DIR", help="The run's folder, or a URI; the job's own `out` without it.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Delete an earlier run in that folder.")] = False,
    settings: Settings = None,
    address: Address = None,
    detach: Annotated[bool, typer.Option("--detach", help="Leave the run to a Ray that stays; `mottle attach` finds it again.")] = False,
    as_json: Json = False,
) -> Answer:
    """Train what a job file describes, and show how it goes.

    Ctrl-C ends the run well: what is computed is kept, a checkpoint saved, everything released. A second one ends at once.

    Examples:

        mottle train examples/digits/zenopp.yaml --out runs/digits

        mottle train job.yaml --set until.epochs=2 --set fleet.slow.count=3 --replace

        mottle train job.yaml --address auto --detach
    """
    before_ray()
    from mottle.sdk import jobfile

    read = jobfile.read(job, settings or [])
    if detach and read.spec.max_failures:
        raise BadInputError("max_failures needs somebody who takes the run up again, and --detach leaves it alone; set max_failures=0")
    folder = absolute(out or read.out)
    trainer = read.trainer(folder=folder)
    make_way(folder, replace=replace)
    run = trainer.start(address=address, detached=detach)
    read.record(folder)
    if detach:
        name = run.job.name
        return Answer({"run": folder, "name": name, "state": "live"}, f"{name} runs in {folder}; see it with: mottle attach {name}")
    return conduct(run, as_json=as_json, again=trainer.comeback(address=address).again)


def make_way(folder: str, *, replace: bool) -> None:
    """See that the folder holds no run; with `replace`, delete the one that it holds, and nothing that is none.

    Logs and a heartbeat alone are of a crew that could not start, and are in nobody's way.
    """
    from mottle.actors.logs import LOGS
    from mottle.observe.heartbeat import HEARTBEAT_FILE
    from mottle.observe.record import holds_run
    from mottle.sdk.jobfile import RECORD_FILE
    from mottle.storage import Folder

    where = Folder.at(folder)
    if not where.exists() or not {*where.names(), *where.folders()} - {LOGS, HEARTBEAT_FILE}:
        return
    if not where.has(RECORD_FILE) and not holds_run(where):
        raise BadInputError(f"{folder} holds files and no run; name another folder with --out")
    if not replace:
        raise BadInputError(f"{folder} holds a run already; name another folder with --out, or delete that run with --replace")
    where.remove_all()

"""`mottle chaos`: run a job while parts of it are killed."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mottle.cli.answers import Answer, BadInputError, Code, Json
from mottle.cli.running import absolute, before_ray, conduct
from mottle.cli.train import Address, Settings, make_way

if TYPE_CHECKING:
    from mottle.sdk.chaos import Chaos

Kinds = Annotated[str, typer.Option("--kill", metavar="KINDS", help="What dies: workers, shards, coordinator, nodes; several with commas.")]


def chaos(
    job: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="Job file.")],
    kill: Kinds = "workers",
    every: Annotated[float, typer.Option(metavar="SECONDS", help="Between two kills.")] = 5.0,
    seed: Annotated[int, typer.Option(help="Of who is killed.")] = 0,
    out: Annotated[str | None, typer.Option(metavar="DIR", help="The run's folder, or a URI; the job's own `out` without it.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Delete an earlier run in that folder.")] = False,
    settings: Settings = None,
    address: Address = None,
    as_json: Json = False,
) -> Answer:
    """Train what a job file describes while its processes are killed with SIGKILL, and say whether anything was lost.

    A killed worker is replaced by another of its group, and the coordinator by itself. Shards want `replicas: 1`; the last worker and the
    last replica of a shard are spared. `nodes` kills whole hosts but the one that this command is on: try it with `mottle testbed up`.

    Examples:

        mottle chaos examples/digits/async.yaml --kill workers --every 2 --seed 7

        mottle chaos job.yaml --kill workers,shards --set replicas=1 --json
    """
    before_ray()
    from mottle.sdk import jobfile
    from mottle.sdk.chaos import Chaos

    read = jobfile.read(job, settings or [])
    kinds = [each.strip() for each in kill.split(",") if each.strip()]
    storm = Chaos(kinds, every, seed)
    if "shards" in kinds and not read.spec.replicas:
        raise BadInputError("a shard without a replica cannot be spared; kill shards with --set replicas=1")
    folder = absolute(out or read.out)
    trainer = read.trainer(folder=folder)
    make_way(folder, replace=replace)
    run = trainer.start(address=address)
    read.record(folder)
    comeback = trainer.comeback(address=address)
    storm.begin(run)
    try:
        answer = conduct(run, as_json=as_json, again=lambda: storm.follow(comeback.again()))
    finally:
        storm.stop()
    return _told(answer, storm)


def _told(answer: Answer, storm: "Chaos") -> Answer:
    """The run's answer with who was killed; a run that contradicts itself has failed."""
    from mottle.observe.result import read_result

    summary = read_result(str(answer.data["run"]))
    problems = [] if summary is None else summary.problems()
    kills = [asdict(each) for each in storm.kills]
    lines = [f" killed  {each.victim} at {each.t_s:.1f} s" for each in storm.kills] or [" killed  nobody: the run was over before"]
    lines += [f" wrong   {problem}" for problem in problems] or [" wrong   nothing: no acknowledged update lost, none applied twice"]
    text = "\n".join([answer.text, *lines])
    return Answer({**answer.data, "kills": kills, "problems": problems}, text, Code.FAILED if problems else answer.code)

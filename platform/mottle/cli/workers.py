"""`mottle workers list|add|remove`: the crew of a detached run, while it trains."""

from dataclasses import asdict
from typing import Annotated

import typer

from mottle.cli.answers import Answer, BadInputError, Json
from mottle.cli.running import detached_run
from mottle.cli.train import Address
from mottle.core.naming import suggestion

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the run: the last part of its folder.")]


def list_(name: Name, address: Address = None, as_json: Json = False) -> Answer:
    """List the workers of a run, with what they have done.

    Example:

        mottle workers list digits --json
    """
    from mottle.observe.wording import clean, count, rate

    rows = detached_run(name, address).progress.workers
    lines = [
        f"{row.id:<8} {row.device:<10} {row.state:<12} {count(row.samples):>12} samples {rate(row.samples_per_s):>8} per s  {row.why}"
        for row in rows
    ]
    return Answer({"workers": [asdict(row) for row in rows]}, "\n".join(clean(line.rstrip()) for line in lines) or "no workers yet")


def add(
    name: Name,
    number: Annotated[int, typer.Argument(metavar="N", min=1, help="How many.")] = 1,
    group: Annotated[str | None, typer.Option(metavar="NAME", help="A group that the job declares; its first one without it.")] = None,
    address: Address = None,
    as_json: Json = False,
) -> Answer:
    """Add workers to a run; training does not wait for them.

    Example:

        mottle workers add digits 2 --group honest
    """
    run = detached_run(name, address)
    known = [each.name for each in run.job.groups]
    if group is not None and group not in known:
        raise BadInputError(f"unknown worker group {group!r}; {suggestion(group, known)}")
    ids = run.add_workers(number, group)
    return Answer({"added": ids}, f"starting {', '.join(ids)}")


def remove(
    name: Name,
    worker: Annotated[str, typer.Argument(metavar="WORKER", help="Its id, such as w2.")],
    address: Address = None,
    as_json: Json = False,
) -> Answer:
    """Let a worker go: it finishes what it has in hand and gets nothing new.

    Example:

        mottle workers remove digits w2
    """
    from mottle.observe.wording import GONE

    run = detached_run(name, address)
    here = [row.id for row in run.progress.workers if row.state not in GONE]
    if worker not in here:
        raise BadInputError(f"no worker {worker!r} in the crew; {suggestion(worker, here)}")
    run.remove_worker(worker)
    return Answer({"leaving": worker}, f"{worker} leaves when it has finished what it has in hand")

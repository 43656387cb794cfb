"""`mottle attach`: watch a detached run."""

from typing import Annotated

import typer

from mottle.cli.answers import Answer, Json
from mottle.cli.running import conduct, detached_run
from mottle.cli.train import Address


def attach(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the run: the last part of its folder.")],
    address: Address = None,
    as_json: Json = False,
) -> Answer:
    """Show a detached run, and finish it when it has come to its end: write model and report, release its processes.

    Ctrl-C ends the showing and leaves the run alone.

    Examples:

        mottle attach digits

        mottle attach digits --address ray-head:6379 --json
    """
    return conduct(detached_run(name, address), as_json=as_json, leave=True)

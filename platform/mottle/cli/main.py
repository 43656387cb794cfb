"""The `mottle` command: its subcommands, one file each, and what they share."""

from importlib.metadata import version as installed_version
from typing import Annotated

import typer

from mottle.cli import clusters, fleet, testbed
from mottle.cli.answers import CODES_HELP, Answer, Json, command
from mottle.cli.attach import attach
from mottle.cli.calibrate import calibrate
from mottle.cli.capture import capture
from mottle.cli.chaos import chaos
from mottle.cli.export import export
from mottle.cli.new import new
from mottle.cli.place import place
from mottle.cli.report import report
from mottle.cli.resume import resume
from mottle.cli.simulate import simulate
from mottle.cli.status import status
from mottle.cli.study import robustness
from mottle.cli.train import train
from mottle.cli.tune import tune
from mottle.cli.workers import add, list_, remove

app = typer.Typer(
    help="Train one PyTorch model on unequal, changing, partly hostile machines.\n\n"
    "Examples:\n\n"
    "    mottle new first && mottle train first/job.yaml --out runs/first\n\n"
    "    mottle status runs/first --json\n\n"
    "    mottle --install-completion\n\n" + CODES_HELP,
    invoke_without_command=True,
    pretty_exceptions_enable=False,  # a traceback is for a bug of ours, and then the plain one is the one to send
    context_settings={"help_option_names": ["-h", "--help"]},
)

for _function in (new, train, chaos, attach, resume, status, report, export, capture, place, simulate, calibrate, tune):
    app.command()(command(_function))

_workers = typer.Typer(help="Look at the workers of a detached run, add some, let one go.", no_args_is_help=True)
_workers.command("list")(command(list_))
_workers.command()(command(add))
_workers.command()(command(remove))
app.add_typer(_workers, name="workers")

_testbed = typer.Typer(help="Several hosts on this machine, to see what happens when one of them dies or is cut off.", no_args_is_help=True)
for _fault in testbed.COMMANDS:
    _testbed.command()(command(_fault))
app.add_typer(_testbed, name="testbed")

_clusters = typer.Typer(help="Look at cluster files and clusters before a run does.", no_args_is_help=True)
_clusters.command()(command(clusters.check))
_clusters.command()(command(clusters.join))
app.add_typer(_clusters, name="clusters")

_fleet = typer.Typer(help="Describe machines for the simulator.", no_args_is_help=True)
_fleet.command()(command(fleet.record))
app.add_typer(_fleet, name="fleet")

_study = typer.Typer(help="Compare many small trainings side by side.", no_args_is_help=True)
_study.command()(command(robustness))
app.add_typer(_study, name="study")


@command
def _version(as_json: bool) -> Answer:
    found = installed_version("mottle")
    return Answer({"version": found}, f"mottle {found}")


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Say the version and leave.")] = False,
    as_json: Json = False,
) -> None:
    """What is asked before any command."""
    if version:
        _version(as_json=as_json)
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit

"""`mottle report`: the page about a run."""

from pathlib import Path
from typing import Annotated

import typer

from mottle.cli.answers import Answer, Json


def report(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="The run's folder, or a URI; the run may live, have ended or been killed.")],
    baseline: Annotated[str | None, typer.Option(metavar="DIR", help="Another run, to draw beside it.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to write; report.html in the run's folder without it.")] = None,
    as_json: Json = False,
) -> Answer:
    """Write a run's report as one HTML file that needs nothing beside itself.

    Examples:

        mottle report runs/digits

        mottle report runs/zenopp --baseline runs/async --out compare.html
    """
    from mottle.observe import write_report

    written = str(write_report(folder, baseline=baseline, out=out))
    return Answer({"report": written}, f"wrote {written}")

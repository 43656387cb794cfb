"""`mottle fleet record`: a fleet file from a live run."""

from pathlib import Path
from typing import Annotated

import typer

from mottle.cli.answers import Answer, Json


def record(
    folder: Annotated[
        str, typer.Argument(metavar="RUN_DIR", help="A run's folder, or a URI; the run may live, have ended or been killed.")
    ],
    out: Annotated[Path, typer.Option(metavar="FLEET.yaml", help="Where to write.")],
    as_json: Json = False,
) -> Answer:
    """Write the fleet of a live run as a fleet file: speeds, delays, who came and went.

    Examples:

        mottle fleet record runs/digits --out fleet.yaml && mottle simulate fleet.yaml --job job.yaml
    """
    from mottle.simulate.fleetfile import fleet_yaml
    from mottle.simulate.recorded import fleet_of_run

    fleet, note = fleet_of_run(folder)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(fleet_yaml(fleet, note=note), encoding="utf-8")
    data = {"fleet": str(out), "workers": fleet.num_workers, "groups": [group.name for group in fleet.workers], "faults": len(fleet.faults)}
    return Answer(data, f"wrote {out}: {fleet.num_workers} workers in {len(fleet.workers)} groups, {len(fleet.faults)} comings and goings")

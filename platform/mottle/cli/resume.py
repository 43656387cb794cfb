"""`mottle resume`: go on with a run that was stopped or died."""

from typing import Annotated

import typer

from mottle.cli.answers import Answer, Json
from mottle.cli.running import absolute, before_ray, conduct, model_files
from mottle.cli.train import Address, Settings


def resume(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="The run's folder, or a URI.")],
    checkpoint: Annotated[int | None, typer.Option(metavar="N", help="Number of the checkpoint; the newest whole one without it.")] = None,
    settings: Settings = None,
    address: Address = None,
    as_json: Json = False,
) -> Answer:
    """Go on with a run from a checkpoint, in its own folder; crew and shards may be others than before.

    Examples:

        mottle resume runs/digits

        mottle resume runs/digits --set fleet.workers.count=8 --set until.epochs=40
    """
    before_ray()
    from mottle.observe.report import REPORT_FILE
    from mottle.sdk import jobfile
    from mottle.storage import Folder

    where = absolute(folder)
    read = jobfile.recorded(where, settings or [])
    trainer = read.trainer(folder=where)
    run = trainer.resume(checkpoint, address=address)
    earlier = Folder.at(where)
    for name in (REPORT_FILE, *model_files(trainer.job)):  # they tell of an end that is none any more
        if earlier.has(name):
            earlier.remove(name)
    read.record(where)
    return conduct(run, as_json=as_json, again=trainer.comeback(address=address).again)

"""`mottle new`: a working job to start from."""

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from mottle.cli.answers import Answer, BadInputError, Json

STARTER = ("job.yaml", "model.py")


def new(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to make.")],
    as_json: Json = False,
) -> Answer:
    """Make a folder with a small working job: a model file and a job file.

    Examples:

        mottle new first

        mottle train first/job.yaml
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInputError(f"{folder} is there already and not an empty folder; name another one")
    folder.mkdir(parents=True, exist_ok=True)
    starter = files("mottle.cli") / "starter"
    for name in STARTER:
        (folder / name).write_text((starter / name).read_text(encoding="utf-8"), encoding="utf-8")
    made = [str(folder / name) for name in STARTER]
    return Answer({"folder": str(folder), "files": made}, f"made {' and '.join(made)}\nnow run: mottle train {folder / 'job.yaml'}")

"""`mottle export`: a run's parameters as one safetensors file."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mottle.cli.answers import Answer, BadInputError, Json
from mottle.cli.running import MODEL_FILE, one_model_file


def export(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="The run's folder, or a URI.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to write.")] = Path(MODEL_FILE),
    checkpoint: Annotated[int | None, typer.Option(metavar="N", help="Number of the checkpoint to take.")] = None,
    model: Annotated[int | None, typer.Option(metavar="K", help="Of several models in rotation the one to take, from 0 on.")] = None,
    as_json: Json = False,
) -> Answer:
    """Write a run's parameters and buffers, by name, as one safetensors file that needs no Mottle to be read.

    Taken from where the run ended; from its newest whole checkpoint if it has not; or from the checkpoint that is named. Of several models
    that were trained in rotation it is the best one of the last evaluation, or the one that is named.

    Examples:

        mottle export runs/digits --out digits.safetensors

        mottle export runs/digits --checkpoint 3 --json
    """
    from safetensors.torch import save

    tensors, origin = _tensors(folder, checkpoint, model)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(save(tensors, {"format": "pt"}))
    number = sum(tensor.numel() for tensor in tensors.values())
    data = {"file": str(out), "taken_from": origin, "tensors": len(tensors), "numbers": number}
    return Answer(data, f"wrote {out}: {len(tensors)} tensors, {number:,d} numbers, from {origin}")


def _tensors(folder: str, checkpoint: int | None, model: int | None) -> tuple[dict[str, Any], str]:
    """The tensors, and what they were taken from."""
    from mottle.checkpoint import folder_of, latest, read_manifest
    from mottle.checkpoint.parts import read_part
    from mottle.core.errors import ConfigError
    from mottle.core.rotation import chosen
    from mottle.storage import Folder

    run = Folder.at(folder)
    if checkpoint is None and (ended := [name for name in run.names() if name == MODEL_FILE or name.startswith("model-")]):
        return _of_the_end(run, ended, model)
    number = latest(run) if checkpoint is None else checkpoint
    if number is None:
        raise BadInputError(f"{run.path} holds neither {MODEL_FILE} nor a whole checkpoint; a run writes the first when it ends")
    manifest = read_manifest(run, number)
    origin = f"checkpoint {number}, at {manifest.samples:,d} samples"
    try:
        wanted = chosen(model, manifest.models, manifest.metrics)
    except ConfigError as error:
        raise BadInputError(str(error)) from None
    tensors = read_part(folder_of(run, number), manifest.model)
    if manifest.models > 1:
        tensors = {each.removeprefix(f"{wanted}."): tensor for each, tensor in tensors.items() if each.startswith(f"{wanted}.")}
    return tensors, origin if manifest.models == 1 else f"model {wanted} of {origin}"


def _of_the_end(run: Any, files: list[str], model: int | None) -> tuple[dict[str, Any], str]:
    """From the files that a run leaves when it ends."""
    from safetensors.torch import load

    name = MODEL_FILE if model is None or files == [MODEL_FILE] else one_model_file(model)
    if name not in files or (model and name == MODEL_FILE):
        raise BadInputError(f"{run.path} holds {', '.join(files)}: say with --model which one it is to be")
    with run.open(name) as stream:
        return load(stream.read()), "the end of the run" if model is None else f"model {model} at the end of the run"

"""`mottle export`: a run's parameters as one safetensors file."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mottle.cli.answers import Answer, BadInputError, Json
from mottle.cli.running import MODEL_FILE


def export(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="The run's folder, or a URI.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to write.")] = Path(MODEL_FILE),
    checkpoint: Annotated[int | None, typer.Option(metavar="N", help="Number of the checkpoint to take.")] = None,
    as_json: Json = False,
) -> Answer:
    """Write a run's parameters and buffers, by name, as one safetensors file that needs no Mottle to be read.

    Taken from where the run ended; from its newest whole checkpoint if it has not; or from the checkpoint that is named.

    Examples:

        mottle export runs/digits --out digits.safetensors

        mottle export runs/digits --checkpoint 3 --json
    """
    from safetensors.torch import save

    tensors, origin = _tensors(folder, checkpoint)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(save(tensors, {"format": "pt"}))
    number = sum(tensor.numel() for tensor in tensors.values())
    data = {"file": str(out), "taken_from": origin, "tensors": len(tensors), "numbers": number}
    return Answer(data, f"wrote {out}: {len(tensors)} tensors, {number:,d} numbers, from {origin}")


def _tensors(folder: str, checkpoint: int | None) -> tuple[dict[str, Any], str]:
    """The tensors, and what they were taken from."""
    from safetensors.torch import load

    from mottle.checkpoint import folder_of, latest, read_manifest
    from mottle.checkpoint.parts import read_part
    from mottle.storage import Folder

    run = Folder.at(folder)
    if checkpoint is None and run.has(MODEL_FILE):
        with run.open(MODEL_FILE) as stream:
            return load(stream.read()), "the end of the run"
    number = latest(run) if checkpoint is None else checkpoint
    if number is None:
        raise BadInputError(f"{run.path} holds neither {MODEL_FILE} nor a whole checkpoint; a run writes the first when it ends")
    manifest = read_manifest(run, number)
    return read_part(folder_of(run, number), manifest.model), f"checkpoint {number}, at {manifest.samples:,d} samples"

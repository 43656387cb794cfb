"""The manifest: what makes a checkpoint visible. It is written last and names every part with its digest."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mottle.checkpoint.parts import CHECKPOINTS, CheckpointError, Saved, WorkerPart, folder_of
from mottle.storage import Folder

MANIFEST_FILE = "manifest.json"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One whole checkpoint."""

    number: int
    version: tuple[int, int]
    samples: int
    layout_digest: str
    num_shards: int
    model: Saved
    optimizer: tuple[Saved, ...]
    brain: Mapping[str, Any]
    metrics: Mapping[str, float]
    """Latest metrics when it was written, for keeping the best."""
    log_seq: int
    """Events of the run's log up to here belong to it."""
    workers: tuple[WorkerPart, ...] = ()
    """By ascending slot; of those that keep something from order to order."""
    models: int = 1
    """With more, the tensors of model k are called `k.NAME`."""
    format: int = FORMAT


def write_manifest(run: Folder, manifest: Manifest) -> None:
    """Make the checkpoint visible."""
    folder_of(run, manifest.number).write_text(MANIFEST_FILE, json.dumps(asdict(manifest)))


def read_manifest(run: Folder, number: int) -> Manifest:
    """The manifest of a whole checkpoint.

    Raises:
        CheckpointError: there is none, it is not JSON, or of a newer format.
    """
    folder = folder_of(run, number)
    if not folder.has(MANIFEST_FILE):
        raise CheckpointError(f"{folder.path} holds no whole checkpoint; whole ones here: {numbers(run) or 'none'}")
    try:
        data = json.loads(folder.read_text(MANIFEST_FILE))
    except ValueError as error:
        raise CheckpointError(f"{folder.path}/{MANIFEST_FILE} is damaged: {error}") from error
    if data.get("format") != FORMAT:
        raise CheckpointError(f"{folder.path} has format {data.get('format')}, this Mottle reads {FORMAT}; use the Mottle that wrote it")
    data["version"] = tuple(data["version"])
    data["model"] = Saved(**data["model"])
    data["optimizer"] = tuple(Saved(**part) for part in data["optimizer"])
    data["workers"] = tuple(
        WorkerPart(part["slot"], part["group"], Saved(**part["saved"]))
        for part in data.get("workers", ())  # older ones have none
    )
    return Manifest(**data)


def numbers(run: Folder) -> list[int]:
    """Numbers of the whole checkpoints of a run, ascending."""
    found = [int(name) for name in run.child(CHECKPOINTS).folders() if name.isdigit()]
    return [number for number in sorted(found) if folder_of(run, number).has(MANIFEST_FILE)]


def latest(run: Folder) -> int | None:
    """Number of the newest whole checkpoint."""
    found = numbers(run)
    return found[-1] if found else None


def forget_after(run: Folder, number: int) -> None:
    """Delete what was saved after checkpoint `number`: a run that goes on from it makes another history. Unfinished ones go too."""
    for name in run.child(CHECKPOINTS).folders():
        if name.isdigit() and int(name) > number:
            folder_of(run, int(name)).remove_all()


def prune(run: Folder, *, keep: int | None, score: str | None = None, highest: bool = True) -> None:
    """Delete checkpoints beyond `keep`: the oldest, or those that are worst by metric `score`; the newest always stays."""
    found = numbers(run)
    if keep is None or len(found) <= keep:
        return
    newest = found[-1]
    ranked = found
    if score is not None:
        sign = 1.0 if highest else -1.0
        values = {number: read_manifest(run, number).metrics.get(score, math.nan) for number in found}
        known = {number: math.isfinite(value) for number, value in values.items()}
        ranked = sorted(found, key=lambda number: (known[number], sign * values[number] if known[number] else 0.0, number))
    for number in [number for number in ranked if number != newest][: len(found) - keep]:
        folder_of(run, number).remove_all()

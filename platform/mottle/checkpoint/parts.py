"""The parts of a checkpoint: the model by name, each shard's optimizer slots, and what workers keep from order to order. All are
safetensors, readable without Mottle.

RUN/checkpoints/000007/model.safetensors           parameters and floating-point buffers, under their own names and shapes; of models that
                                                   are trained in rotation as a `torch.nn.ModuleList` names them: `0.NAME`, `1.NAME`, ...
RUN/checkpoints/000007/optimizer-00000-0.safetensors  slots of shard 0, flat; the metadata says which coordinates
RUN/checkpoints/000007/worker-00003.safetensors       of the worker with that slot, whole vectors: `inner.` its inner optimizer's state,
                                                   `codec.` what its codec held back
RUN/checkpoints/000007/manifest.json               what belongs to it, with digests; written last
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors.torch import load, save
from torch import Tensor

from mottle.core.layout import Layout, Range
from mottle.core.protocol import ReplicaId
from mottle.optim.state import cut, join
from mottle.storage import Folder

CHECKPOINTS = "checkpoints"
MODEL_FILE = "model.safetensors"


class CheckpointError(ValueError):
    """A checkpoint that is damaged, or of another model."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A part that is on storage."""

    file: str
    sha256: str
    num_bytes: int


@dataclass(frozen=True, slots=True)
class WorkerPart:
    """A worker's part that is on storage."""

    slot: int
    group: str
    saved: Saved


def folder_of(run: Folder, number: int) -> Folder:
    """Where checkpoint `number` of a run lies."""
    return run.child(CHECKPOINTS).child(f"{number:06d}")


def write_model(folder: Folder, tensors: Mapping[str, Tensor]) -> Saved:
    """Parameters and buffers by name. Tied weights are written under each of their names, once for all in value."""
    return _write(folder, MODEL_FILE, {name: tensor.contiguous().clone() for name, tensor in tensors.items()}, {"format": "pt"})


def write_optimizer(folder: Folder, replica: ReplicaId, owned: Range, state: Mapping[str, Tensor]) -> Saved:
    """One shard's slots: flat ones as long as its range, scalars as they are. Every replica writes a file of its own."""
    metadata = {"start": str(owned.start), "stop": str(owned.stop)}
    return _write(
        folder,
        f"optimizer-{replica.shard:05d}-{replica.replica}.safetensors",
        {name: value.contiguous() for name, value in state.items()},
        metadata,
    )


def write_worker(folder: Folder, slot: int, state: Mapping[str, Tensor]) -> Saved:
    """What a worker keeps from order to order."""
    return _write(folder, f"worker-{slot:05d}.safetensors", {name: value.contiguous() for name, value in state.items()}, {})


def _write(folder: Folder, name: str, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> Saved:
    payload = save(dict(tensors), metadata)
    with folder.writing(name) as stream:
        stream.write(payload)
    return Saved(name, hashlib.sha256(payload).hexdigest(), len(payload))


def read_part(folder: Folder, part: Saved) -> dict[str, Tensor]:
    """The tensors of a part.

    Raises:
        CheckpointError: the file is not what was written.
    """
    with folder.open(part.file) as stream:
        payload: bytes = stream.read()
    if hashlib.sha256(payload).hexdigest() != part.sha256:
        raise CheckpointError(f"{folder.path}/{part.file} is not what was written (its digest differs); use an older checkpoint")
    tensors: dict[str, Tensor] = load(payload)
    return tensors


def read_model(folder: Folder, part: Saved, layout: Layout) -> Tensor:
    """The flat vector of the model.

    Raises:
        CheckpointError: damaged, or of another model: names what differs.
    """
    tensors = read_part(folder, part)
    wrong = [piece.name for piece in layout.slices if piece.name not in tensors or tuple(tensors[piece.name].shape) != piece.shape]
    if wrong:
        raise CheckpointError(f"the checkpoint is of another model: {', '.join(wrong[:5])} are missing or have another shape")
    flat = torch.zeros(layout.size, dtype=getattr(torch, layout.dtype))
    for piece in layout.slices:
        flat[piece.start : piece.stop] = tensors[piece.name].reshape(-1).to(flat.dtype)
    return flat


def read_optimizer(folder: Folder, parts: tuple[Saved, ...], old: tuple[Range, ...], new: tuple[Range, ...]) -> list[dict[str, Tensor]]:
    """The optimizer's slots, cut anew to the ranges of other shards."""
    whole = join([read_part(folder, part) for part in parts], list(old))
    return [dict(cut(whole, within)) for within in new]

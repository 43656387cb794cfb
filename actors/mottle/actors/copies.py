"""A model on its way from the shards of one run to those of another: what is offered, and how a range of it is fetched.

The two runs may cut their parameters differently and have their shards on other hosts; numbers go from shard to shard through Ray's object
store, and touch no disk.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import ray
import torch
from torch import Tensor

from mottle.actors import transport
from mottle.core.errors import MottleError
from mottle.core.layout import Range
from mottle.vectors.memory import Model, Offer

FETCH_TIMEOUT_S = 60.0


class CopyError(MottleError):
    """A model could not be copied; the run that wanted it goes on as before."""


class Source(NamedTuple):
    """A model of a live run, by which it can be asked for later and from any process of the cluster."""

    coordinator: str
    """Ray's name of it, in the namespace `placing.RUNS`."""
    run: str
    """Its folder."""
    lineage: int
    """A model that another one has replaced since is not to be had any more."""
    layout_digest: str


class Piece(NamedTuple):
    """A shard of the run that offers."""

    owned: Range
    replicas: Sequence[Any]
    """Handles of its live replicas, primary first."""


class Offered(NamedTuple):
    """What another run has to know to fetch a model."""

    run: str
    layout_digest: str
    pieces: Sequence[Piece]


def fetch(name: str, pieces: Sequence[Piece], wanted: Range) -> Model:
    """A range of what another run offers as `name`; it may lie in memory that is shared, and is to be copied from.

    Raises:
        ray.exceptions.RayError: a shard of it is gone.
    """
    near = [piece for piece in pieces if max(piece.owned.start, wanted.start) < min(piece.owned.stop, wanted.stop)]
    asked = [piece.replicas[0].offered.remote(name) for piece in near]
    parts: list[Offer] = ray.get(asked, timeout=FETCH_TIMEOUT_S)
    keys = parts[0][1].keys() if parts else ()
    values = _joined([_cut(values, piece.owned, wanted) for piece, (values, _) in zip(near, parts, strict=True)])
    slots = {key: _joined([_cut(part[key], piece.owned, wanted) for piece, (_, part) in zip(near, parts, strict=True)]) for key in keys}
    return values, slots


def _cut(published: Any, owned: Range, wanted: Range) -> Tensor:
    """The part of a shard's tensor that is wanted; scalars of the optimizer whole."""
    tensor = transport.receive(published)
    return tensor[max(0, wanted.start - owned.start) : wanted.stop - owned.start] if tensor.dim() else tensor


def _joined(parts: Sequence[Tensor]) -> Tensor:
    if not parts:
        return torch.empty(0)
    return parts[0] if len(parts) == 1 or not parts[0].dim() else torch.cat(list(parts))


def gone(wanted: Source, run: str, lineage: int) -> str:
    """Why a coordinator has not what is wanted of it; empty if it has.

    Args:
        run, lineage: of the run that it serves now.
    """
    if wanted.run != run:
        return f"{wanted.run} has ended"
    return "" if wanted.lineage == lineage else f"{wanted.run} has taken over another model since"


def refusal(offered: Offered, layout_digest: str, run: str) -> str:
    """Why a run cannot take what is offered; empty if it can."""
    if offered.run == run:
        return "a run cannot copy itself"
    if offered.layout_digest != layout_digest:
        return f"{offered.run} has another model: its parameters have other names or shapes"
    return ""

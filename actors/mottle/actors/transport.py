"""How vectors travel: small ones inside the message, large ones once through the object store, or straight from the memory of a sender on
the same host (`mottle.actors.nearby`).

A Ray object dies with the process that put it, so nothing here is a durable thing: a push counts only after the shard has copied the
payload, and a published version belongs to the shard that serves it. A tensor made from an object may be shared memory: readers copy it
into memory of their own before anything else sees it.
"""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import ray
import torch
from torch import Tensor

from mottle.actors import nearby
from mottle.compression import Identity, Payload
from mottle.compression.payload import is_row
from mottle.core.layout import Range

F = TypeVar("F", bound=Callable[..., Any])

INLINE_BYTES = 64 * 1024
"""Below this a message carries the bytes; Ray's own limit for inlined objects is 100 kB."""

# Objects are read-only arrays. Readers only copy from the tensors made of them, which is what torch warns about in general.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


def call(*, group: str | None = None, answered: bool = True) -> Callable[[F], F]:
    """A method that other actors call often: Ray keeps no record of each call, which costs more than the call's own work.

    Args:
        group: the actor's concurrency group whose threads run it.
        answered: whether somebody waits for what it returns.
    """
    options: dict[str, Any] = {"enable_task_events": False, "concurrency_group": group, "num_returns": None if answered else 0}
    decorate: Any = ray.method(**{name: value for name, value in options.items() if value is not None})
    return lambda function: decorate(function)


def publish(range_D: Tensor) -> Any:
    """A copy of the range for readers on other processes: an array, or a one-element list with a reference to one."""
    array = range_D.detach().cpu().numpy()
    return array.copy() if array.nbytes <= INLINE_BYTES else [ray.put(array)]


Cuts = tuple[tuple[Range, ...], ...]
"""Coordinates that each of several processes wants."""


def publish_cut(published: Any, cuts: Cuts, start: int) -> list[Any]:
    """A range that `publish` made, divided between several processes: what each wants, one after the other, as `publish` makes it.

    Args:
        start: first coordinate of the range.
    """
    whole = receive(published)
    return [publish(torch.cat([whole[each.start - start : each.stop - start] for each in wanted] or [whole[:0]])) for wanted in cuts]


def receive(published: Any) -> Tensor:
    """The tensor behind what `publish` made: shared memory, to be copied from and let go."""
    return torch.from_numpy(_array(published))


def joined(ranges: list[Any]) -> Tensor:
    """The ranges of all shards, in order, as one vector in memory of its own."""
    return torch.from_numpy(np.concatenate([_array(published) for published in ranges]))


def _array(published: Any) -> Any:
    return ray.get(published[0]) if isinstance(published, list) else published


def ship(payload: Any, num_bytes: int) -> tuple[Any, bool]:
    """An encoded range as an argument of one call or of several: as it is, or a one-element list with a reference to it; whether so."""
    return (payload, False) if num_bytes <= INLINE_BYTES else ([ray.put(payload)], True)


def unship(shipped: Any) -> Any:
    """The payload behind what `ship` made."""
    return ray.get(shipped[0]) if isinstance(shipped, list) else shipped


class Near(NamedTuple):
    """An encoded range that lies in the sender's memory."""

    header: Payload
    """Without its body."""
    body: nearby.Shown


def rows_of(payload: Any) -> tuple[Payload, list[nearby.Row]] | None:
    """A payload without its body, and where that lies; None of what has to go through Ray, as anything that no codec sends.

    Pieces that the plain codec made of consecutive coordinates are one payload, whose body lies in several rows.
    """
    pieces = payload if isinstance(payload, tuple) else (payload,)
    if not all(isinstance(piece, Payload) and is_row(piece.body) for piece in pieces):
        return None
    whole = replace(pieces[0], body=np.empty(0, np.uint8))
    if len(pieces) > 1:
        if not all(_is_plain(piece) and piece.p1 == whole.p1 for piece in pieces):
            return None
        whole = replace(whole, num_coordinates=sum(piece.num_coordinates for piece in pieces))
    return whole, [piece.body for piece in pieces]


def _is_plain(payload: Payload) -> bool:
    return payload.codec_id == Identity.codec_id and type(payload.num_coordinates) is int

"""The seam of codecs: how a range of an update travels from a worker to a shard.

A codec is a small frozen object without state. What it must remember between steps (the part of earlier updates that was not sent) is
its *memory*, which the worker keeps, hands in and gets back: `None` for a codec that sends everything.

Every codec, a user's own too, is run through `mottle.compression.contract`.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mottle.compression.payload import Payload

Memory = Mapping[str, Tensor] | None
"""Named vectors of the range's length; saved with the worker's slot."""

_DTYPES = (torch.float32, torch.float64)


@runtime_checkable
class Codec(Protocol):
    """See the module's text. `codec_id` is its number on the wire; ours are below 128, a user's own from 128 to 255."""

    @property
    def codec_id(self) -> int: ...

    @property
    def contraction(self) -> float:
        """delta in (0, 1]: the squared error is at most (1 - delta) times the squared norm; 1 loses nothing."""

    def num_bytes(self, num_coordinates: int, dtype: torch.dtype) -> int:
        """Length of the body for a range of that many coordinates."""

    def encode(self, range_tensor: Tensor, memory: Memory) -> tuple[Payload, Memory]:
        """Encode a range.

        Args:
            range_tensor: shape (n,), float32 or float64 (16-bit floats are taken as float32), on any device; not changed, but the
                payload may be a view of it.
            memory: what the last call on this range returned; `None` at first. Not changed.
        """

    def decode(self, payload: Payload, out: Tensor) -> None:
        """Write every coordinate of `out`, shape (n,), float32 or float64, contiguous.

        Raises:
            PayloadError: the payload is not one that this codec sends for `n` coordinates; `out` is as before.
        """


def as_vector(range_tensor: Tensor) -> Tensor:
    """A range ready to encode: contiguous, float32 or float64, without history; a view where it is all that already.

    Raises:
        ValueError: not a vector of floating point.
    """
    if range_tensor.dim() != 1 or not range_tensor.is_floating_point():
        raise ValueError(f"a range to encode has shape (n,) and a floating dtype, got {tuple(range_tensor.shape)} of {range_tensor.dtype}")
    vector = range_tensor.detach()
    return (vector if vector.dtype in _DTYPES else vector.float()).contiguous()


def check_out(out: Tensor) -> None:
    """Raise ValueError unless decoded values can be written there."""
    if out.dim() != 1 or out.dtype not in _DTYPES or not out.is_contiguous():
        raise ValueError(f"a range to decode into is contiguous, shape (n,), float32 or float64, got {tuple(out.shape)} of {out.dtype}")


def write(values: npt.NDArray[np.generic], out: Tensor) -> None:
    """Copy decoded values into `out` on whatever device; one copy on the CPU, from read-only memory too."""
    if out.device.type == "cpu":
        np.copyto(out.detach().numpy(), values)
    else:
        out.detach().copy_(torch.from_numpy(values.copy()))

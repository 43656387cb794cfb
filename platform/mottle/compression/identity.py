"""The codec that changes nothing: coordinates travel as they are."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mottle.compression.base import Memory, as_vector, check_out, write
from mottle.compression.payload import Payload, check

_WIRE = {torch.float32: "<f4", torch.float64: "<f8"}


@dataclass(frozen=True)
class Identity:
    """Body: the coordinates, little-endian, in the range's own dtype; `p1` is the bits of one. Bit-exact, and no copy on the CPU.

    Values that are not finite travel as they are. Codecs with a scale must refuse them, because one would spoil a whole group; here each
    spoils itself only, and the gate at the shards, which looks at every update anyway, can say whose it was.
    """

    codec_id: ClassVar[int] = 0
    contraction: ClassVar[float] = 1.0

    def num_bytes(self, num_coordinates: int, dtype: torch.dtype) -> int:
        return num_coordinates * dtype.itemsize

    def encode(self, range_tensor: Tensor, memory: Memory) -> tuple[Payload, Memory]:
        vector = as_vector(range_tensor)
        body = vector.cpu().numpy().astype(_WIRE[vector.dtype], copy=False).view("u1")
        return Payload(self.codec_id, len(vector), body, p1=8 * vector.itemsize), memory

    def decode(self, payload: Payload, out: Tensor) -> None:
        check_out(out)
        num_bytes = self.num_bytes(len(out), out.dtype)
        body = check(payload, codec_id=self.codec_id, num_coordinates=len(out), num_bytes=num_bytes, p1=8 * out.itemsize)
        write(body.view(_WIRE[out.dtype]), out)

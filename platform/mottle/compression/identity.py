"""The codec that changes nothing: coordinates travel as they are."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
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
        write(self._values(payload, len(out), out.dtype), out)

    def view(self, payload: Payload, num_coordinates: int, dtype: torch.dtype) -> Tensor:
        """The coordinates where they lie in the payload, shape (num_coordinates,); writing there writes into its body.

        Raises:
            PayloadError: the payload is not one of so many coordinates of that dtype.
        """
        return torch.from_numpy(self._values(payload, num_coordinates, dtype))

    def _values(self, payload: Payload, num_coordinates: int, dtype: torch.dtype) -> npt.NDArray[np.generic]:
        num_bytes = self.num_bytes(num_coordinates, dtype)
        body = check(payload, codec_id=self.codec_id, num_coordinates=num_coordinates, num_bytes=num_bytes, p1=8 * dtype.itemsize)
        return body.view(_WIRE[dtype])

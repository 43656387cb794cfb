"""bfloat16: the upper half of a float32, rounded to nearest with ties to even. Half the bytes, the whole exponent range."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mottle.compression.base import Memory, as_vector, check_out, write
from mottle.compression.payload import Payload, check


def narrowed(values: Tensor) -> Tensor:
    """The bfloat16 patterns of the values, as int16: a dtype that numpy has too."""
    return values.to(torch.bfloat16).view(torch.int16)


def widened(patterns: Tensor) -> Tensor:
    """What `narrowed` has made patterns of, in bfloat16."""
    return patterns.view(torch.bfloat16)


@dataclass(frozen=True)
class BFloat16:
    r"""Body: one little-endian 16-bit pattern a coordinate; `p1` is 16.

    .. math:: |C(x)_j - x_j| \le 2^{-8} |x_j|

    for normal numbers: 8 significant bits. There is no scale to spoil, so values that are not finite travel as such (see `Identity`), NaN
    as a quiet NaN. A finite value above 3.3961e38 rounds to infinity, as IEEE 754 has it. float64 is first rounded to float32, so a value
    within 2^-24 (relative) of the middle between two bfloat16 may go the other way.
    """

    codec_id: ClassVar[int] = 18
    contraction: ClassVar[float] = 1 - 2.0**-16

    def num_bytes(self, num_coordinates: int, dtype: torch.dtype) -> int:
        return 2 * num_coordinates

    def encode(self, range_tensor: Tensor, memory: Memory) -> tuple[Payload, Memory]:
        vector = as_vector(range_tensor)
        bits = vector.to(torch.bfloat16).cpu().view(torch.uint16).numpy()
        return Payload(self.codec_id, len(vector), bits.astype("<u2", copy=False).view("u1"), p1=16), memory

    def decode(self, payload: Payload, out: Tensor) -> None:
        check_out(out)
        num_bytes = self.num_bytes(len(out), out.dtype)
        bits = check(payload, codec_id=self.codec_id, num_coordinates=len(out), num_bytes=num_bytes, p1=16).view("<u2")
        in_place = out.dtype == torch.float32 and out.device.type == "cpu"
        values = out.detach().numpy() if in_place else np.empty(len(out), np.float32)
        wide = values.view(np.uint32)
        np.copyto(wide, bits)
        np.left_shift(wide, 16, out=wide)
        if not in_place:
            write(values, out)

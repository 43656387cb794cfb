"""E3M0: four bits a coordinate, a sign and three bits of exponent, with a scale for each group; for outer gradients of local steps."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mottle.compression.base import Memory, as_vector, check_out, write
from mottle.compression.payload import Payload, check
from mottle.core.errors import ConfigError

# G groups, g coordinates of a group
LEVELS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
THRESHOLDS = (0.125, 0.375, 0.75, 1.5, 3.0, 6.0, 12.0)
"""Arithmetic midpoints; a value equal to one goes up."""
TINY = 2.0**-100
"""A group without a larger value is sent as zeros: its scale would be lost in the smallest numbers of float32."""
_SIGN = 8
_TABLE = np.array([*LEVELS, 0.0, *(-level for level in LEVELS[1:])], np.float32)
MOST = 4096


@dataclass(frozen=True)
class E3M0:
    r"""Body: a nibble a coordinate, the first of two in the upper half of a byte, then a float32 scale a group; `p0` is g, `p1` 4.

    .. math:: s = \max |x| / 16, \qquad C(x)_j = s \operatorname{sign}(x_j) L(|x_j| / s), \quad L \in \{0, 1/4, 1/2, 1, 2, 4, 8, 16\}

    nearest level, so the largest value of a group is exact, values down to 1/64 of it are off by a third at most, and smaller ones by 1/128
    of it. Stateless: nothing is held back. A group with a value that is not finite arrives as NaN, all of it, so that the gate of the
    step rejects the update by name (the specification would have the encoder raise, which a run would have to end with).

    Args:
        group: g, even, at most 4096.
    Raises:
        ConfigError: another group.
    Source: Douillard et al. 2025, Streaming DiLoCo, arXiv 2501.18512, sends 1 + 3 + 0 bits; how values are scaled is `compression.md` A13.
    """

    group: int = 128
    codec_id: ClassVar[int] = 14

    def __post_init__(self) -> None:
        if type(self.group) is not int or not 2 <= self.group <= MOST or self.group % 2:
            raise ConfigError(f"codec e3m0 takes an even group of 2 to {MOST} coordinates, got {self.group!r}")

    @property
    def contraction(self) -> float:
        return 8 / 9 - self.group / 16384

    def num_bytes(self, num_coordinates: int, dtype: torch.dtype) -> int:
        return -(-num_coordinates // 2) + 4 * self._num_groups(num_coordinates)

    def _num_groups(self, num_coordinates: int) -> int:
        return -(-num_coordinates // self.group)

    def encode(self, range_tensor: Tensor, memory: Memory) -> tuple[Payload, Memory]:
        vector = as_vector(range_tensor).float()
        num_groups = self._num_groups(len(vector))
        padding = num_groups * self.group - len(vector)
        values_Gg = torch.nn.functional.pad(vector, (0, padding)).view(num_groups, self.group)
        largest_G = values_Gg.abs().amax(1) if num_groups else values_Gg.sum(1)
        scales_G = torch.where(largest_G < TINY, 1.0, largest_G / LEVELS[-1])
        scales_G = torch.where(largest_G.isfinite(), scales_G, torch.nan)
        thresholds = torch.tensor(THRESHOLDS, device=vector.device)
        codes_Gg = torch.bucketize(values_Gg.abs() / scales_G[:, None], thresholds, right=True, out_int32=True).to(torch.uint8)
        codes_Gg |= ((values_Gg < 0) & (codes_Gg > 0)).to(torch.uint8) * _SIGN
        packed = (codes_Gg[:, 0::2] << 4 | codes_Gg[:, 1::2]).flatten().cpu().numpy()
        body = np.concatenate([packed[: -(-len(vector) // 2)], scales_G.cpu().numpy().astype("<f4", copy=False).view("u1")])
        return Payload(self.codec_id, len(vector), body, p0=self.group, p1=4), memory

    def decode(self, payload: Payload, out: Tensor) -> None:
        check_out(out)
        num_bytes, num_groups = self.num_bytes(len(out), out.dtype), self._num_groups(len(out))
        body = check(payload, codec_id=self.codec_id, num_coordinates=len(out), num_bytes=num_bytes, p0=self.group, p1=4)
        num_packed = -(-len(out) // 2)
        packed, scales_G = body[:num_packed], body[num_packed:].view("<f4")
        codes = np.zeros((num_groups * self.group // 2, 2), np.uint8)
        codes[:num_packed, 0], codes[:num_packed, 1] = packed >> 4, packed & 15
        with np.errstate(over="ignore", invalid="ignore"):  # a hostile scale; what comes of it is for the gate
            values_Gg = _TABLE[codes].reshape(num_groups, self.group) * scales_G[:, None]
        write(values_Gg.reshape(-1)[: len(out)], out)

"""Flipped bits of float32 values, as broken memory or a broken link makes them.

Source: Xie, Koyejo, Gupta, arXiv 1802.10116 and 1805.09682.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mottle.attacks.base import Attack, State, Turn
from mottle.attacks.checks import choice, flag, whole
from mottle.attacks.view import Knowledge


def flip_bits(values: Tensor, bits: tuple[int, ...]) -> Tensor:
    """The float32 values whose IEEE-754 patterns differ from the given ones in these bits, 0 (least significant) to 31 (sign).

    Other dtypes are cast to float32 first. Its own inverse on the bit pattern of float32, NaN payloads included.
    """
    mask = sum(1 << bit for bit in set(bits))
    signed_mask = mask - (1 << 32) if mask >= 1 << 31 else mask
    return (values.to(torch.float32).contiguous().view(torch.int32) ^ signed_mask).view(torch.float32)


@dataclass(frozen=True, kw_only=True)
class BitFlip(Attack):
    """Flips bits of the first coordinates of the faulty workers' own updates; float32 patterns, whatever the dtype of the update.

    Mode `row` hits coordinates 0 to count-1 of every faulty row. Mode `dimensional` hits coordinate c < count in the row of worker c mod n
    alone; with every worker listed as faulty each row is bad somewhere, which breaks rules that select rows.
    """

    name: ClassVar[str] = "bit_flip"
    citation: ClassVar[str] = "Xie et al. 2018, arXiv 1802.10116; arXiv 1805.09682"
    passes_gate: ClassVar[str] = "sometimes"

    bits: tuple[int, ...] = (22, 29, 30, 31)
    """Bits to flip: 31 sign, 30 to 23 exponent, 22 top bit of the fraction."""
    count: int = 500
    """m, coordinates hit; 500 in the authors' code, 1000 in the papers. More than the update has means all."""
    mode: Literal["row", "dimensional"] = "row"
    """Which rows are hit in a coordinate."""
    copy: bool = False
    """All faulty workers send the flipped row of the one with the smallest id (mode `row`)."""

    def _problems(self) -> list[str]:
        problems = whole("count", self.count, least=0) + choice("mode", self.mode, ("row", "dimensional")) + flag("copy", self.copy)
        if (
            not isinstance(self.bits, tuple)
            or not self.bits
            or any(bit not in range(32) for bit in self.bits)
            or len(set(self.bits)) < len(self.bits)
        ):
            problems.append(f"bits must be different integers from 0 to 31, got {self.bits!r}")
        if self.copy is True and self.mode == "dimensional":
            problems.append("copy needs mode 'row': in mode 'dimensional' the rows differ by definition")
        return problems

    @property
    def knowledge(self) -> Knowledge:
        return Knowledge.COLLUDERS if self.copy else Knowledge.OWN

    def _rows(self, turn: Turn, state: State) -> tuple[Tensor, State]:
        rows_QD = turn.own.clone()
        num_hit = min(self.count, rows_QD.shape[1])
        if self.mode == "row":
            rows_QD[:, :num_hit] = flip_bits(rows_QD[:, :num_hit], self.bits).to(rows_QD.dtype)
            return (turn.same_for_all(rows_QD[0]) if self.copy else rows_QD), state
        for row_D, worker in zip(rows_QD, turn.view.faulty_ids, strict=True):
            hit = slice(worker % turn.view.num_workers, num_hit, turn.view.num_workers)
            row_D[hit] = flip_bits(row_D[hit], self.bits).to(row_D.dtype)
        return rows_QD, state

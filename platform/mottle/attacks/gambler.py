"""The Gambler: a faulty server link that now and then multiplies a received value by a huge number.

Source: Xie, Koyejo, Gupta, arXiv 1802.10116 and 1805.09682.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mottle.attacks.base import Arrival, Attack, dice
from mottle.attacks.checks import number, whole
from mottle.attacks.view import Knowledge


@dataclass(frozen=True, kw_only=True)
class Gambler(Attack):
    """On one of several even shards every received value is multiplied by `factor` with a small probability, whoever sent it.

    A row is clean with probability (1 - probability)^(d/num_shards), so rules that select rows find none, while coordinate-wise rules see
    n * probability bad values a coordinate on average. In float32 a value above 3.4e18 overflows with the default factor.

    Draw order: one `random((n, s))` for the s coordinates of the rows that lie on the faulty shard; a value is hit where it is below
    `probability`.
    """

    name: ClassVar[str] = "gambler"
    citation: ClassVar[str] = "Xie et al. 2018, arXiv 1802.10116; arXiv 1805.09682"
    stage: ClassVar = "link"
    passes_gate: ClassVar[str] = "in float32 for values below about 3e18"

    probability: float = 0.0005
    """p, chance of a value to be hit."""
    factor: float = -1e20
    """What it is multiplied by."""
    num_shards: int = 20
    """Even parts of the parameters, for this attack; no matter how many parameter servers the job has."""
    shard: int = 0
    """The part behind the faulty link."""

    def _problems(self) -> list[str]:
        problems = number("probability", self.probability, least=0.0, most=1.0) + number("factor", self.factor)
        problems += whole("num_shards", self.num_shards, least=1) + whole("shard", self.shard, least=0)
        if not problems and self.shard >= self.num_shards:
            problems.append(f"shard must be below num_shards = {self.num_shards}, got {self.shard}")
        return problems

    @property
    def knowledge(self) -> Knowledge:
        return Knowledge.NOTHING

    @property
    def deterministic(self) -> bool:
        return False

    def shard_range(self, num_coordinates: int) -> range:
        """Coordinates behind the faulty link; shard k of s holds k*d//s to (k+1)*d//s."""
        return range(self.shard * num_coordinates // self.num_shards, (self.shard + 1) * num_coordinates // self.num_shards)

    def _ingress(self, rows_NS: Tensor, arrival: Arrival, generator: np.random.Generator | None) -> Tensor:
        faulty = self.shard_range(arrival.num_coordinates)
        hit = slice(max(faulty.start - arrival.first, 0), min(faulty.stop - arrival.first, rows_NS.shape[1]))
        if hit.start >= hit.stop:
            return rows_NS
        arrived_NS = rows_NS.clone()
        mask = torch.from_numpy(dice(self.name, generator).random((len(rows_NS), hit.stop - hit.start)) < self.probability)
        values = rows_NS[:, hit]
        arrived_NS[:, hit] = torch.where(mask.to(rows_NS.device), (values.double() * self.factor).to(values.dtype), values)
        return arrived_NS

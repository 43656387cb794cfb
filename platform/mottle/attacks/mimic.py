"""Mimic: faulty workers that copy an honest one, undetectable by value, harmful where data differ.

Source: Karimireddy, He, Jaggi, "Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing", ICLR 2022, arXiv 2006.09365.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mottle.attacks.base import Attack, State, Turn
from mottle.attacks.checks import whole
from mottle.attacks.moments import column_blocks, column_means, projections
from mottle.attacks.view import Knowledge
from mottle.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True, eq=False)
class MimicState:
    """What the warm-up has learnt so far."""

    rounds: int = 0
    """Rounds of warm-up seen."""
    mean: Tensor | None = None
    """mu: running mean of the honest means; float64."""
    direction: Tensor | None = None
    """z: running estimate of the unit direction of largest variance; float64."""
    chosen: int | None = None
    """Id of the honest worker that was copied last."""


@dataclass(frozen=True, kw_only=True)
class Mimic(Attack):
    """All faulty workers send a copy of one honest update.

    Without warm-up it is that of `target`. With it the attackers estimate the direction z of largest variance among honest updates by a
    running power iteration, copy the worker with the largest H_i . z meanwhile (the smallest id among equals), and keep to the last one
    afterwards; if that worker leaves, its successor is found along the last z.

    Draw order: one `standard_normal(d)` in the first round of a warm-up, for the starting direction; nothing else.
    """

    name: ClassVar[str] = "mimic"
    citation: ClassVar[str] = "Karimireddy et al. 2022, arXiv 2006.09365"

    target: int | None = None
    """Id of the honest worker to copy; None takes the smallest honest id."""
    warm_up: int = 0
    """Rounds in which the victim is sought; 0 copies `target` from the start."""

    def _problems(self) -> list[str]:
        problems = [] if self.target is None else whole("target", self.target, least=0)
        problems += whole("warm_up", self.warm_up, least=0)
        if not problems and self.target is not None and self.warm_up:
            problems.append(f"target and warm_up exclude each other, got target {self.target} with {self.warm_up} rounds; leave one out")
        return problems

    @property
    def knowledge(self) -> Knowledge:
        return Knowledge.HONEST

    @property
    def deterministic(self) -> bool:
        return self.warm_up == 0

    def init(self) -> MimicState | None:
        return MimicState() if self.warm_up else None

    def _rows(self, turn: Turn, state: State) -> tuple[Tensor, State]:
        if self.warm_up:
            state = self._choose(turn, state)
            victim = state.chosen
        else:
            victim = self.target if self.target is not None else min(turn.view.honest_ids or (), default=None)
        return turn.same_for_all(turn.honest[self._place(turn, victim)]), state

    def _place(self, turn: Turn, victim: int | None) -> int:
        honest_ids = turn.view.honest_ids or ()
        if victim not in honest_ids:
            raise ConfigError(f"mimic has no honest worker {victim} to copy, only {honest_ids}; choose a target among these")
        return honest_ids.index(victim)

    def _choose(self, turn: Turn, state: MimicState) -> MimicState:
        honest_HD, honest_ids = turn.honest, turn.view.honest_ids or ()
        watching = state.rounds < self.warm_up
        if not watching and state.chosen in honest_ids:
            return state
        mean, direction = _watch(turn, state) if watching else (state.mean, state.direction)
        assert direction is not None
        along = projections(honest_HD, torch.zeros_like(direction), direction)
        chosen = honest_ids[int(torch.nonzero(along == along.max())[0])]
        return MimicState(rounds=state.rounds + watching, mean=mean, direction=direction, chosen=chosen)


def _watch(turn: Turn, state: MimicState) -> tuple[Tensor, Tensor]:
    """Mean and direction after one more round of the running power iteration."""
    honest_HD = turn.honest
    if state.mean is None or state.direction is None:
        start_D = torch.from_numpy(turn.dice.standard_normal(honest_HD.shape[1])).to(honest_HD.device)
        mean = column_means(honest_HD)
        direction_D = _unit(start_D, start_D)
        return mean, _unit(_power_step(honest_HD, mean, direction_D), direction_D)
    old_share = state.rounds / (state.rounds + 1)
    mean = old_share * state.mean + (1 - old_share) * column_means(honest_HD)
    step_D = _power_step(honest_HD, mean, state.direction)
    blend_D = old_share * state.direction + (1 - old_share) * _unit(step_D, torch.zeros_like(step_D))
    return mean, _unit(blend_D, state.direction)


def _power_step(honest_HD: Tensor, mean: Tensor, direction_D: Tensor) -> Tensor:
    """sum_i ((H_i - mu) . z) (H_i - mu)."""
    along = projections(honest_HD, mean, direction_D)
    step_D = torch.empty_like(mean)
    for columns, block_HB in column_blocks(honest_HD):
        step_D[columns] = along @ (block_HB - mean[columns])
    return step_D


def _unit(vector_D: Tensor, otherwise_D: Tensor) -> Tensor:
    """The vector at length 1; the other one where it has no direction (all honest updates agree)."""
    length = torch.linalg.vector_norm(vector_D)
    return vector_D / length if length > 0 else otherwise_D

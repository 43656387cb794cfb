"""One stage of a placed model: the same update as a `TorchEngine` makes, by a gang of which each has a part of the model.

What belongs together is done by all of a gang at once: `accumulate`, `update` and `share_out` are called with the same arguments at
every stage, and stages wait for each other in them. Gradients are summed over micro-batches as elsewhere; only randomness differs, for
every stage draws from a stream of its own. A stage that fails leaves the others in the middle: the channel is then torn down, and the
order begins anew.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mottle.core.errors import ConfigError
from mottle.core.layout import Layout, Range, Slice
from mottle.engines.base import Accumulated, Fetch, Loss, never
from mottle.engines.flat import view_of
from mottle.engines.placed.channel import Channel, Form
from mottle.engines.placed.config import PlacedConfig
from mottle.engines.placed.passes import Passes
from mottle.engines.placed.sharing import Sharing, share
from mottle.engines.placed.stage_model import Holdings, StageModel
from mottle.engines.placed.stale_passes import MicroBatch, run_stale
from mottle.optim.clipping import factor_of_norm
from mottle.placement.staging import Cut
from mottle.placement.tracing import Capture

_TIED, _SPOKEN, _BORDER, _NORM, _TOTAL = range(1, 6)
"""Tags, below those of the passes."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a stage does like its neighbours: from the job and the group."""

    loss: Loss
    layout: Layout
    micro_batch_size: int
    config: PlacedConfig
    autocast: torch.dtype | None = None
    max_norm: float | None = None
    """Of the gang's mean gradient."""


class Timing(NamedTuple):
    """Of the last `accumulate`, in nanoseconds."""

    busy_ns: int
    """In forward and backward passes, declared delays included."""
    wall_ns: int


class StageEngine:
    """One stage; see `mottle.engines.base.Engine` for the order of calls.

    Args:
        model: whole; taken over.
        captured: of a micro-batch of `part.micro_batch_size` samples.
        device: of this stage.
        global_randomness: as `TorchEngine`.
    Raises:
        ConfigError: the capture is not of the model that was cut.
    """

    def __init__(
        self,
        model: nn.Module,
        part: Part,
        captured: Capture,
        cut: Cut,
        stage: int,
        device: torch.device | str = "cpu",
        global_randomness: AbstractContextManager[object] | None = None,
    ) -> None:
        self.stage, self.num_stages = stage, cut.num_stages
        self.micro_batch_size = part.micro_batch_size
        self.timing = Timing(0, 0)
        self._part = part
        self._device = torch.device(device)
        self.holdings = Holdings.of_cut(captured, cut, part.layout)
        self._own = StageModel(model, part.layout, self.holdings.of[stage], self._device)
        self._passes = Passes(
            self._own.model,
            part.loss,
            part.config,
            part.autocast,
            captured,
            part.micro_batch_size,
            cut,
            stage,
            self._device,
            self._own.collect,
            nullcontext() if global_randomness is None else global_randomness,
        )
        self._channel: Channel | None = None
        self._sealed = False
        self._borders: list[tuple[Range, Tensor]] = []
        self._shared_S: Tensor | None = None

    # --- the part of the vector -------------------------------------------------------------------------------------------------------

    @property
    def layout(self) -> Layout:
        """Of this stage's own vector."""
        return self._own.layout

    @property
    def places(self) -> list[tuple[Slice, Slice]]:
        """Every tensor's place in the whole vector, and in this stage's."""
        return self._own.places

    @property
    def spoken(self) -> list[tuple[Slice, Slice]]:
        """Of these, the tensors that this stage speaks for: of those that several have, the first does."""
        return [(whole, here) for whole, here in self._own.places if self.holdings.first[whole.name] == self.stage]

    @property
    def reads_data(self) -> bool:
        """Whether this stage takes batches: for inputs of the model, or for the loss."""
        return self._passes.reads_data

    def join(self, channel: Channel) -> None:
        """Speak to the other stages this way from here on."""
        self._channel = channel

    def leave(self) -> None:
        """Let go of the channel."""
        self._channel = None

    def load(self, flat_piece: Tensor, start: int) -> None:
        """Copy a range of the published vector, beginning at its coordinate `start`, as far as it is this stage's."""
        self._own.load(flat_piece, start)

    def refresh(self) -> None:
        """The flat vector was changed: parameters that are no views of it follow."""
        self._own.refresh()

    def values(self) -> Tensor:
        """This stage's flat vector; a view."""
        return self._own.values_S

    def zero(self) -> None:
        """Forget what was accumulated; buffers return to the values last loaded."""
        self._own.refresh()
        self._own.reset()
        self._sealed = False
        self._borders, self._shared_S = [], None

    # --- computing --------------------------------------------------------------------------------------------------------------------

    def accumulate(
        self,
        fetch: Fetch,
        start: int,
        stop: int,
        *,
        seed_of_position: Callable[[int], int],
        should_stop: Callable[[], bool] = never,
        coefficient: float = 1.0,
    ) -> Accumulated:
        """Add the gradient sum of positions `[start, stop)`, `microbatches` micro-batches at a time.

        Only the last stage knows weight and loss; the others say 0.

        Args:
            should_stop: asked before every such round; the same answer at every stage.
        Raises:
            ConfigError: a batch of another shape than the model was captured for.
            RuntimeError: after `update`, before `zero`.
            And whatever `fetch`, the model, the loss or the channel raise.
        """
        if self._sealed:
            raise RuntimeError("the update was taken already and may be under way; call zero() before accumulating again")
        began_ns, position = time.perf_counter_ns(), start
        weight, loss_sum, busy_ns = 0.0, 0.0, 0
        most = self._part.config.microbatches * self.micro_batch_size
        while position < stop and not should_stop():
            end = min(position + most, stop)
            done = self._passes.run(self._joined, fetch, self._micro_batches(position, end), seed_of_position, coefficient)
            weight, loss_sum, busy_ns = weight + done.weight, loss_sum + done.loss_sum, busy_ns + done.busy_ns
            position = end
        self.timing = Timing(busy_ns, time.perf_counter_ns() - began_ns)
        return Accumulated(position - start, weight, loss_sum, self.micro_batch_size, 0)

    def train_stale(self, batches: Sequence[MicroBatch], step: Callable[[float], None]) -> Accumulated:
        """Run micro-batches by DSP's schedule; inner steps are taken on the way, at every stage when it is its turn.

        Only the last stage knows the loss; the others say 0. All know the weight.

        Args:
            step: takes an inner step on `update(weight)`, and then calls `zero`.
        Raises:
            ConfigError: as `accumulate`; or stages share a weight, or the gradient is to be clipped: both need all stages at once.
            And whatever fetching, the model, the loss or the channel raise.
        """
        if tied := [name for name, *_ in self.holdings.tied()]:
            raise ConfigError(f"schedule dsp lets every stage step by itself, and {tied[0]!r} is in several: take 1f1b, or untie it")
        if self._part.max_norm is not None:
            raise ConfigError("schedule dsp lets every stage step by itself, so that no norm of a gradient is known to clip by: take 1f1b")
        began_ns = time.perf_counter_ns()
        for each in batches:
            self._passes.prepare(each.fetch, each.low, each.high)
        done = run_stale(self._passes, self._joined, batches, self._part.config.slots, step)
        self.timing = Timing(0, time.perf_counter_ns() - began_ns)
        return Accumulated(sum(each.high - each.low for each in batches), done.weight, done.loss_sum, self.micro_batch_size, 0)

    def _micro_batches(self, start: int, stop: int) -> list[tuple[int, int]]:
        size = self.micro_batch_size
        return [(low, min(low + size, stop)) for low in range(start, stop, size)]

    # --- the update -------------------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def update(self, weight: float, *, everywhere: bool = False) -> Tensor:
        """This stage's part of the update, shape (layout.size,), as `TorchEngine.update` has it; a view, valid until `zero`.

        Args:
            weight: of all that was accumulated, by the last stage.
            everywhere: whether of tied tensors all stages that have them want the whole gradient, to step along it.
        """
        if self._sealed:
            return self._own.sum_S
        self._sealed = True
        self._own.write_tail(weight)
        self._add_tied(everywhere=everywhere)
        if self._part.max_norm is not None and weight > 0:
            mean_norm = math.sqrt(self._total(self._squared_norm())) / weight
            if math.isfinite(mean_norm):
                self._own.sum_S[: self.layout.num_params].mul_(factor_of_norm(mean_norm, self._part.max_norm))
        return self._own.sum_S

    def _add_tied(self, *, everywhere: bool) -> None:
        """The gradient of a tied tensor is the sum of what its stages have of it."""
        channel = self._joined
        for name, speaker, others in self.holdings.tied():
            mine = view_of(self._own.sum_S, self._own.own[name]) if name in self._own.own else None
            if mine is None:
                continue
            form = [Form(tuple(mine.shape), mine.dtype)]
            if self.stage == speaker:
                for other in others:
                    mine.add_(channel.expect(other, _TIED, form)()[0].to(self._device))
                for other in others if everywhere else ():
                    channel.send(other, _SPOKEN, [mine])
            else:
                channel.send(speaker, _TIED, [mine])
                if everywhere:
                    mine.copy_(channel.expect(speaker, _SPOKEN, form)()[0])
        channel.settle()

    def _squared_norm(self) -> float:
        pieces = [p for p in self.layout.parameters if self.holdings.first[p.name] == self.stage]
        return sum(float(torch.linalg.vector_norm(view_of(self._own.sum_S, piece)).double()) ** 2 for piece in pieces)

    def _total(self, value: float) -> float:
        """The sum over all stages, in the same order everywhere."""
        channel, number = self._joined, [Form((1,), torch.float64)]
        if self.stage:
            channel.send(0, _NORM, [torch.tensor([value], dtype=torch.float64)])
            channel.settle()
            return float(channel.expect(0, _TOTAL, number)()[0])
        total = value + sum(float(channel.expect(other, _NORM, number)()[0]) for other in range(1, self.num_stages))
        for other in range(1, self.num_stages):
            channel.send(other, _TOTAL, [torch.tensor([total], dtype=torch.float64)])
        channel.settle()
        return total

    @torch.no_grad()
    def share_out(self, vector_S: Tensor, sharing: Sharing) -> None:
        """Hand over what others push, and take what this stage pushes of theirs; `parts` then has it.

        Args:
            vector_S: the update in this stage's coordinates, shape (layout.size,).
        """
        channel, waiting = self._joined, []
        self._shared_S, self._borders = vector_S, []
        for giver, taker, run in sharing.transfers:
            if taker == self.stage:
                waiting.append((run, channel.expect(giver, _BORDER, [Form((run.size,), vector_S.dtype)])))
            elif giver == self.stage:
                channel.send(taker, _BORDER, [self._own_part(run)])
        self._borders = [(run, arrive()[0]) for run, arrive in waiting]
        channel.settle()

    def sharing(self, shards: Sequence[Range]) -> Sharing:
        """Who pushes what to these shards."""
        return share(self.holdings.shares(), shards)

    def parts(self, start: int, stop: int) -> list[Tensor]:
        """Coordinates [start, stop) of the whole update, which this stage pushes, in one vector."""
        return [self._own_part(Range(start, stop))]

    def _own_part(self, run: Range) -> Tensor:
        """Coordinates of the whole vector out of what this stage has; zeros where nobody has any."""
        assert self._shared_S is not None, "an update that was not shared out"
        out = torch.zeros(run.size, dtype=self._shared_S.dtype)
        for whole, here in self.spoken:
            low, high = max(run.start, whole.start), min(run.stop, whole.stop)
            if low < high:
                shift = here.start - whole.start
                out[low - run.start : high - run.start].copy_(self._shared_S[low + shift : high + shift])
        for border, values in self._borders:
            low, high = max(run.start, border.start), min(run.stop, border.stop)
            if low < high:
                out[low - run.start : high - run.start].copy_(values[low - border.start : high - border.start])
        return out

    @property
    def _joined(self) -> Channel:
        assert self._channel is not None, "a stage that has joined no gang"
        return self._channel

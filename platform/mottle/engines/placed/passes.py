"""Micro-batches through one stage: forward and backward passes in the order of a schedule, tensors from and to the neighbours.

    forward(m)    x <- before; y = stage(x); keep (x, y); y -> after          the last stage: loss(y), kept
    backward(m)   dy <- after; vector-Jacobian product; dx -> before; let go  the last stage: of the loss

`mottle.placement.pipeline.StageMachine` decides the order. What comes next is expected one pass ahead, so that it travels meanwhile.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mottle.engines import averages, randomness
from mottle.engines.base import Fetch, Loss
from mottle.engines.batches import to_device
from mottle.engines.buffers import Buffers
from mottle.engines.placed.channel import Channel, Form
from mottle.engines.placed.config import PlacedConfig
from mottle.placement.pipeline import Arrived, Finished, Run, Send, StageMachine, Work
from mottle.placement.staging import Boundary, Cut, StageProgram, StandIn, call_of
from mottle.placement.tracing import Capture, capture

FIRST_TAG = 16
"""Tags below are the engine's; above, two for each micro-batch."""
AHEAD = 2
"""Passes whose tensors have room made for them: the one that is next, and the one after it."""
_STREAM = 0x9E37_79B9_7F4A_7C15
"""By how much the seeds of neighbouring stages differ."""


def captured_call(model: nn.Module, loss: Loss, batch: Any) -> Capture:
    """The graph of the call that a loss makes of a model in training.

    Raises:
        ConfigError: the loss uses its model in a way that stages do not allow, or the model cannot be captured.
    """
    return capture(model.train(), call_of(loss, batch, type(model).__name__))


class Round(NamedTuple):
    """What became of the micro-batches of one call."""

    weight: float
    loss_sum: float
    busy_ns: int
    """In passes, declared delays included."""


class Passes:
    """One stage's.

    Args:
        model: with the stage's parameters in place, whose gradients are added where they lie.
        captured: of `num_samples` samples.
        collected: called after every backward pass.
        global_randomness: held while a pass runs.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        config: PlacedConfig,
        autocast: torch.dtype | None,
        captured: Capture,
        num_samples: int,
        cut: Cut,
        stage: int,
        device: torch.device,
        collected: Callable[[], None],
        global_randomness: AbstractContextManager[object],
    ) -> None:
        self._model, self._loss, self._config, self._autocast = model, loss, config, autocast
        self._cut, self.stage, self.num_stages, self._device = cut, stage, cut.num_stages, device
        self._collected, self._global_randomness = collected, global_randomness
        self._name = type(model).__name__
        self._whole: nn.Module = captured.traced.model
        """The whole model without memory, for captures of other sizes."""
        self._buffers = Buffers(model)
        self._programs: dict[int, StageProgram] = {}
        self._add(captured, num_samples)

    @property
    def reads_data(self) -> bool:
        """Whether the stage takes batches: for inputs of the model, or for the loss."""
        return self.is_last or any(program.inputs for program in self._programs.values())

    @property
    def is_last(self) -> bool:
        """Whether the loss is computed here."""
        return self.stage == self.num_stages - 1

    def _add(self, captured: Capture, num_samples: int) -> None:
        self._programs[num_samples] = StageProgram(captured, self._cut, self.stage, self._model, self._device)

    def run(
        self,
        channel: Channel,
        fetch: Fetch,
        micro_batches: Sequence[tuple[int, int]],
        seed_of_position: Callable[[int], int],
        coefficient: float,
    ) -> Round:
        """All micro-batches, there and back; `[low, high)` of each."""
        for low, high in micro_batches:
            self.prepare(fetch, low, high)
        stepping = _Stepping(self, channel, fetch, micro_batches, seed_of_position, coefficient)
        stepping.run()
        channel.settle()
        return Round(stepping.weight, stepping.loss_sum, stepping.busy_ns)

    def prepare(self, fetch: Fetch, low: int, high: int) -> None:
        """Have a program for micro-batches of this size."""
        if high - low not in self._programs:
            self._add(captured_call(self._whole, self._loss, fetch(low, high)), high - low)

    # --- one pass ---------------------------------------------------------------------------------------------------------------------

    def program(self, num_samples: int) -> StageProgram:
        return self._programs[num_samples]

    def machine(self, num_micro_batches: int) -> StageMachine:
        return StageMachine(self._config.flushing, self.stage, self.num_stages, num_micro_batches)

    @property
    def recomputes(self) -> bool:
        """Whether nothing but what came in is kept of a forward pass."""
        return self._cut.activations == "recompute"

    def forward(self, program: StageProgram, taken: Sequence[Tensor], batch: Any, seed: int, *, learn: bool = True) -> Any:
        """The tensors for the next stage, or what the last one's loss returned.

        Args:
            learn: whether a backward pass may follow.
        """
        batch = to_device(batch, self._device)
        inputs = program.bind(self._model, *call_of(self._loss, batch, self._name)) if program.inputs else []
        with self._drawing(seed), self._precision(), self._offloading(), torch.set_grad_enabled(learn):
            out = program(self._model, taken, inputs)
            return self._loss(StandIn(self._name, lambda call: out), batch) if self.is_last else out

    @contextmanager
    def replaying(self) -> Iterator[None]:
        """The block runs passes that have been run before: buffers are afterwards as before."""
        self._buffers.save()
        try:
            yield
        finally:
            self._buffers.restore()

    def received(self, tensors: Sequence[Tensor], boundary: Boundary) -> list[Tensor]:
        """What came, on this stage's device, ready to learn from."""
        return [t.to(self._device).requires_grad_(spec.learns) for t, spec in zip(tensors, boundary.tensors, strict=True)]

    def backward(self, heads: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
        """Add the parameters' gradients."""
        with self._global_randomness:
            torch.autograd.backward(list(heads), [None if g is None else g.to(self._device) for g in gradients])
        self._collected()

    def _precision(self) -> AbstractContextManager[object]:
        return torch.autocast(self._device.type, dtype=self._autocast, enabled=self._autocast is not None)

    def _offloading(self) -> AbstractContextManager[object]:
        if self._cut.activations != "offload":
            return nullcontext()
        return torch.autograd.graph.save_on_cpu(pin_memory=self._device.type == "cuda")

    def delay(self, factor: int) -> None:
        """The declared one."""
        if self._config.stage_delay_s:
            time.sleep(factor * self._config.stage_delay_s)

    @contextmanager
    def _drawing(self, seed: int) -> Iterator[None]:
        """The block draws from this stage's stream of the seed, and the process's own generators are as before afterwards."""
        with self._global_randomness, randomness.kept(self._device):
            randomness.seed(self._device, seed + self.stage * _STREAM)
            yield


class _Kept(NamedTuple):
    """Of a micro-batch, between its passes."""

    taken: list[Tensor]
    out: Any
    """What went out, or what the loss returned; None where it is computed again."""
    again: Callable[[], Any] | None


class _Stepping:
    """One call of `Passes.run`: what is kept between passes."""

    def __init__(
        self,
        passes: Passes,
        channel: Channel,
        fetch: Fetch,
        micro_batches: Sequence[tuple[int, int]],
        seed_of_position: Callable[[int], int],
        coefficient: float,
    ) -> None:
        self._passes, self._channel, self._fetch = passes, channel, fetch
        self._micro_batches, self._seed_of_position, self._coefficient = micro_batches, seed_of_position, coefficient
        self._machine = passes.machine(len(micro_batches))
        self._programs = [passes.program(high - low) for low, high in micro_batches]
        self._expected: dict[Work, Callable[[], list[Tensor]]] = {}
        self._arrived: dict[Work, list[Tensor]] = {}
        self._kept: dict[int, _Kept] = {}
        self.weight, self.loss_sum, self.busy_ns = 0.0, 0.0, 0

    def run(self) -> None:
        commands = deque(self._machine.start())
        while commands or not self._machine.done:
            self._make_room()
            if not commands:
                (work, *_) = self._machine.coming
                self._arrived[work] = self._expected.pop(work)()
                commands.extend(self._machine.handle(Arrived(work)))
                continue
            match commands.popleft():
                case Run(work):
                    self._pass(work)
                    commands.extend(self._machine.handle(Finished(work)))
                case Send(stage, work):
                    self._channel.send(stage, _tag(work), self._arrived.pop(work))

    def _make_room(self) -> None:
        for work in self._machine.coming[:AHEAD]:
            if work in self._expected or work in self._arrived or (stage := self._giver(work)) is None:
                continue
            program = self._programs[work.microbatch]
            wanted = program.takes.tensors if work.what == "forward" else [each for each in program.gives.tensors if each.learns]
            self._expected[work] = self._channel.expect(stage, _tag(work), [Form(each.shape, each.dtype) for each in wanted])

    def _giver(self, work: Work) -> int | None:
        """The stage that what a pass needs comes from; None where it is here."""
        machine = self._machine
        stage = machine.stage - 1 if work.what == "forward" else machine.stage + 1
        return stage if 0 <= stage < machine.num_stages else None

    def _pass(self, work: Work) -> None:
        """Run it; what it sends takes the place of what it was given."""
        low, high = self._micro_batches[work.microbatch]
        program, given = self._programs[work.microbatch], self._arrived.pop(work, [])
        last = self._machine.stage == self._machine.num_stages - 1
        if work.what == "forward":
            batch = self._fetch(low, high) if last or program.inputs else None
            began_ns = time.perf_counter_ns()
            taken = self._passes.received(given, program.takes)
            self._passes.delay(1)
            seed = self._seed_of_position(low)
            out = self._passes.forward(program, taken, batch, seed, learn=not self._passes.recomputes)
            if last:
                self._count(out, high - low)
            else:
                self._arrived[work] = [tensor.detach() for tensor in out]
            again = partial(self._passes.forward, program, taken, batch, seed) if self._passes.recomputes else None
            self._kept[work.microbatch] = _Kept(taken, None if again else out, again)
        else:
            began_ns = time.perf_counter_ns()
            kept = self._kept.pop(work.microbatch)
            taken = kept.taken
            self._passes.delay(2)
            with nullcontext() if kept.again is None else self._passes.replaying():
                out = kept.out if kept.again is None else kept.again()
                heads = self._loss_of(out, high - low) if last else learning(out, program.gives)
                if heads:
                    self._passes.backward(heads, [None] if last else given)
            self._arrived[work] = gradients_of(learning(taken, program.takes))
        self.busy_ns += time.perf_counter_ns() - began_ns

    def _count(self, returned: Any, num_samples: int) -> None:
        """The loss of a micro-batch, for the books."""
        mean, weight = averages.split(returned, num_samples)
        self.weight += weight
        self.loss_sum += float(mean.detach()) * weight if weight and isinstance(mean, Tensor) else 0.0

    def _loss_of(self, returned: Any, num_samples: int) -> list[Tensor]:
        """What the last stage's backward pass begins with; nothing where no sample counts."""
        loss, weight = averages.differentiable(returned, num_samples)
        return [loss * (self._coefficient * weight)] if weight else []


def learning(tensors: Sequence[Tensor], boundary: Boundary) -> list[Tensor]:
    """Those that a gradient comes back for."""
    return [tensor for tensor, spec in zip(tensors, boundary.tensors, strict=True) if spec.learns]


def gradients_of(tensors: Sequence[Tensor]) -> list[Tensor]:
    """What goes back for them; zeros where nothing depended on one."""
    return [torch.zeros_like(tensor) if tensor.grad is None else tensor.grad for tensor in tensors]


def _tag(work: Work) -> int:
    return FIRST_TAG + 2 * work.microbatch + (work.what == "backward")

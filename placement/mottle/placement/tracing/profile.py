"""Times of a model's ops where they will run: micro-batches go through the whole graph on real numbers, there and back.

Beside `measure`, which runs each distinct op by itself and so wants no room for the model, this one sees what an op finds in the caches
and leaves to the allocator, what adding to a gradient that is there already costs, and the loss. On a processor that is the difference
between a prediction and a guess: an op that is repeated alone has everything at hand.

In the backward pass a clock is read behind every node of autograd's graph, and the time since the one before goes to the op that made it.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from mottle.core.errors import ConfigError
from mottle.placement.execution.program import settled
from mottle.placement.tracing.capture import Capture
from mottle.placement.tracing.example import Example
from mottle.placement.tracing.problems import Times
from mottle.placement.tracing.trace import Traced
from mottle.placement.tracing.values import call, tensors_in

LOSS = "loss"
"""Beside the units."""


class Profile(NamedTuple):
    """Nanoseconds, medians over micro-batches."""

    units: Mapping[str, Times]
    loss: Times


def profile(
    captured: Capture,
    model: nn.Module,
    example: Example,
    loss: Callable[[Any], Tensor],
    device: str | torch.device = "cpu",
    *,
    repeats: int = 8,
    warm_up: int = 2,
    in_flight: int = 2,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> Profile:
    """Run a micro-batch through the model `warm_up + repeats` times.

    Args:
        model: what was captured, on the device. Its buffers change as in training; gradients are made, added to and left as they were.
        example: arguments of one call, with values.
        loss: what is differentiated, from the model's answer.
        in_flight: micro-batches that have gone forward before the first goes back, as in a pipeline.
    Raises:
        ConfigError: the model was watched: it has no graph; or it is in evaluation mode.
    """
    traced = captured.traced
    if not isinstance(traced, Traced):
        raise ConfigError("a model that was watched while it ran has no graph to profile: leave its times to the roofline")
    if not traced.training:
        raise ConfigError("a profile is of training: capture the model in training mode")
    run = _Run(captured, traced, model, torch.device(device), clock_ns)
    inputs = traced.bind(model, example.args, example.kwargs)
    kept = {name: parameter.grad for name, parameter in model.named_parameters()}
    try:
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        rounds = -(-(warm_up + repeats) // in_flight)
        for _ in range(rounds):
            heads = [run.forward(inputs, loss) for _ in range(in_flight)]
            for head in heads:
                run.backward(head)
    finally:
        for name, parameter in model.named_parameters():
            parameter.grad = kept[name]
    return run.result(warm_up)


class _Run:
    """The graph, and what every pass through it took."""

    def __init__(self, captured: Capture, traced: Traced, model: nn.Module, device: torch.device, clock_ns: Callable[[], int]) -> None:
        self._traced, self._model, self._device, self._clock_ns = traced, model, device, clock_ns
        self._unit_of = {node: unit.id for unit in captured.units for node in unit.nodes}
        self._units = [unit.id for unit in captured.units]
        self._constants = {name: settled(value, device) for name, value in traced.attributes.items()}
        self._last_reads = _last_reads(traced.graph)
        self._forward: dict[str, list[int]] = defaultdict(list)
        self._backward: dict[str, list[int]] = defaultdict(list)
        self._spent: dict[str, int] = {}
        self._before_ns = 0

    def now_ns(self) -> int:
        """Once the device is done."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return self._clock_ns()

    def forward(self, inputs: Sequence[Any], loss: Callable[[Any], Tensor]) -> Tensor:
        """One micro-batch; what to differentiate."""
        values: dict[fx.Node, Any] = dict(zip(self._traced.graph.find_nodes(op="placeholder"), inputs, strict=True))
        spent: dict[str, int] = defaultdict(int)
        known: set[Any] = set()
        for node in self._traced.graph.nodes:
            if node.op == "get_attr":
                name = str(node.target)
                values[node] = self._constants[name] if name in self._constants else self._traced.attribute(name, self._model)
            elif node.op == "output":
                answer = self._traced.unflatten([values[each] if isinstance(each, fx.Node) else each for each in node.args[0]])
            elif node.op != "placeholder":
                unit = self._unit_of.get(node.name, LOSS)
                spent[unit] += self._step(node, values)
                self._watch(tensors_in(values[node]), unit, known)
        values.clear()
        began_ns = self.now_ns()
        head = loss(answer)
        spent[LOSS] += self.now_ns() - began_ns
        self._watch([head], LOSS, known)
        for unit in (*self._units, LOSS):
            self._forward[unit].append(spent[unit])
        return head

    def _step(self, node: fx.Node, values: dict[fx.Node, Any]) -> int:
        """Compute one node and let go of what nobody reads any more. Nanoseconds."""
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
        args, kwargs = fx.node.map_aggregate((args, kwargs), lambda leaf: self._device if isinstance(leaf, torch.device) else leaf)
        module = self._traced.attribute(str(node.target), self._model) if node.op == "call_module" else None
        began_ns = self.now_ns()
        values[node] = call(self._traced, node, args, kwargs) if module is None else module(*args, **kwargs)
        del args, kwargs
        for read in self._last_reads.get(node, ()):
            del values[read]
        return self.now_ns() - began_ns

    def _watch(self, tensors: Sequence[Tensor], unit: str, known: set[Any]) -> None:
        """Autograd's nodes behind these tensors that no earlier op made are of this one."""
        waiting = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
        while waiting:
            node = waiting.pop()
            if node in known:
                continue
            known.add(node)
            node.register_hook(lambda *_: self._passed(unit))
            waiting += [before for before, _ in node.next_functions if before is not None]

    def _passed(self, unit: str) -> None:
        now_ns = self.now_ns()
        self._spent[unit] += now_ns - self._before_ns
        self._before_ns = now_ns

    def backward(self, head: Tensor) -> None:
        """The way back of one micro-batch."""
        self._spent = defaultdict(int)
        self._before_ns = self.now_ns()
        head.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        for unit in (*self._units, LOSS):
            self._backward[unit].append(self._spent[unit])

    def result(self, warm_up: int) -> Profile:
        found = {
            unit: Times(statistics.median(self._forward[unit][warm_up:]), statistics.median(self._backward[unit][warm_up:]))
            for unit in (*self._units, LOSS)
        }
        loss = found.pop(LOSS)
        return Profile(found, loss)


def _last_reads(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """Node -> those that it is the last to read."""
    last: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        for read in node.all_input_nodes:
            last[read] = node
    found: dict[fx.Node, list[fx.Node]] = defaultdict(list)
    for read, node in last.items():
        if node.op != "output":
            found[node].append(read)
    return found

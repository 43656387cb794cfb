"""Times of a model's ops on a device that is here, in place of the roofline's: each distinct op is run on random numbers, one at a time.

So the model need not fit. Ops that write in place, and models that were watched, are left to the roofline.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from mottle.core.errors import ConfigError
from mottle.placement.tracing.capture import Capture
from mottle.placement.tracing.costs import signature
from mottle.placement.tracing.inplace import work_out
from mottle.placement.tracing.problems import Times
from mottle.placement.tracing.trace import Traced
from mottle.placement.tracing.values import Values, call, tensors_in, written

NOTHING = Times(0.0, 0.0)


def measure(
    captured: Capture,
    device: str | torch.device = "cpu",
    *,
    repeats: int = 10,
    warm_up: int = 3,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> dict[str, Times]:
    """Median nanoseconds of every unit, for `Capture.problem(measured={class: ...})`.

    Args:
        repeats: timed runs of each distinct op, after `warm_up` others.
    Raises:
        ConfigError: the model was watched: there is no graph whose ops could be run.
    """
    traced = captured.traced
    if not isinstance(traced, Traced):
        raise ConfigError("a model that was watched while it ran has no graph to measure op by op: leave its times to the roofline")
    values = work_out(traced)
    nodes = {node.name: node for node in traced.graph.nodes}
    stopwatch = _Stopwatch(torch.device(device), repeats, warm_up, clock_ns)
    known: dict[Any, Times] = {}
    found = {}
    for unit in captured.units:
        times = []
        for node in (nodes[name] for name in unit.nodes):
            if written(traced, node):
                break
            if node.op in ("placeholder", "get_attr") or values.is_view(node):
                continue
            key = signature(node, values.load((node.args, node.kwargs)))
            if key not in known:
                known[key] = _measure(values, node, stopwatch)
            times.append(known[key])
        else:
            found[unit.id] = Times(sum(each.forward for each in times), sum(each.backward for each in times))
    return found


class _Stopwatch:
    def __init__(self, device: torch.device, repeats: int, warm_up: int, clock_ns: Callable[[], int]) -> None:
        self.device, self.repeats, self.warm_up, self.clock_ns = device, repeats, warm_up, clock_ns

    def median(self, run: Callable[[], Any]) -> float:
        """Nanoseconds until the device is done."""
        taken = []
        for trial in range(self.warm_up + self.repeats):
            self._wait()
            start = self.clock_ns()
            run()
            self._wait()
            if trial >= self.warm_up:
                taken.append(self.clock_ns() - start)
        return float(statistics.median(taken))

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _measure(values: Values, node: fx.Node, stopwatch: _Stopwatch) -> Times:
    traced, device = values.traced, stopwatch.device
    real = pytree.tree_map(lambda leaf: _real(leaf, device), values.load((node.args, node.kwargs)))
    leaf_module = traced.attribute(str(node.target)) if node.op == "call_module" else None
    if isinstance(leaf_module, nn.Module):
        return _of_module(leaf_module, real, stopwatch, traced.training)
    args, kwargs = real
    with torch.random.fork_rng(devices=[]), torch.set_grad_enabled(traced.training):
        return _both_ways(lambda: call(traced, node, args, kwargs), tensors_in(real), stopwatch)


def _of_module(module: nn.Module, real: Any, stopwatch: _Stopwatch, training: bool) -> Times:
    """A leaf module of the twin over real tensors of the same shapes."""
    args, kwargs = real
    state = {name: _real(t, stopwatch.device) for name, t in (*module.named_parameters(), *module.named_buffers())}
    with torch.random.fork_rng(devices=[]), torch.set_grad_enabled(training):
        inputs = [*tensors_in(real), *state.values()]
        return _both_ways(lambda: torch.func.functional_call(module, state, args, kwargs), inputs, stopwatch)


def _both_ways(run: Callable[[], Any], inputs: list[Tensor], stopwatch: _Stopwatch) -> Times:
    forward = stopwatch.median(run)
    heads = [tensor for tensor in tensors_in(run()) if tensor.requires_grad]
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    if not heads or not wanted:
        return Times(forward, 0.0)
    ones = [torch.ones_like(head) for head in heads]
    backward = stopwatch.median(lambda: torch.autograd.grad(heads, wanted, ones, retain_graph=True, allow_unused=True))
    return Times(forward, backward)


def _real(leaf: Any, device: torch.device) -> Any:
    """Random numbers of a fake tensor's shape and strides; zeros for integers, which may be indices."""
    if isinstance(leaf, torch.device):
        return device
    if not isinstance(leaf, Tensor):
        return leaf
    real = torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device=device)
    if leaf.dtype.is_floating_point:
        generator = torch.Generator(device).manual_seed(0)
        real.copy_(torch.rand(leaf.shape, dtype=torch.float32, device=device, generator=generator))
    else:
        real.zero_()
    return real.requires_grad_(leaf.requires_grad)

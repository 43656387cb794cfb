"""What one op costs, from its shapes alone: FLOPs, bytes moved, and what it keeps for its backward pass.

Each distinct op is run once on fake tensors, forward and backward, under PyTorch's FLOP counter, which knows matrix products,
convolutions and attention; everything else counts by its bytes (specification 4.2).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from mottle.placement.tracing.trace import Traced
from mottle.placement.tracing.values import Values, call, storage_of, tensors_in, written

Family = Literal["matmul", "convolution", "attention"]


@dataclass(frozen=True)
class Work:
    """One pass of an op."""

    flops: Mapping[Family, int] = field(default_factory=dict)
    traffic: int = 0
    """Bytes read and written."""


@dataclass(frozen=True)
class Cost:
    """One op, forward and backward."""

    forward: Work = Work()
    backward: Work = Work()
    """Nothing where no gradient flows."""
    has_backward: bool = False
    saved_inputs: frozenset[int] = frozenset()
    """Which of the tensors it takes, counted in order, the backward pass reads again."""
    saves_outputs: bool = False
    """The backward pass reads what the op returned."""
    saved_inside: int = 0
    """Bytes kept for the backward pass that are neither taken nor returned: masks, statistics."""
    gradients: int = 0
    """Bytes of the gradients of what it takes, parameters left out."""


def num_bytes(tensor: Tensor) -> int:
    """Bytes behind a tensor; a broadcast dimension (stride 0) counts once."""
    size = tensor.element_size()
    for extent, stride in zip(tensor.shape, tensor.stride(), strict=True):
        size *= extent if stride or not extent else 1
    return size


class Costs:
    """Cost of every node of a graph whose values are known; equal ops are costed once."""

    def __init__(self, values: Values) -> None:
        self.values = values
        self._known: dict[Any, Cost] = {}

    def of(self, node: fx.Node) -> Cost:
        """The cost of one node; nothing for views, inputs and parameters."""
        if node.op in ("placeholder", "get_attr", "output") or (self.values.is_view(node) and not written(self.values.traced, node)):
            return Cost()
        args, kwargs = self.values.load((node.args, node.kwargs))
        key = signature(node, (args, kwargs))
        if key not in self._known:
            self._known[key] = self._run(node, args, kwargs)
        return self._known[key]

    def _run(self, node: fx.Node, args: Any, kwargs: Any) -> Cost:
        traced = self.values.traced
        return cost_of(
            lambda args, kwargs: call(traced, node, args, kwargs),
            args,
            kwargs,
            inside=_inside(traced, node),
            mode=traced.mode,
            differentiable=traced.training and not written(traced, node),
        )


def signature(node: fx.Node, arguments: Any) -> Any:
    """What equal ops have in common: the function, and the arguments with shapes in place of tensors."""
    leaves, spec = pytree.tree_flatten(arguments)
    shapes = tuple(
        (leaf.shape, leaf.stride(), leaf.dtype, leaf.requires_grad, isinstance(leaf, nn.Parameter))
        if isinstance(leaf, Tensor)
        else repr(leaf)
        for leaf in leaves
    )
    return (node.op, str(node.target), str(spec), shapes)


def cost_of(
    function: Callable[[Any, Any], Any],
    args: Any,
    kwargs: Any,
    *,
    inside: Sequence[Tensor] = (),
    mode: FakeTensorMode,
    differentiable: bool = True,
) -> Cost:
    """Cost of one function of fake tensors.

    Args:
        inside: parameters and buffers that it reads without being given them.
        differentiable: False: no backward pass, as in evaluation (and for what writes in place, whose share counts as its reading).
    """
    leaves, spec = pytree.tree_flatten((args, kwargs))
    fresh = [_detached(leaf, differentiable) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    args, kwargs = pytree.tree_unflatten(fresh, spec)
    taken, saved = tensors_in(fresh), list[Tensor]()
    with mode, torch.set_grad_enabled(differentiable), _keeping(saved):
        flops, result = _counted(lambda: function(args, kwargs))
    outputs = tensors_in(result)
    forward = Work(flops, sum(map(num_bytes, (*taken, *inside, *outputs))))
    heads = [tensor for tensor in outputs if tensor.requires_grad]
    if not differentiable or not heads:
        return Cost(forward)
    wanted = [tensor for tensor in (*taken, *inside) if tensor.requires_grad]
    with mode:
        flops, gradients = _counted(
            lambda: torch.autograd.grad(heads, wanted, [torch.empty_like(head) for head in heads], allow_unused=True)
        )
    made = {id(tensor): gradient for tensor, gradient in zip(wanted, gradients, strict=True) if gradient is not None}
    kept = {storage_of(tensor): tensor for tensor in saved}
    given, returned = [storage_of(tensor) for tensor in taken], {storage_of(tensor) for tensor in outputs}
    known = returned.union(given, map(storage_of, inside))
    return Cost(
        forward=forward,
        backward=Work(flops, sum(map(num_bytes, (*kept.values(), *heads, *made.values())))),
        has_backward=True,
        saved_inputs=frozenset(x for x, storage in enumerate(given) if storage in kept),
        saves_outputs=bool(returned & kept.keys() - set(given)),
        saved_inside=sum(num_bytes(tensor) for storage, tensor in kept.items() if storage not in known),
        gradients=sum(num_bytes(made[id(tensor)]) for tensor in taken if id(tensor) in made and not isinstance(tensor, nn.Parameter)),
    )


def _detached(tensor: Tensor, differentiable: bool) -> Tensor:
    """A leaf over the same memory, so that only this op is differentiated; parameters are leaves already."""
    if isinstance(tensor, nn.Parameter) and differentiable:
        return tensor
    return tensor.detach().requires_grad_(differentiable and tensor.requires_grad)


def _inside(traced: Traced, node: fx.Node) -> list[Tensor]:
    """Parameters and buffers inside a leaf module."""
    if node.op != "call_module":
        return []
    module: nn.Module = traced.attribute(str(node.target))
    return [*module.parameters(), *module.buffers()]


def _keeping(saved: list[Tensor]) -> torch.autograd.graph.saved_tensors_hooks:
    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    return torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)


def _counted(run: Callable[[], Any]) -> tuple[dict[Family, int], Any]:
    """FLOPs by family of what a function runs, and its result."""
    with FlopCounterMode(display=False, custom_mapping=_MORE_FORMULAS) as counter:
        result = run()
    flops: dict[Family, int] = {}
    for packet, count in counter.get_flop_counts().get("Global", {}).items():
        family = _family(str(packet))
        flops[family] = flops.get(family, 0) + int(count)
    return flops, result


def _family(packet: str) -> Family:
    if "attention" in packet:
        return "attention"
    return "convolution" if "conv" in packet else "matmul"


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]  # torch has no types for it


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))  # type: ignore[no-untyped-call]  # as above


def _recurrent(inputs: Any, w_input: Any, w_hidden: Any, *_: Any, **__: Any) -> int:
    """Two operations a weight, step and sequence."""
    return int(2 * inputs[0] * inputs[1] * (w_input[0] * w_input[1] + w_hidden[0] * w_hidden[1]))


def _recurrent_backward(inputs: Any, w_input: Any, w_hidden: Any, *_: Any, **__: Any) -> int:
    return 2 * _recurrent(inputs, w_input, w_hidden)


_MORE_FORMULAS = {  # what CPU kernels are called; the counter knows the names on other devices
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    torch.ops.aten.mkldnn_rnn_layer: _recurrent,
    torch.ops.aten.mkldnn_rnn_layer_backward: _recurrent_backward,
}

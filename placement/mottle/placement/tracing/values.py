"""Running an operator graph on fake tensors: the value of every node, and who shares memory with whom."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from mottle.placement.tracing.trace import Traced

IN_PLACE_OPERATORS: dict[Any, Callable[..., Any]] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}
"""`y += x` and its like, and what computes the same into new memory."""


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor of nested tuples, lists and dicts."""
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def storage_of(tensor: Tensor) -> int:
    """A number that two tensors share exactly when they share memory, while both are alive."""
    return int(tensor.untyped_storage()._cdata)


def storages_in(value: Any) -> set[int]:
    """The memory of every tensor in a value."""
    return {storage_of(tensor) for tensor in tensors_in(value)}


def call(traced: Traced, node: fx.Node, args: Any, kwargs: Any) -> Any:
    """What a node computes."""
    if node.op == "call_function":
        return node.target(*args, **kwargs)  # type: ignore[operator]  # a function, by the op
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    return traced.attribute(str(node.target))(*args, **kwargs)


class Values:
    """Value of every node, with autograd recording as in a training step (in the twin's mode). Keeps all of them alive."""

    def __init__(self, traced: Traced) -> None:
        self.traced = traced
        self.of: dict[fx.Node, Any] = {}
        self._inputs = dict(zip(traced.graph.find_nodes(op="placeholder"), traced.inputs, strict=True))

    def step(self, node: fx.Node) -> None:
        """Work out one node; those before it are done."""
        if node.op == "placeholder":
            self.of[node] = self._inputs[node]
        elif node.op == "get_attr":
            self.of[node] = self.traced.attribute(str(node.target))
        elif node.op != "output":
            with self.traced.mode, torch.set_grad_enabled(self.traced.training):
                self.of[node] = call(self.traced, node, self.load(node.args), self.load(node.kwargs))

    def load(self, arguments: Any) -> Any:
        """Arguments of a node with values in place of nodes."""
        return fx.node.map_arg(arguments, self.of.__getitem__)

    def is_view(self, node: fx.Node) -> bool:
        """Everything that the node returns is memory of its inputs, or it returns no tensor at all."""
        inputs = set[int]().union(*(storages_in(self.of[each]) for each in node.all_input_nodes))
        return storages_in(self.of[node]) <= inputs


def written(traced: Traced, node: fx.Node) -> list[fx.Node]:
    """Nodes whose value an op writes in place, as far as it tells. (BatchNorm writes its buffers without telling.)"""
    first = [each for each in node.args[:1] if isinstance(each, fx.Node)]
    if node.op == "call_method":
        return first if str(node.target).endswith("_") and not str(node.target).endswith("__") else []
    if node.op == "call_module":
        return first if getattr(traced.attribute(str(node.target)), "inplace", False) else []
    if node.target in IN_PLACE_OPERATORS or node.kwargs.get("inplace") is True:
        return first
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return []
    given = dict(zip([argument.name for argument in schema.arguments], node.args, strict=False)) | dict(node.kwargs)
    writes = [argument.name for argument in schema.arguments if argument.alias_info is not None and argument.alias_info.is_write]
    return [value for name in writes if isinstance(value := given.get(name), fx.Node)]

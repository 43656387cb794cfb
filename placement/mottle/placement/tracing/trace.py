"""From a module and example inputs to one operator graph: `torch.export` first, symbolic tracing second.

Either way the result is an fx graph whose placeholders are the inputs in the order of `Traced.bind`, whose `get_attr` nodes name
parameters, buffers and constants, and whose output node holds the flat outputs.
"""

import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export.graph_signature import ConstantArgument, InputKind, InputSpec
from torch.utils import _pytree as pytree

from mottle.core.errors import ConfigError
from mottle.placement.tracing.example import Example, canonical, described
from mottle.placement.tracing.twin import fake_mode, fake_tree, twin_of

Source = Literal["export", "fx", "modules"]


@dataclass(frozen=True, eq=False)
class Traced:
    """One operator graph of a model, and how calls map onto it."""

    source: Source
    """What made it: `export` gives ATen ops, `fx` gives leaf modules and functions."""
    reasons: tuple[str, ...]
    """Why the sources before it would not do."""
    model: nn.Module
    """The twin: fake tensors under the names of the real ones."""
    graph: fx.Graph
    attributes: Mapping[str, Any]
    """What `get_attr` names beside the model's own parameters and buffers: constants and subgraphs."""
    mode: FakeTensorMode
    call: Example
    """The example, on fake tensors."""
    inputs: tuple[Any, ...]
    """A fake tensor or plain value for each placeholder."""
    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec
    training: bool

    def attribute(self, target: str, model: nn.Module | None = None) -> Any:
        """What a `get_attr` or `call_module` node names, of the twin or of another module of the same structure."""
        if target in self.attributes:
            return self.attributes[target]
        found: Any = self.model if model is None else model
        for part in target.split("."):
            found = getattr(found, part)
        return found

    def bind(self, model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """Values of the placeholders for a call.

        Raises:
            ConfigError: the call differs from the example in structure, shape, dtype, or a value that the graph has fixed.
        """
        flat, spec = flatten_call(self.source, model, args, kwargs)
        if spec != self.in_spec:
            raise ConfigError(f"the model was captured for arguments of the form {self.in_spec}; got {spec}: capture it for this call")
        faults = []
        for node, want, value in zip(self.graph.find_nodes(op="placeholder"), self.inputs, flat, strict=True):
            if isinstance(want, Tensor):
                fits = isinstance(value, Tensor) and value.shape == want.shape and value.dtype == want.dtype
            else:
                fits = type(value) is type(want) and value == want
            if not fits:
                faults.append(f"input {node.name!r} was captured as {described(want)}; got {described(value)}")
        if faults:
            raise ConfigError("; ".join(faults) + ": capture the model for these inputs, or pad them")
        return flat

    def unflatten(self, outputs: Sequence[Any]) -> Any:
        """The model's answer from the flat outputs."""
        return pytree.tree_unflatten(list(outputs), self.out_spec)


def flatten_call(source: Source, model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], pytree.TreeSpec]:
    """The leaves of a call, in the order of the placeholders: every leaf for `export`, every parameter of `forward` for `fx`."""
    call = canonical(model, args, kwargs)
    if source == "export":
        return pytree.tree_flatten((call.args, call.kwargs))
    bound = inspect.signature(model.forward).bind(*call.args, **call.kwargs)
    bound.apply_defaults()
    return list(bound.arguments.values()), pytree.tree_structure([None] * len(bound.arguments))


class NoGraphError(ConfigError):
    """No tracer gets a static graph out of a model. `reasons` has one line for each."""

    def __init__(self, model: nn.Module, reasons: Sequence[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__(f"{type(model).__name__} has no static graph: " + "; ".join(reasons))


def trace(model: nn.Module, example: Example, *, source: Source | None = None) -> Traced:
    """The operator graph of a model in its present mode (training or evaluation).

    Args:
        source: `export` or `fx`: only this one; None: the first that serves.
    Raises:
        NoGraphError: none serves.
    """
    call = canonical(model, example.args, example.kwargs)
    reasons: list[str] = []
    for name, tracer in (("export", _export), ("fx", _symbolic)):
        if source not in (None, name):
            continue
        mode = fake_mode()
        twin = twin_of(model, mode)
        try:
            return tracer(twin, Example(*fake_tree(tuple(call), mode)), mode, tuple(reasons))
        except Exception as error:  # both run any code of the user's model; what they raise is no closed list
            reasons.append(f"{name}: {type(error).__name__}: {_first_line(error)}")
    raise NoGraphError(model, reasons)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")


def _export(twin: nn.Module, call: Example, mode: FakeTensorMode, reasons: tuple[str, ...]) -> Traced:
    with _hushed():
        program = torch.export.export(twin, call.args, call.kwargs, strict=False)
    graph, inputs = program.graph_module.graph, []
    buffers = {name for name, _ in twin.named_buffers()}  # those that are not saved are among the program's constants, too
    attributes: dict[str, Any] = {name: value for name, value in program.constants.items() if name not in buffers}
    leaves = iter(pytree.tree_leaves((call.args, call.kwargs)))
    for node, spec in zip(graph.find_nodes(op="placeholder"), program.graph_signature.input_specs, strict=True):
        if spec.kind is InputKind.USER_INPUT:
            leaf = next(leaves)
            inputs.append(leaf)
            if isinstance(spec.arg, ConstantArgument) and not isinstance(leaf, Tensor):
                node.replace_all_uses_with(leaf)
            continue
        _lift(graph, node, spec)
    for node in graph.find_nodes(op="get_attr"):
        if hasattr(program.graph_module, node.target):
            attributes[node.target] = getattr(program.graph_module, node.target)
    return Traced(
        "export",
        reasons,
        twin,
        graph,
        attributes,
        mode,
        call,
        tuple(inputs),
        program.call_spec.in_spec,
        program.call_spec.out_spec,
        twin.training,
    )


@contextmanager
def _hushed() -> Iterator[None]:
    """Without the tracer's warnings about attributes that modules cache, and the pages that it logs and prints before it raises."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _lift(graph: fx.Graph, node: fx.Node, spec: InputSpec) -> None:
    """A parameter, buffer or constant that came as a placeholder becomes an attribute again."""
    if spec.kind not in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
        raise ConfigError(f"input {node.name!r} of the exported graph is a {spec.kind.name}, which placement does not know")
    with graph.inserting_before(node):
        attribute = graph.create_node("get_attr", str(spec.target), name=node.name)
    attribute.meta = dict(node.meta)
    node.replace_all_uses_with(attribute)
    graph.erase_node(node)


def _symbolic(twin: nn.Module, call: Example, mode: FakeTensorMode, reasons: tuple[str, ...]) -> Traced:
    graph = fx.Tracer().trace(twin)
    inputs, in_spec = flatten_call("fx", twin, call.args, call.kwargs)
    placeholders = graph.find_nodes(op="placeholder")
    if len(placeholders) != len(inputs):
        raise ConfigError("forward takes *args or **kwargs")
    output = next(iter(graph.find_nodes(op="output")))
    flat, out_spec = pytree.tree_flatten(_plain(output.args[0]))
    output.args = (tuple(flat),)
    return Traced("fx", reasons, twin, graph, {}, mode, call, tuple(inputs), in_spec, out_spec, twin.training)


def _plain(value: Any) -> Any:
    """The immutable lists and dicts of an fx graph as ordinary ones, which is what the model returns."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return tuple(_plain(item) for item in value) if type(value) is tuple else value

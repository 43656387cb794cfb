"""One stage of a captured model as a function of what the stage before gives, the model's inputs, and the weights that it reads.

Ops keep the order of the source. A value that a later stage reads is handed from stage to stage until there.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from mottle.core.errors import ConfigError
from mottle.placement.execution.program import settled
from mottle.placement.staging.cutting import Cut, graph_of
from mottle.placement.tracing.capture import Capture
from mottle.placement.tracing.inplace import work_out
from mottle.placement.tracing.trace import Traced
from mottle.placement.tracing.values import Values, tensors_in

_EVERYWHERE = ("placeholder", "get_attr")


class Spec(NamedTuple):
    """A tensor that is about to come."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    learns: bool
    """A gradient goes back for it."""


class Boundary(NamedTuple):
    """What passes from a stage to the next one for a microbatch: the tensors of these nodes, in order."""

    nodes: tuple[str, ...]
    tensors: tuple[Spec, ...]


class StageProgram:
    """Runs one stage on the state of a module.

    Args:
        captured: of a microbatch of the very size that it will be called with.
        stage: which one.
        model: where leaf modules are taken from, if the graph calls any.
        device: of the stage.
    Raises:
        ConfigError: the capture has other ops than the one that was cut.
    """

    def __init__(self, captured: Capture, cut: Cut, stage: int, model: nn.Module, device: torch.device) -> None:
        self._traced = graph_of(captured)
        values = work_out(self._traced)
        self._writer = writer = _Writer(self._traced, values, stages_of(captured, cut), stage, cut.num_stages, device)
        self.takes, self.gives = writer.boundary(stage - 1), writer.boundary(stage)
        graph = writer.write()
        self.inputs: tuple[str, ...] = tuple(writer.inputs)
        """Placeholders of the model that this stage reads."""
        self._last = stage == cut.num_stages - 1
        self._run: Callable[..., Sequence[Any]] = fx.GraphModule(model, graph)

    def bind(self, model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """The model's inputs that this stage reads, from a call of the whole model.

        Raises:
            ConfigError: as `Traced.bind`.
        """
        named = zip(self._traced.graph.find_nodes(op="placeholder"), self._traced.bind(model, args, kwargs), strict=True)
        values = {node.name: value for node, value in named}
        return [values[name] for name in self.inputs]

    def __call__(self, model: nn.Module, taken: Sequence[Tensor], inputs: Sequence[Any]) -> Any:
        """The tensors for the next stage, or the model's answer from the last one."""
        writer = self._writer
        state = [writer.constants[name] if name in writer.constants else self._traced.attribute(name, model) for name in writer.state]
        out = self._run(*taken, *inputs, *state)
        return self._traced.unflatten(out) if self._last else list(out)


def stages_of(captured: Capture, cut: Cut) -> dict[str, int]:
    """Stage of every node that is computed.

    Raises:
        ConfigError: the capture has other ops than the one that was cut.
    """
    known = {unit.id for unit in captured.units}
    if known != set(cut.stage_of):
        differing = sorted(known ^ set(cut.stage_of))
        raise ConfigError(
            f"the model has other ops for this many samples than for those it was cut with ({', '.join(differing[:3])}, ...): pick batch "
            "sizes that the micro-batches divide, or train it in one piece"
        )
    return {node: cut.stage_of[unit.id] for unit in captured.units for node in unit.nodes}


def attributes_of(captured: Capture, cut: Cut) -> list[set[int]]:
    """`id` of every parameter and buffer of the capture's twin that a stage reads, by stage."""
    traced, stage_of = graph_of(captured), stages_of(captured, cut)
    found: list[set[int]] = [set() for _ in range(cut.num_stages)]
    for node in traced.graph.nodes:
        for user in (node, *node.users):
            if user.name not in stage_of:
                continue
            if node.op == "get_attr" and (user is not node or not node.users):
                found[stage_of[user.name]] |= {id(tensor) for tensor in tensors_in(traced.attribute(str(node.target)))}
        if node.op == "call_module":
            module: nn.Module = traced.attribute(str(node.target))
            found[stage_of[node.name]] |= {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
    return found


class _Writer:
    """Copies the nodes of a stage into a graph of their own."""

    def __init__(
        self, traced: Traced, values: Values, stage_of: Mapping[str, int], stage: int, num_stages: int, device: torch.device
    ) -> None:
        self.traced, self.values, self.stage, self.device = traced, values, stage, device
        self.num_stages = num_stages
        self.nodes = {node.name: node for node in traced.graph.nodes}
        self.home = {name: s for name, s in stage_of.items() if self.nodes[name].op not in _EVERYWHERE}
        self.reach = {name: self._reach(self.nodes[name]) for name in self.home}
        self.graph = fx.Graph()
        self.inputs: list[str] = []
        self.state: list[str] = []
        self.constants: dict[str, Any] = {}
        self._copies: dict[fx.Node, Any] = {}

    def _reach(self, node: fx.Node) -> int:
        """The last stage that reads a node."""
        return max(
            (self.num_stages - 1 if user.op == "output" else self.home[user.name] for user in node.users), default=self.home[node.name]
        )

    def boundary(self, behind: int) -> Boundary:
        """What passes behind a stage."""
        crossing = [name for name in self.nodes if name in self.home and self.home[name] <= behind < self.reach[name]]
        tensors = [tensor for name in crossing for tensor in tensors_in(self.values.of[self.nodes[name]])]
        return Boundary(
            tuple(crossing),
            tuple(Spec(tuple(t.shape), t.dtype, t.requires_grad and t.dtype.is_floating_point) for t in tensors),
        )

    def write(self) -> fx.Graph:
        """Placeholders: tensors of the boundary before, inputs, state. Output: tensors of the boundary behind, or the answer."""
        self._take(self.boundary(self.stage - 1).nodes)
        mine = [node for node in self.traced.graph.nodes if self.home.get(node.name) == self.stage]
        last = self.stage == self.num_stages - 1
        output = next(iter(self.traced.graph.find_nodes(op="output")))
        read = {each for node in mine for each in node.all_input_nodes} | (set(output.all_input_nodes) if last else set())
        for op, names in (("placeholder", self.inputs), ("get_attr", self.state)):
            for node in self.traced.graph.find_nodes(op=op):
                if node in read:
                    names.append(node.name if op == "placeholder" else str(node.target))
                    self._copies[node] = self.graph.placeholder(node.name)
                if node in read and node.target in self.traced.attributes:
                    self.constants[str(node.target)] = settled(self.traced.attributes[str(node.target)], self.device)
        for node in mine:
            self._compute(node)
        if last:
            self.graph.output(tuple(fx.node.map_arg(output.args[0], self._copies.__getitem__)))
        else:
            self.graph.output(tuple(leaf for name in self.boundary(self.stage).nodes for leaf in self._leaves(name)))
        self.graph.lint()
        return self.graph

    def _take(self, names: Sequence[str]) -> None:
        """Values of several tensors are put together again out of them."""
        for name in names:
            leaves, spec = pytree.tree_flatten(self.values.of[self.nodes[name]])
            copies = [self.graph.placeholder(f"{name}_{x}") if isinstance(leaf, Tensor) else leaf for x, leaf in enumerate(leaves)]
            self._copies[self.nodes[name]] = pytree.tree_unflatten(copies, spec)

    def _compute(self, node: fx.Node) -> None:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._copies.__getitem__)
        args, kwargs = fx.node.map_aggregate((args, kwargs), lambda leaf: self.device if isinstance(leaf, torch.device) else leaf)
        self._copies[node] = self.graph.create_node(node.op, node.target, args, kwargs, name=node.name)

    def _leaves(self, name: str) -> list[Any]:
        """The tensors of a value, each as a node."""
        node = self.nodes[name]
        value, copy = self.values.of[node], self._copies[node]
        if isinstance(value, Tensor) or not isinstance(copy, fx.Node):
            return [leaf for leaf in pytree.tree_leaves(copy) if isinstance(leaf, fx.Node)]
        if not isinstance(value, tuple | list) or not all(isinstance(each, Tensor) for each in value):
            raise ConfigError(
                f"what {name!r} returns ({type(value).__name__}) cannot be sent to another stage; train the model in one piece"
            )
        return [self.graph.call_function(_item, (copy, x)) for x in range(len(value))]


def _item(value: Any, x: int) -> Any:
    return value[x]

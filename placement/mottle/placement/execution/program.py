"""A captured graph with every op on its device: one function whose copies between devices are ops like the others.

Ops keep the order of the source, so that random numbers are drawn in the same order as without a placement, and what is written in place
is read at the same moments. A value goes to each device at most once, as soon as it exists.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from mottle.placement.execution.regions import Marked, Region, fold
from mottle.placement.execution.targets import Target
from mottle.placement.tracing.trace import Traced
from mottle.placement.tracing.units import writes_buffers
from mottle.placement.tracing.values import written


class Move(NamedTuple):
    """A copy that a program makes, by node name."""

    node: str
    src: str
    dst: str


class Program:
    """Runs a traced graph on the state of a module.

    Args:
        home: node -> device id, for every node that belongs to a unit.
        model: where leaf modules are taken from, if the graph calls any.
        output: where the results go.
        regions: what is recomputed or offloaded.
    """

    def __init__(
        self,
        traced: Traced,
        home: Mapping[str, str],
        targets: Mapping[str, Target],
        model: nn.Module,
        output: torch.device,
        regions: Sequence[Region] = (),
    ) -> None:
        self.traced = traced
        writer = _Writer(traced, home, targets, output)
        graph = writer.write()
        if regions:
            graph = fold(graph, [writer.mark(region) for region in regions], model)
        self.moves = tuple(writer.moves)
        self._state, self._constants = writer.state, writer.constants
        self._run: Callable[..., Sequence[Any]] = fx.GraphModule(model, graph)

    def __call__(self, model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The model's answer, computed on its devices."""
        inputs = self.traced.bind(model, args, kwargs)
        state = [self._constants[name] if name in self._constants else self.traced.attribute(name, model) for name in self._state]
        return self.traced.unflatten(self._run(*inputs, *state))


class _Writer:
    """Copies a graph node by node, with moves in between."""

    def __init__(self, traced: Traced, home: Mapping[str, str], targets: Mapping[str, Target], output: torch.device) -> None:
        self.traced, self.home, self.targets, self.output = traced, home, targets, output
        self.graph = fx.Graph()
        self.copies: dict[tuple[fx.Node, str], fx.Node] = {}
        self.moves: list[Move] = []
        self.state: list[str] = []
        self.constants: dict[str, Any] = {}
        self.made: dict[str, fx.Node] = {}
        self.sources: set[fx.Node] = set()

    def write(self) -> fx.Graph:
        nodes = self.traced.graph.nodes
        sources = [node for op in ("placeholder", "get_attr") for node in nodes if node.op == op]
        arrived = {node: self.graph.placeholder(node.name) for node in sources}
        for node, copy in arrived.items():
            (self._arrive if node.op == "placeholder" else self._fetch)(node, copy)
        for node in nodes:
            if node.op == "output":
                self.graph.output(tuple(self._returned(each) for each in node.args[0]))
            elif node.op not in ("placeholder", "get_attr"):
                self._compute(node)
        self.graph.lint()
        return self.graph

    def _arrive(self, node: fx.Node, copy: fx.Node) -> None:
        """Inputs come from anywhere: their first stop is the device that the plan gave them."""
        if node.name in self.home:
            target = self.targets[self.home[node.name]]
            self._keep(node, self.graph.call_function(_on, (copy, target.device)), target.id)
        else:
            self._everywhere(node, copy)

    def _fetch(self, node: fx.Node, copy: fx.Node) -> None:
        """State is where its users are; what several devices read has a home, and travels from there."""
        name = str(node.target)
        self.state.append(name)
        self.sources.add(copy)
        readers = [self.home[user.name] for user in node.users if user.name in self.home]
        home = self.home.get(node.name, readers[0] if readers else next(iter(self.targets)))
        if name in self.traced.attributes:
            self.constants[name] = settled(self.traced.attributes[name], self.targets[home].device)
        if node.name in self.home:
            self._keep(node, copy, home)
        else:
            self._everywhere(node, copy)

    def _compute(self, node: fx.Node) -> None:
        home = self.home[node.name]
        device = self.targets[home].device
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda each: self.copies[each, home])
        args, kwargs = fx.node.map_aggregate((args, kwargs), lambda leaf: device if isinstance(leaf, torch.device) else leaf)
        self.made[node.name] = self.graph.create_node(node.op, node.target, args, kwargs, name=node.name)
        self._keep(node, self.made[node.name], home)

    def mark(self, region: Region) -> Marked:
        """A region in the graph that was written, with the copies between its own nodes."""
        nodes = {self.made[name] for name in region.nodes if name in self.made}
        copies = {node for node in self.graph.nodes if node.args[:1] and node.args[0] in nodes and node.users.keys() & nodes}
        of_source = {self.made[node.name]: node for node in self.traced.graph.nodes if node.name in self.made}
        writers = [node for node in nodes if (source := of_source[node]) and (written(self.traced, source) or writes_buffers(source))]
        return Marked(
            region,
            frozenset(nodes | copies),
            frozenset({each for node in writers for each in node.all_input_nodes} & self.sources),
            frozenset(self.sources),
        )

    def _keep(self, node: fx.Node, copy: fx.Node, home: str) -> None:
        """Remember a value, and send it to every other device that wants it."""
        self.copies[node, home] = copy
        for name in dict.fromkeys(self.home[user.name] for user in node.users if user.op != "output"):
            if name != home:
                self.copies[node, name] = self.graph.call_function(self.targets[name].take, (copy,))
                self.moves.append(Move(node.name, home, name))

    def _everywhere(self, node: fx.Node, copy: fx.Node) -> None:
        """A plain value, or state all of whose users are where it is."""
        for name in self.targets:
            self.copies[node, name] = copy

    def _returned(self, value: Any) -> Any:
        if not isinstance(value, fx.Node):
            return value
        home = self.home.get(value.name, next(iter(self.targets)))
        return self.graph.call_function(_on, (self.copies[value, home], self.output))


def _on(value: Any, device: torch.device) -> Any:
    """The value itself where it is on the device already."""
    return value.to(device) if isinstance(value, Tensor) and value.device != device else value


def settled(value: Any, device: torch.device) -> Any:
    """A constant on a device; a subgraph with its devices replaced."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, fx.GraphModule):
        graph = fx.Graph()
        graph.output(graph.graph_copy(value.graph, {}))
        for node in graph.nodes:
            node.args, node.kwargs = fx.node.map_aggregate(
                (node.args, node.kwargs), lambda leaf: device if isinstance(leaf, torch.device) else leaf
            )
        return fx.GraphModule(value, graph)
    return value

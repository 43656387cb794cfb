"""From graph nodes to the ops that are placed: views folded into what they look at, constants into what uses them, groups for shared state.

Colocation (specification 3.2, cleaning): every user of a parameter is in one group, tied ones included; so are the users of a buffer that
somebody writes, and everything that touches memory written in place. A buffer that is only read by several ops is an op of its own, and
copies of it travel like any tensor.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from torch import Tensor, fx, nn

from mottle.placement.tracing.costs import Cost, Costs, Work, num_bytes
from mottle.placement.tracing.trace import Traced
from mottle.placement.tracing.values import Values, storage_of, storages_in, tensors_in, written

WRITES_BUFFERS = ("batch_norm", "instance_norm")
"""Ops that write buffers without saying so in their schema."""


def writes_buffers(node: fx.Node) -> bool:
    """Whether the op writes statistics into buffers that it is given."""
    return any(word in str(node.target) for word in WRITES_BUFFERS)


class Flow(NamedTuple):
    """A value that one unit takes from another."""

    producer: str
    node: str
    bytes: int
    differentiable: bool
    """A gradient of the same size comes back in training."""
    saved: bool
    """The consumer's backward pass reads it again."""


@dataclass(frozen=True)
class State:
    """Bytes that live on a unit's device from step to step."""

    trainable: int = 0
    trainable_values: int = 0
    """Numbers in the trainable parameters, whatever their width."""
    frozen: int = 0
    """Parameters without gradient, and buffers."""


@dataclass(frozen=True)
class Unit:
    """One op to be placed: a node of the graph with the views and constants around it."""

    id: str
    nodes: tuple[str, ...]
    group: str | None
    inputs: tuple[Flow, ...]
    cost: Cost
    """Forward and backward work of all nodes together; `saved_inputs` is in `inputs` instead."""
    state: State
    out: int
    """Bytes of new tensors that it returns."""
    dtype: str
    """Of its first result: which of a device's rates applies."""
    kind: str
    """The op's name, `input` for an input of the model."""
    repeatable: bool = False
    """Run again on the same inputs it gives the same, and leaves nothing behind but BatchNorm's statistics and counts."""


def build_units(traced: Traced, values: Values) -> tuple[Unit, ...]:
    """Units in the order of the graph."""
    return _Builder(traced, values).units()


class _Builder:
    def __init__(self, traced: Traced, values: Values) -> None:
        self.traced, self.values, self.costs = traced, values, Costs(values)
        self.owned = self._owned_storages()
        self.unsteady = self._unsteady_storages()
        self.unit_of: dict[fx.Node, int] = {}
        self.nodes: dict[int, list[fx.Node]] = {}
        self.main: dict[int, fx.Node] = {}
        for node in traced.graph.nodes:
            self._assign(node)
        self.order = {node: x for x, node in enumerate(traced.graph.nodes)}
        self._fold_bookkeeping()
        self._fold_constants()
        self.parent = {u: u for u in self.nodes}
        self._group_state()

    def units(self) -> tuple[Unit, ...]:
        """All units, in the order of their main nodes."""
        roots: dict[int, list[int]] = defaultdict(list)
        for u in self.nodes:
            roots[self._root(u)].append(u)
        names = {u: _name(self.main[u]) for u in self.nodes}
        groups = {u: names[root] for root, members in roots.items() if len(members) > 1 for u in members}
        seen: set[int] = set()
        return tuple(self._unit(u, names, groups.get(u), seen) for u in self.nodes)

    # --- nodes to units -----------------------------------------------------------------------------------------

    def _owned_storages(self) -> dict[int, Tensor]:
        """Memory of parameters and of buffers that cannot travel: used by one op only, or written by somebody."""
        model = self.traced.model
        owned: dict[int, Tensor] = {storage_of(parameter): parameter for parameter in model.parameters()}
        users: dict[int, set[fx.Node]] = defaultdict(set)
        fixed: set[int] = set()
        for node in self.traced.graph.find_nodes(op="get_attr"):
            for storage in storages_in(self.values.of[node]):
                users[storage] |= node.users.keys()
        for node in self.traced.graph.nodes:
            if writes_buffers(node):
                fixed |= {storage for each in node.all_input_nodes for storage in storages_in(self.values.of[each])}
            for target in written(self.traced, node):
                fixed |= storages_in(self.values.of[target])
        for buffer in model.buffers():
            storage = storage_of(buffer)
            if storage in fixed or len(users[storage]) <= 1:
                owned[storage] = buffer
        return owned

    def _unsteady_storages(self) -> set[int]:
        """Memory that is written in place and read by others: what they read again later is something else.

        Not among it is what only BatchNorm reads, whose results do not depend on it in training, or what nobody reads (a count).
        """
        nodes = list(self.traced.graph.nodes)
        writers = {
            node: set[int]().union(*(storages_in(self.values.of[each]) for each in targets))
            for node in nodes
            if (targets := written(self.traced, node))
        }
        buffers = {storage_of(buffer) for buffer in self.traced.model.buffers()}
        everything = set[int]().union(*writers.values())
        unsteady = everything - buffers
        for node in nodes:
            silent = writes_buffers(node) or (node in writers and not node.users)
            if node.op not in ("placeholder", "get_attr") and not silent:
                unsteady |= everything & set[int]().union(*(storages_in(self.values.of[each]) for each in node.all_input_nodes))
        return unsteady

    def _repeatable(self, nodes: list[fx.Node], main: fx.Node) -> bool:
        if main.op in ("placeholder", "get_attr"):
            return False
        if any(node.op == "call_module" and any(True for _ in self.traced.attribute(str(node.target)).buffers()) for node in nodes):
            return False  # it writes them where nobody can put others in their place
        return not self.unsteady & set[int]().union(*(storages_in(self.values.of[each]) for each in (*nodes, *_inputs(nodes))))

    def _assign(self, node: fx.Node) -> None:
        if node.op == "output" or (node.op in ("placeholder", "get_attr") and not self._travels(node)):
            return
        producers = {self.unit_of[each] for each in node.all_input_nodes if each in self.unit_of}
        if (
            len(producers) == 1
            and not written(self.traced, node)
            and node.op not in ("placeholder", "get_attr")
            and self.values.is_view(node)
        ):
            (u,) = producers
        else:
            u = len(self.nodes)
            self.nodes[u], self.main[u] = [], node
        self.nodes[u].append(node)
        self.unit_of[node] = u

    def _travels(self, node: fx.Node) -> bool:
        """An input, or a constant or buffer that several ops read: a tensor that is nobody's own."""
        value = self.values.of[node]
        return isinstance(value, Tensor) and storage_of(value) not in self.owned

    def _fold_constants(self) -> None:
        """A unit without inputs joins its consumer when it has just one: no cycle can come of that."""
        for u in reversed(list(self.nodes)):
            if self.main[u].op == "placeholder" or any(each in self.unit_of for each in self.main[u].all_input_nodes) or self._state_of(u):
                continue
            consumers = self._consumers(u)
            if len(consumers) == 1:
                self._join(u, consumers.pop())

    def _fold_bookkeeping(self) -> None:
        """What neither takes nor gives a value (BatchNorm's count of batches) joins the next unit of its module."""
        units = list(self.nodes)
        for u, after in pairwise(units):
            isolated = not any(each in self.unit_of for each in _inputs(self.nodes[u])) and not self._consumers(u)
            if isolated and self.main[u].op != "placeholder" and _path(self.main[u]) == _path(self.main[after]):
                self._join(u, after)

    def _join(self, u: int, into: int) -> None:
        for node in self.nodes[u]:
            self.unit_of[node] = into
        self.nodes[into] = sorted([*self.nodes.pop(u), *self.nodes[into]], key=self.order.__getitem__)

    def _consumers(self, u: int) -> set[int]:
        return {self.unit_of[user] for node in self.nodes[u] for user in node.users if user in self.unit_of} - {u}

    # --- groups -------------------------------------------------------------------------------------------------

    def _group_state(self) -> None:
        written_to = {
            s for node in self.traced.graph.nodes for target in written(self.traced, node) for s in storages_in(self.values.of[target])
        }
        together: dict[int, list[int]] = defaultdict(list)
        for u, nodes in self.nodes.items():
            for storage in self._state_of(u):
                together[storage].append(u)
            for storage in written_to & set[int]().union(*(storages_in(self.values.of[n]) for n in (*nodes, *_inputs(nodes)))):
                together[storage].append(u)
            is_source = self.main[u].op != "placeholder" and not any(each in self.unit_of for each in _inputs(nodes) - set(nodes))
            if is_source and (consumers := self._consumers(u)) and not self._state_of(u):
                together[-1 - u] = [u, min(consumers)]
        for members in together.values():
            for u in members[1:]:
                a, b = self._root(members[0]), self._root(u)
                self.parent[max(a, b)] = min(a, b)

    def _state_of(self, u: int) -> dict[int, Tensor]:
        """Parameters and fixed buffers that the nodes of a unit take, by memory."""
        taken: dict[int, Tensor] = {}
        for node in self.nodes[u]:
            for each in node.all_input_nodes:
                taken |= {s: self.owned[s] for s in storages_in(self.values.of[each]) if s in self.owned}
            if node.op == "call_module":
                module: nn.Module = self.traced.attribute(str(node.target))
                taken |= {storage_of(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
        return taken

    def _root(self, u: int) -> int:
        while self.parent[u] != u:
            u = self.parent[u]
        return u

    # --- one unit -----------------------------------------------------------------------------------------------

    def _unit(self, u: int, names: dict[int, str], group: str | None, seen: set[int]) -> Unit:
        nodes, main = self.nodes[u], self.main[u]
        costs = {node: self.costs.of(node) for node in nodes}
        mine = {storage: tensor for storage, tensor in self._state_of(u).items() if storage not in seen}
        seen.update(mine)
        state = state_of(mine.values())
        if main.op == "get_attr":
            state = State(frozen=num_bytes(self.values.of[main]))
        return Unit(
            id=names[u],
            nodes=tuple(node.name for node in nodes),
            group=group,
            inputs=self._flows(u, names, costs),
            cost=_together(costs.values()),
            state=state,
            out=0 if main.op == "get_attr" else self._new_bytes(nodes),
            dtype=next((str(tensor.dtype).removeprefix("torch.") for tensor in tensors_in(self.values.of[main])), "float32"),
            kind="input" if main.op == "placeholder" else _kind(main),
            repeatable=self._repeatable(nodes, main),
        )

    def _flows(self, u: int, names: dict[int, str], costs: dict[fx.Node, Cost]) -> tuple[Flow, ...]:
        flows: dict[str, Flow] = {}
        for node in self.nodes[u]:
            taken = tensors_in(self.values.load((node.args, node.kwargs)))
            read_again = {storage_of(taken[x]) for x in costs[node].saved_inputs}
            for each in node.all_input_nodes:
                source = self.unit_of.get(each, u)
                if source == u:
                    continue
                tensors = tensors_in(self.values.of[each])
                saved = bool(read_again & {storage_of(tensor) for tensor in tensors})
                before = flows.get(each.name)
                flows[each.name] = Flow(
                    names[source],
                    each.name,
                    sum(map(num_bytes, tensors)),
                    any(tensor.requires_grad for tensor in tensors),
                    saved or (before is not None and before.saved),
                )
        return tuple(flows.values())

    def _new_bytes(self, nodes: list[fx.Node]) -> int:
        """Bytes of the memory that comes out of a unit and was not there before."""
        old = set[int]().union(*(storages_in(self.values.of[each]) for each in _inputs(nodes) - set(nodes)))
        new = {storage_of(t): t.untyped_storage().nbytes() for node in nodes for t in tensors_in(self.values.of[node])}
        return sum(size for storage, size in new.items() if storage not in old)


def _inputs(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    return {each for node in nodes for each in node.all_input_nodes}


def state_of(tensors: Iterable[Tensor]) -> State:
    """Bytes of parameters and buffers."""
    every = list(tensors)
    trainable = [tensor for tensor in every if tensor.requires_grad]
    return State(
        trainable=sum(map(num_bytes, trainable)),
        trainable_values=sum(tensor.numel() for tensor in trainable),
        frozen=sum(num_bytes(tensor) for tensor in every if not tensor.requires_grad),
    )


def _together(costs: Iterable[Cost]) -> Cost:
    """One cost for ops that run one after the other."""
    listed = list(costs)
    return Cost(
        forward=_sum(cost.forward for cost in listed),
        backward=_sum(cost.backward for cost in listed),
        has_backward=any(cost.has_backward for cost in listed),
        saves_outputs=any(cost.saves_outputs for cost in listed),
        saved_inside=sum(cost.saved_inside for cost in listed),
        gradients=sum(cost.gradients for cost in listed),
    )


def _sum(parts: Iterable[Work]) -> Work:
    flops: dict[Any, int] = {}
    traffic = 0
    for part in parts:
        traffic += part.traffic
        for family, count in part.flops.items():
            flops[family] = flops.get(family, 0) + count
    return Work(flops, traffic)


def _kind(node: fx.Node) -> str:
    return str(getattr(node.target, "_opname", None) or getattr(node.target, "__name__", None) or node.target)


def _path(node: fx.Node) -> str:
    """The module that the node was made in, by its name; empty for the model itself."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]) if stack else ""


def _name(node: fx.Node) -> str:
    """The node's name after the path of its module."""
    path = _path(node)
    return f"{path}/{node.name}" if path else node.name

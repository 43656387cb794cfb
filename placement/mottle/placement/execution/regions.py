"""Parts of a placed program whose activations do not wait on the device: computed again, or in the host's memory meanwhile.

A region becomes one call in the program's graph, under `torch.utils.checkpoint` or under hooks for saved tensors. Both leave the bits of
outputs and gradients as they are: what is computed again draws the same random numbers, and BatchNorm counts a batch once.
"""

import operator
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.checkpoint import checkpoint

from mottle.core.errors import ConfigError
from mottle.placement.reductions import Means
from mottle.placement.tracing.values import storage_of, tensors_in


@dataclass(frozen=True)
class Region:
    """Nodes of a traced graph, by name, and what is done about what they keep."""

    name: str
    means: Means
    nodes: frozenset[str]


@dataclass(frozen=True)
class Marked:
    """The nodes of a region in a program's graph."""

    region: Region
    nodes: frozenset[fx.Node]
    written: frozenset[fx.Node]
    """Buffers that its nodes write: a second run gets copies."""
    state: frozenset[fx.Node]
    """Parameters and buffers that it reads: they are there anyway, and stay."""


def fold(graph: fx.Graph, marked: Sequence[Marked], model: nn.Module) -> fx.Graph:
    """The graph with each region as one call; other nodes keep their order.

    Raises:
        ConfigError: a region cannot be run in one go, for something outside depends on it and it depends on that.
    """
    region_of = {node: each for each in marked for node in each.nodes}
    folded, values = fx.Graph(), dict[fx.Node, fx.Node]()
    for item in _in_order(graph, region_of):
        if isinstance(item, fx.Node):
            values[item] = folded.node_copy(item, values.__getitem__)
            continue
        part, taken, given = _extract(graph, item)
        call = folded.call_function(_runner(item, fx.GraphModule(model, part), taken), tuple(values[node] for node in taken))
        for x, node in enumerate(given):
            values[node] = folded.call_function(operator.getitem, (call, x))
    folded.lint()
    return folded


def _in_order(graph: fx.Graph, region_of: dict[fx.Node, Marked]) -> Iterator[fx.Node | Marked]:
    """Nodes and regions as they can run, as near to the graph's order as regions in one go allow."""
    place: dict[Any, int] = {}
    after: dict[Any, set[Any]] = {}
    readers: dict[Any, set[Any]] = {}
    for x, node in enumerate(graph.nodes):
        item = region_of.get(node, node)
        place.setdefault(item, x)
        sources = {region_of.get(each, each) for each in node.all_input_nodes} - {item}
        after.setdefault(item, set()).update(sources)
        for source in sources:
            readers.setdefault(source, set()).add(item)
    items = list(place)
    heap = [(place[item], x) for x, item in enumerate(items) if not after[item]]
    number = {item: x for x, item in enumerate(items)}
    heapify(heap)
    done = 0
    while heap:
        item = items[heappop(heap)[1]]
        done += 1
        yield item
        for reader in readers.get(item, ()):
            after[reader].discard(item)
            if not after[reader]:
                heappush(heap, (place[reader], number[reader]))
    if done < len(items):
        stuck = sorted(item.region.name for item in items if isinstance(item, Marked) and after[item])
        raise ConfigError(
            f"what is recomputed or offloaded does not run in one go: {stuck}. Plan with activations='keep', or with fewer ops in a segment"
        )


def _extract(graph: fx.Graph, marked: Marked) -> tuple[fx.Graph, list[fx.Node], list[fx.Node]]:
    """A region as a graph of its own, the nodes that it takes, and the nodes that it gives."""
    members = [node for node in graph.nodes if node in marked.nodes]
    taken = list(dict.fromkeys(each for node in members for each in node.all_input_nodes if each not in marked.nodes))
    given = [node for node in members if any(user not in marked.nodes for user in node.users)]
    part = fx.Graph()
    values = {node: part.placeholder(node.name) for node in taken}
    for node in members:
        values[node] = part.node_copy(node, values.__getitem__)
    part.output(tuple(values[node] for node in given))
    return part, taken, given


def _runner(marked: Marked, run: fx.GraphModule, taken: Sequence[fx.Node]) -> Callable[..., Any]:
    written = frozenset(x for x, node in enumerate(taken) if node in marked.written)
    state = frozenset(x for x, node in enumerate(taken) if node in marked.state)
    return _Again(run, written).run if marked.region.means == "recompute" else _OnHost(run, state).run


class _Again:
    """Runs a part, and once more when its backward pass comes."""

    def __init__(self, run: fx.GraphModule, written: Collection[int]) -> None:
        self._part, self._written = run, written

    def run(self, *args: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._part(*args)
        runs = 0

        def part(*rest: Any) -> Any:
            nonlocal runs
            runs += 1
            given = iter(rest)
            # a second run writes into copies: what it reads does not depend on them (`Unit.repeatable`)
            written = {x: args[x] if runs == 1 else args[x].clone() for x in self._written}
            return self._part(*(written[x] if x in written else next(given) for x in range(len(args))))

        # what is written is no argument: autograd would find it changed when it is handed out again
        return checkpoint(part, *(arg for x, arg in enumerate(args) if x not in self._written), use_reentrant=False)


class _OnHost:
    """Runs a part, and keeps what its backward pass reads in the host's memory."""

    def __init__(self, run: fx.GraphModule, state: Collection[int]) -> None:
        self._part, self._state = run, state

    def run(self, *args: Any) -> Any:
        inside = (*self._part.parameters(), *self._part.buffers())  # of leaf modules
        there = {storage_of(tensor) for tensor in (*inside, *tensors_in([args[x] for x in sorted(self._state)]))}
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: _to_host(tensor, there), _from_host):
            return self._part(*args)


def _to_host(tensor: Tensor, there: Collection[int]) -> tuple[torch.device, Tensor]:
    kept = tensor.detach()
    if storage_of(tensor) in there or tensor.device.type == "cpu":
        return tensor.device, kept
    host = torch.empty(tensor.size(), dtype=tensor.dtype, layout=tensor.layout, pin_memory=tensor.device.type == "cuda")
    return tensor.device, host.copy_(kept)


def _from_host(packed: tuple[torch.device, Tensor]) -> Tensor:
    device, kept = packed
    return kept if kept.device == device else kept.to(device, non_blocking=kept.is_pinned())

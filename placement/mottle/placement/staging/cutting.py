"""Where a captured model is cut into stages: contiguous runs of its ops, the slowest of which is as fast as possible.

Ops are taken in the order of the graph, which is one in which they can run. Whatever has to travel from a stage to a later one passes
through those between, so stages talk to their neighbours only. Weights and constants do not travel: each stage has those that it reads,
and a weight that several stages read (tied embeddings) lies in each of them. What is written in place lies in one.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import ceil
from typing import Any, Literal

import numpy as np
from torch import nn

from mottle.core.errors import ConfigError
from mottle.placement.arrays import Ints, int_list
from mottle.placement.errors import InfeasibleError
from mottle.placement.graph import ABSENT
from mottle.placement.problem import Link
from mottle.placement.stages import Chain, partition_chain
from mottle.placement.tracing.capture import PCIE, TICK_NS, Capture
from mottle.placement.tracing.inplace import work_out
from mottle.placement.tracing.measure import NOTHING
from mottle.placement.tracing.problems import Times, time_table
from mottle.placement.tracing.rates import DeviceClass
from mottle.placement.tracing.trace import Traced
from mottle.placement.tracing.units import writes_buffers
from mottle.placement.tracing.values import Values, storages_in, written

PLENTY = 1 << 60
"""Bytes of a device whose memory is of no concern."""
COPIES = 3
"""Of a stage's trainable weights in its worker: values, gradient sum, gradients at hand. Optimizer state lies with the shards."""
MOST_PLACES = 160
"""Places to cut at that are considered; partitioning takes their square."""
FORBIDDEN = ABSENT // 4
"""Ticks of a cut that would part what belongs together; more than any pipeline takes, small enough to be added."""


Activations = Literal["keep", "recompute", "offload"]
"""A stage's activations until the backward pass: kept, computed again from what came in, or in the host's memory meanwhile."""


@dataclass(frozen=True)
class Member:
    """A process that can run a stage."""

    rates: DeviceClass
    mem: int = PLENTY
    """Bytes for the model."""
    measured: Mapping[str, Times] = field(default_factory=dict)
    """Times of units on its device, where they are known better than by the rates."""
    loss: Times = NOTHING
    """Of the loss, which is computed where the last stage is."""
    factors: Mapping[str, float] = field(default_factory=dict)
    """Unit -> what it is known to take in training over what the above says; 1 where nothing is."""


@dataclass(frozen=True)
class Cut:
    """A model in stages."""

    stage_of: Mapping[str, int]
    """Unit of the capture -> stage."""
    members: tuple[int, ...]
    """Which of the given members runs each stage."""
    times_ns: tuple[tuple[int, int], ...]
    """Predicted forward and backward pass of a microbatch, by stage."""
    sent: tuple[int, ...]
    """Bytes that a stage passes on for a microbatch; as much comes back at most."""
    activations: Activations = "keep"
    """Between the forward and the backward pass of a microbatch."""

    @property
    def num_stages(self) -> int:
        return len(self.members)

    def divides_like(self, other: "Cut") -> bool:
        """Whether stages do the same by either; what is predicted of them may differ."""
        return (self.stage_of, self.num_stages, self.activations) == (other.stage_of, other.num_stages, other.activations)


@dataclass(frozen=True)
class Bound:
    """What stays where it is while the rest is cut anew (REPAIR, specification 7.3)."""

    order: tuple[int, ...]
    """Members, each of which runs a stage, in the order of the stages."""
    home: Mapping[str, int]
    """Unit -> the member that keeps it; the others are free."""

    def edges(self, captured: Capture) -> Iterator[int]:
        """Units behind which what stays begins or ends: there it was cut before."""
        homes = [self.home.get(unit.id) for unit in captured.units]
        return (x for x, (here, behind) in enumerate(pairwise(homes)) if here != behind)

    def masked(self, captured: Capture, load_ND: Ints, starts: Sequence[int]) -> Ints:
        """Loads of runs of units, absent where a member would take what another one keeps.

        Args:
            starts: first unit of each run, and one past the last.
        """
        masked = load_ND.copy()
        for x, (start, stop) in enumerate(pairwise(starts)):
            for home in {self.home[unit.id] for unit in captured.units[start:stop] if unit.id in self.home}:
                masked[x, np.arange(masked.shape[1]) != home] = ABSENT
        return masked


def cut_stages(
    captured: Capture,
    members: Sequence[Member],
    microbatches: int,
    *,
    link: Link = PCIE,
    num_stages: int | None = None,
    activations: Activations | None = None,
    bound: Bound | None = None,
) -> Cut:
    """Cut a model for these members, so that the bottleneck is smallest (specification 4.6).

    Args:
        captured: with the inputs of one microbatch, in training mode.
        members: processes, of which as many as there are stages are used.
        microbatches: in flight at most, which is what memory is counted for.
        num_stages: None: as many as there are members.
        activations: None: kept where that fits, else recomputed.
        bound: units that stay where they are; None: none.
    Raises:
        ConfigError: no graph, or fewer places to cut than are needed.
        InfeasibleError: no cut fits the memory.
    """
    if activations is None:
        options: dict[str, Any] = {"link": link, "num_stages": num_stages, "bound": bound}
        try:
            return cut_stages(captured, members, microbatches, activations="keep", **options)
        except InfeasibleError:
            return cut_stages(captured, members, microbatches, activations="recompute", **options)
    wanted = len(members) if num_stages is None else num_stages
    traced = graph_of(captured)
    if not captured.traced.training:
        raise ConfigError("stages are for training: capture the model in training mode")
    chain = _chain(captured, traced, members, link, activations)
    places = _places(captured, chain.comm)
    if bound is not None:
        wanted, places = len(bound.order), _with_edges(captured, places, list(bound.edges(captured)))
    if len(places) + 1 < wanted:
        raise ConfigError(
            f"the model can be cut into {len(places) + 1} stages at most, {wanted} were asked for: every stage needs weights that learn, "
            "and what is written in place (a buffer, say) stays together with all that reads it"
        )
    starts = [0, *(place + 1 for place in places), len(captured.units)]
    runs = _condensed(chain, places)
    if bound is None:
        found = partition_chain(runs, microbatches, num_stages=wanted)
    else:
        runs = replace(runs, load=bound.masked(captured, runs.load, starts))
        found = partition_chain(runs, microbatches, num_stages=wanted, order=bound.order)
    spans = [range(starts[stage.first], starts[stage.last + 1]) for stage in found.stages]
    table = _times(captured, members, activations)
    passes = [[table[stage.device][x] for x in span] for stage, span in zip(found.stages, spans, strict=True)]
    sent, _ = _crossing_bytes(captured, traced)
    return Cut(
        {captured.units[x].id: s for s, span in enumerate(spans) for x in span},
        tuple(stage.device for stage in found.stages),
        tuple((ceil(sum(each.forward for each in times)), ceil(sum(each.backward for each in times))) for times in passes),
        tuple(int(sent[span[-1]]) for span in spans[:-1]),
        activations,
    )


def graph_of(captured: Capture) -> Traced:
    """The operator graph.

    Raises:
        ConfigError: the model was watched: it has none.
    """
    if not isinstance(captured.traced, Traced):
        raise ConfigError(
            "the model has no static graph, so it cannot be cut into stages: " + "; ".join(captured.reasons) + ". Take the control flow "
            "that depends on values out of its forward, or train it in one piece"
        )
    return captured.traced


# --- the chain --------------------------------------------------------------------------------------------------------------------------


def _chain(captured: Capture, traced: Traced, members: Sequence[Member], link: Link, activations: Activations) -> Chain:
    units, table = captured.units, _times(captured, members, activations)
    load = np.array([[max(1, ceil(sum(times[x]) / TICK_NS)) for times in table] for x in range(len(units))], np.int64)
    forward, backward = _crossing_bytes(captured, traced)
    comm = np.array([_transfer(link, f) + _transfer(link, b) for f, b in zip(forward, backward, strict=True)], np.int64)
    comm[forward == 0] = FORBIDDEN  # a stage that has nothing to pass on
    for first, last in _together(captured, traced):
        comm[first:last] = FORBIDDEN
    resident = np.array([COPIES * unit.state.trainable + unit.state.frozen for unit in units], np.int64)
    made = np.array([unit.out + unit.cost.saved_inside for unit in units], np.int64)
    entering = np.concatenate([[0], forward])
    mem = tuple(member.mem for member in members)
    if activations == "keep":
        return Chain(load, comm, resident, made, mem, entering)
    return Chain(load, comm, resident, np.zeros_like(made), mem, entering, once=made)


def _places(captured: Capture, comm: Ints) -> list[int]:
    """Units behind which a cut is considered, in order: between ops with weights, so that every stage learns something, the cheapest place.

    Of more than `MOST_PLACES` those stay behind which least travels, and of those that cost alike some from everywhere.
    """
    learners = _learners(captured)
    between: dict[int, int] = {}
    for x in np.flatnonzero(comm < FORBIDDEN).tolist():
        before = int(learners[x])
        if 0 < before < learners[-1] and comm[x] <= comm[between.get(before, x)]:
            between[before] = x
    places = np.array(sorted(between.values()), np.int64)
    if len(places) > MOST_PLACES:
        limit = np.sort(comm[places])[MOST_PLACES - 1]
        below, alike = places[comm[places] < limit], places[comm[places] == limit]
        spread = np.linspace(0, len(alike) - 1, MOST_PLACES - len(below)).round().astype(np.int64)
        places = np.sort(np.concatenate([below, alike[np.unique(spread)]]))
    return int_list(places)


def _with_edges(captured: Capture, places: Sequence[int], edges: Sequence[int]) -> list[int]:
    """Places to cut at, with these in the stead of others between the same two ops with weights."""
    learners = _learners(captured)
    taken = {int(learners[edge]) for edge in edges}
    return sorted({*edges, *(place for place in places if int(learners[place]) not in taken)})


def _learners(captured: Capture) -> Ints:
    """(n,) ops with weights up to each unit, itself included."""
    return np.cumsum([unit.state.trainable > 0 for unit in captured.units])


def _condensed(chain: Chain, places: Sequence[int]) -> Chain:
    """The chain whose units are the runs between these places."""
    starts = np.array([0, *(place + 1 for place in places)])
    sums = (np.add.reduceat(amounts, starts, axis=0) for amounts in (chain.load, chain.resident, chain.activations))
    load, resident, activations = sums
    entering = None if chain.entering is None else chain.entering[starts]
    once = None if chain.once is None else np.add.reduceat(chain.once, starts)
    return Chain(load, chain.comm[list(places)], resident, activations, chain.mem, entering, once)


def _times(captured: Capture, members: Sequence[Member], activations: Activations) -> list[list[Times]]:
    """[member][unit]."""
    table = time_table(captured.units, {str(m): member.rates for m, member in enumerate(members)})
    found = [[member.measured.get(unit.id, table[str(m)][unit.id]) for unit in captured.units] for m, member in enumerate(members)]
    for of_member, member in zip(found, members, strict=True):
        of_member[-1] = Times(of_member[-1].forward + member.loss.forward, of_member[-1].backward + member.loss.backward)
        for x, unit in enumerate(captured.units):
            factor = member.factors.get(unit.id, 1.0)
            of_member[x] = Times(factor * of_member[x].forward, factor * of_member[x].backward)
    if activations != "recompute":
        return found
    return [[Times(each.forward, each.backward + each.forward) for each in of_member] for of_member in found]


def _transfer(link: Link, num_bytes: int) -> int:
    """Ticks."""
    return link.lat + (0 if link.bytes_per_s is None else ceil(int(num_bytes) * 1e9 / (link.bytes_per_s * TICK_NS)))


def _crossing_bytes(captured: Capture, traced: Traced) -> tuple[Ints, Ints]:
    """(n - 1,) bytes that cross the place behind each unit, on the way out and back."""
    units = captured.units
    place = {node: x for x, unit in enumerate(units) for node in unit.nodes}
    still = {node.name for node in traced.graph.nodes if node.op in ("placeholder", "get_attr")}  # these are everywhere
    last: dict[str, int] = {}
    size: dict[str, tuple[int, int]] = {}
    for x, unit in enumerate(units):
        for flow in unit.inputs:
            last[flow.node] = max(last.get(flow.node, 0), x)
            size[flow.node] = (flow.bytes, flow.bytes if flow.differentiable else 0)
    for node in next(iter(traced.graph.find_nodes(op="output"))).all_input_nodes:
        if node.name in place:
            last[node.name] = len(units) - 1
            size.setdefault(node.name, (units[place[node.name]].out,) * 2)
    forward, backward = np.zeros(max(0, len(units) - 1), np.int64), np.zeros(max(0, len(units) - 1), np.int64)
    for name, (out, back) in size.items():
        if name not in still:
            forward[place[name] : last[name]] += out
            backward[place[name] : last[name]] += back
    return forward, backward


def _together(captured: Capture, traced: Traced) -> Iterator[tuple[int, int]]:
    """(first, last) unit of every run of units that must not be parted."""
    place = {node: x for x, unit in enumerate(captured.units) for node in unit.nodes}
    for x, unit in enumerate(captured.units):
        for flow in unit.inputs:
            if place[flow.node] > x:  # what was folded into a later unit, and is read before that one's turn
                yield x, place[flow.node]
    values = work_out(traced)
    written_to = _written(traced, values)
    touching: dict[int, list[int]] = defaultdict(list)
    for node in traced.graph.nodes:
        if node.name in place:
            for each in (node, *node.all_input_nodes):
                for storage in storages_in(values.of[each]) & written_to:
                    touching[storage].append(place[node.name])
    for places in touching.values():
        yield min(places), max(places)


def _written(traced: Traced, values: Values) -> set[int]:
    """Memory that is written in place."""
    found: set[int] = set()
    for node in traced.graph.nodes:
        targets = written(traced, node)
        if writes_buffers(node):
            targets += [each for each in node.all_input_nodes if each.op == "get_attr" and not _learns(values.of[each])]
        found |= {storage for target in targets for storage in storages_in(values.of[target])}
    return found


def _learns(value: object) -> bool:
    return isinstance(value, nn.Parameter)

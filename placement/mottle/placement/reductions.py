"""Recomputation and offload as a change of the problem (specification 7.5), so that SIM and every placer count both as they come.

*Recompute*: the ops of a segment run once more, as `op:again`, when the gradient comes back to the segment, and its backward ops read from
these. What the first run made is gone when the forward pass has read it; of the segment only its inputs wait, and its outputs, where
others' backward passes read them.

*Offload*: `op:store` copies what an op's backward pass reads into the host's memory, `op:fetch` copies it back when the gradient is there.
Both take the device's time: PyTorch copies in the device's own stream (`save_on_cpu`), where nothing else runs meanwhile. The text would
take the slack of a copy window off that; an executor that copies beside the compute could earn it.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from heapq import heapify, heappop, heappush
from itertools import groupby
from typing import Literal, NamedTuple, get_args

from mottle.placement.canonical import linear_ticks
from mottle.placement.problem import Edge, Op, Problem, Segment

Means = Literal["recompute", "offload"]
MEANS: tuple[Means, ...] = get_args(Means)
DONE: Mapping[Means, str] = {"recompute": "recomputed", "offload": "offloaded"}
Activations = Literal["auto", "keep", "recompute", "offload"]
"""What may be done about activations where memory is short: whatever is best, nothing, or one of the two."""
ACTIVATIONS: tuple[Activations, ...] = get_args(Activations)
_Tensor = tuple[str, str]  # producer, name


class Reduction(NamedTuple):
    """What happens to the activations of a segment, or of the part of it that is on one device."""

    means: Means
    segment: str
    passes: tuple[tuple[str, str | None], ...]
    ticks: int = 0
    """Expected to be run on the device in addition."""
    bytes: int = 0
    """Expected not to wait on the device."""

    @property
    def ops(self) -> tuple[str, ...]:
        """Ops of the forward pass."""
        return tuple(forward for forward, _ in self.passes)

    @property
    def late(self) -> tuple[str, ...]:
        """Ops of the backward pass."""
        return tuple(backward for _, backward in self.passes if backward is not None)


class Reducer:
    """Applies reductions to one problem; indexed once, for there are many to try."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.ops = {op.id: op for op in problem.ops}
        self.inputs: dict[str, list[Edge]] = defaultdict(list)
        self.outputs: dict[str, list[Edge]] = defaultdict(list)
        for edge in problem.edges:
            self.inputs[edge.dst].append(edge)
            self.outputs[edge.src].append(edge)
        shape, position = problem.skeleton.shape, problem.skeleton.position
        self.out = dict(zip(shape.ids, shape.out.tolist(), strict=True))
        depth = shape.depth.tolist()
        self.depth = {name: depth[i] for name, i in position.items()}
        self.kinds = {device.id: device.kind for device in problem.devices}

    @cached_property
    def backward(self) -> frozenset[str]:
        """Backward ops of all segments."""
        return frozenset(b for segment in self.problem.segments for _, b in segment.passes if b is not None)

    @cached_property
    def ticks(self) -> Mapping[str, Mapping[str, int]]:
        """Op -> device -> ticks, of the ops in segments."""
        graph = self.problem.graph
        wanted = {forward for segment in self.problem.segments for forward, _ in segment.passes}
        return {
            name: dict(zip(graph.devices, row, strict=True)) for name, row in zip(graph.names, graph.k_rows, strict=True) if name in wanted
        }

    # --- what is there to choose from -------------------------------------------------------------------------

    def parts(self, device_of: Mapping[str, str]) -> dict[str, list[Segment]]:
        """Device -> runs of the ops of each segment that are there."""
        found: dict[str, list[Segment]] = defaultdict(list)
        for segment in self.problem.segments:
            for device, run in groupby(segment.passes, lambda pair: device_of[pair[0]]):
                passes = tuple(run)
                if any(backward is not None for _, backward in passes):
                    found[device].append(Segment(segment.id, passes))
        return found

    def gauged(self, reduction: Reduction, device_of: Mapping[str, str]) -> Reduction:
        """With the bytes and ticks that it is expected to save and to cost; 0 bytes or less: it is of no use there."""
        size, ticks = self._recompute(reduction, device_of) if reduction.means == "recompute" else self._offload(reduction, device_of)
        return reduction._replace(bytes=size, ticks=ticks)

    def _recompute(self, reduction: Reduction, device_of: Mapping[str, str]) -> tuple[int, int]:
        needed, late = self.needed(reduction), set(reduction.late)
        saved = 0
        for name in needed:
            readers = {edge.dst for edge in self.outputs[name]}
            if readers & late:
                boundary = {tensor_of(edge): edge.bytes for edge in self.outputs[name] if edge.dst in self.backward - late}
                saved += self.out[name] - min(self.out[name], sum(boundary.values()))
        brought = {tensor_of(edge): edge.bytes for name in needed for edge in self.inputs[name] if edge.src not in needed}
        for (src, tensor), size in brought.items():
            if not any(edge.dst in self.backward for edge in self.outputs[src] if tensor_of(edge) == (src, tensor)):
                saved -= size  # nobody else keeps it for a backward pass
        return saved, sum(self.ticks[name][device_of[name]] for name in needed)

    def _offload(self, reduction: Reduction, device_of: Mapping[str, str]) -> tuple[int, int]:
        tensors: dict[_Tensor, int] = {}
        ticks = 0
        for forward, backward in reduction.passes:
            if backward is not None and (moved := self.moved(forward, backward)):
                kind = self.kinds[device_of[forward]]
                if kind not in self.problem.host_links:
                    return 0, 0
                tensors |= {tensor_of(edge): self._held_bytes(forward, edge) for edge in self.held(forward, backward)}
                ticks += 2 * self.host_ticks(moved)[kind]
        return sum(tensors.values()), ticks

    def needed(self, reduction: Reduction) -> set[str]:
        """Ops that have to run again for the backward pass: those that it reads from, and what these read from, within the segment."""
        inside = {name for name in reduction.ops if not self.ops[name].keep}
        late = set(reduction.late)
        stack = [name for name in inside if any(edge.dst in late for edge in self.outputs[name])]
        needed = set(stack)
        while stack:
            for edge in self.inputs[stack.pop()]:
                if edge.src in inside and edge.src not in needed:
                    needed.add(edge.src)
                    stack.append(edge.src)
        return needed

    def held(self, forward: str, backward: str) -> list[Edge]:
        """What a backward op reads of the forward pass: tensors that its forward op took or made."""
        taken = {tensor_of(edge) for edge in self.inputs[forward]}
        return [edge for edge in self.inputs[backward] if edge.src == forward or tensor_of(edge) in taken]

    def _held_bytes(self, forward: str, edge: Edge) -> int:
        """A tensor of 0 bytes from the op itself stands for all that it keeps."""
        return self.out[forward] if edge.src == forward and edge.bytes == 0 else edge.bytes

    def moved(self, forward: str, backward: str) -> int:
        """Bytes that an op's offload moves, each way."""
        return sum(self._held_bytes(forward, edge) for edge in self.held(forward, backward))

    def host_ticks(self, size: int) -> dict[str, int]:
        """Device class -> ticks of a copy to its host, or back."""
        return {kind: max(1, linear_ticks(link, size, self.problem.tick_ns)) for kind, link in self.problem.host_links.items()}

    # --- the problem with them in it --------------------------------------------------------------------------

    def apply(self, reductions: Sequence[Reduction]) -> "Reduced":
        """The problem in which they are ops like others."""
        change = _Change(self)
        for reduction in reductions:
            (change.recompute if reduction.means == "recompute" else change.offload)(reduction)
        return change.result(reductions)

    def whole(self, means: Means) -> list[Reduction]:
        """All segments reduced one way."""
        return [Reduction(means, segment.id, segment.passes) for segment in self.problem.segments]


class Reduced(NamedTuple):
    """A problem with reductions in it."""

    problem: Problem
    beside: Mapping[str, str]
    """Op that was added -> the op whose device it shares."""
    before: Mapping[str, tuple[str, ...]]
    """Op that was added -> ops before the first of which it runs; empty: right after the op that it is beside."""

    def extend(self, device_of: Mapping[str, str], order: Sequence[str]) -> tuple[list[int], list[int]]:
        """(device, order) by index of the new graph, of a placement of the problem as it was: what was added runs as late as it may."""
        graph = self.problem.graph
        rank = {name: d for d, name in enumerate(graph.devices)}
        device = [rank[device_of[self.beside.get(name, name)]] for name in graph.names]
        place = {name: x for x, name in enumerate(order)}
        key = [self._key(name, place, i) for i, name in enumerate(graph.names)]
        waiting = [len(parents) for parents in graph.predecessors]
        heap = [(key[i], i) for i, count in enumerate(waiting) if count == 0]
        heapify(heap)
        found = []
        while heap:
            _, i = heappop(heap)
            found.append(i)
            for j in graph.successors[i]:
                waiting[j] -= 1
                if waiting[j] == 0:
                    heappush(heap, (key[j], j))
        return device, found

    def _key(self, name: str, place: Mapping[str, int], i: int) -> tuple[int, int, int]:
        if name not in self.beside:
            return place[name], 0, 0
        if later := self.before[name]:
            return min(place[each] for each in later), -1, i
        return place[self.beside[name]], 1, 0


class _Change:
    """Ops and edges while reductions are worked in."""

    def __init__(self, reducer: Reducer) -> None:
        self.reducer = reducer
        self.ops = dict(reducer.ops)
        self.added: list[Op] = []
        self.edges: dict[tuple[_Tensor, str], Edge] = {(tensor_of(edge), edge.dst): edge for edge in reducer.problem.edges}
        self.beside: dict[str, str] = {}
        self.before: dict[str, tuple[str, ...]] = {}
        self.touched: set[str] = set()

    def recompute(self, reduction: Reduction) -> None:
        reducer, late = self.reducer, set(reduction.late)
        needed = reducer.needed(reduction)
        if not needed:
            return
        first = min(reduction.late, key=lambda name: reducer.depth[name])  # nothing of the segment's backward pass comes before it
        gates = sorted({edge.src for edge in reducer.inputs[first]} - set(reduction.ops) - late)
        again = {name: self._fresh(f"{name}:again") for name in needed}
        for name in (name for name in reduction.ops if name in needed):
            op = self._grouped(name)
            self._add(op._replace(id=again[name], perm=0, out=reducer.out[name]), beside=name, before=reduction.late)
            inside = False
            for edge in reducer.inputs[name]:
                inside |= edge.src in needed
                self._connect(Edge(again.get(edge.src, edge.src), again[name], edge.bytes, edge.comm, edge.tensor or edge.src))
            if not inside:
                for gate in gates:
                    self._connect(Edge(gate, again[name], tensor=f"recompute {reduction.segment}"))
            for edge in reducer.outputs[name]:
                if edge.dst in late:
                    del self.edges[tensor_of(edge), edge.dst]
                    self._connect(edge._replace(src=again[name], tensor=edge.tensor or edge.src))
            self.touched.add(name)

    def offload(self, reduction: Reduction) -> None:
        for forward, backward in reduction.passes:
            if backward is not None and (moved := self.reducer.moved(forward, backward)):
                self._offload(forward, backward, moved)

    def _offload(self, forward: str, backward: str, moved: int) -> None:
        reducer, held = self.reducer, self.reducer.held(forward, backward)
        op, ticks = self._grouped(forward), reducer.host_ticks(moved)
        store, fetch = self._fresh(f"{forward}:store"), self._fresh(f"{forward}:fetch")
        self._add(Op(store, ticks, out=0, group=op.group, pin=op.pin), beside=forward, before=())
        self._add(Op(fetch, ticks, out=moved, group=op.group, pin=op.pin), beside=forward, before=(backward,))
        for edge in held:
            del self.edges[tensor_of(edge), backward]
            self._connect(edge._replace(dst=store, tensor=edge.tensor or edge.src))
        if all(edge.src != forward for edge in held):
            self._connect(Edge(forward, store, tensor="offload"))
        self._connect(Edge(store, fetch, tensor="offload"))
        self._connect(Edge(fetch, backward, moved, tensor="offload"))
        for edge in reducer.inputs[backward]:
            if edge not in held:
                self._connect(Edge(edge.src, fetch, tensor=f"offload {forward}"))

    def result(self, reductions: Sequence[Reduction]) -> Reduced:
        self._shrink()
        problem = self.reducer.problem
        gone = {name for reduction in reductions for name in reduction.ops}
        left = [Segment(s.id, tuple(pair for pair in s.passes if pair[0] not in gone)) for s in problem.segments]
        changed = replace(
            problem,
            ops=(*self.ops.values(), *self.added),
            edges=tuple(self.edges.values()),
            segments=tuple(segment for segment in left if any(backward for _, backward in segment.passes)),
        )
        return Reduced(changed, self.beside, self.before)

    def _shrink(self) -> None:
        """What a first run makes is what others still read; nothing is kept inside it."""
        left: dict[str, dict[_Tensor, int]] = {name: {} for name in self.touched}
        for edge in self.edges.values():
            if edge.src in left:
                left[edge.src][tensor_of(edge)] = edge.bytes
        for name, tensors in left.items():
            op, out = self.ops[name], self.reducer.out[name]
            if tensors:
                self.ops[name] = op._replace(out=min(out, sum(tensors.values())))
            else:  # only its backward pass read it
                self.ops[name] = op._replace(out=0, temp=op.temp + out)

    def _grouped(self, name: str) -> Op:
        """The op, in a group, so that what is added can share its device."""
        op = self.ops[name]
        if op.group is None:
            op = self.ops[name] = op._replace(group=self._unused(f"with {name}", {each.group for each in self.ops.values()}))
        return op

    def _add(self, op: Op, *, beside: str, before: tuple[str, ...]) -> None:
        self.added.append(op)
        self.beside[op.id], self.before[op.id] = beside, before

    def _connect(self, edge: Edge) -> None:
        self.edges[tensor_of(edge), edge.dst] = edge

    def _fresh(self, name: str) -> str:
        return self._unused(name, self.ops)

    @staticmethod
    def _unused(name: str, taken: Iterable[str | None]) -> str:
        while name in taken:
            name += "'"
        return name


def tensor_of(edge: Edge) -> _Tensor:
    """Producer and name."""
    return edge.src, edge.src if edge.tensor is None else edge.tensor

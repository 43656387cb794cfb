"""The device-independent half of a problem, checked and indexed once, however often the devices change.

Arrays are indexed by the position of an op in the problem (`i`), of a tensor sorted by (producer, name) (`t`), or of a
(tensor, consumer) pair (`e`). Depth is the number of edges on the longest path from a source.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mottle.placement.arrays import Ints, sum_by

if TYPE_CHECKING:
    from mottle.placement.problem import Edge, Op

LARGEST = 2**60
"""Largest total of ticks or of bytes: sums and comparisons then stay inside 64 bits."""


@dataclass(frozen=True, eq=False)
class Shape:
    """Ops, tensors and what hangs on what, in any numbering of the ops; see the module for the index letters."""

    ids: list[str]
    id_rank: Ints
    """(n,) rank of the id as a byte string."""
    successors: list[list[int]]
    topological: list[int]
    depth: Ints
    perm: Ints
    temp: Ints
    out: Ints
    keep: NDArray[np.bool_]
    group: Ints
    """(n,) group number; an op without a group has its own."""
    group_names: dict[int, str]
    """Names of the groups that have one."""
    tensor_src: Ints
    tensor_bytes: Ints
    tensor_comm: Ints
    """(T,) explicit ticks, -1 where the link decides."""
    tensor_names: list[str]
    edge_tensor: Ints
    edge_dst: Ints


@dataclass(frozen=True, eq=False)
class Skeleton:
    """A problem without its devices."""

    ops: "Sequence[Op]"
    edges: "Sequence[Edge]"
    """What it was built from; it serves no other ops or edges."""
    shape: Shape
    position: dict[str, int]
    ref_time: Ints
    """(n,) ticks on the reference device, -1 where the time is a map."""
    class_time: dict[str, Ints]
    """class -> (n,) ticks, -1 where the op has no such entry."""
    pins: dict[int, frozenset[str]]


def rank_ids(ids: Sequence[str]) -> Ints:
    """(n,) rank of each id as a byte string: code point order of str is byte order of UTF-8."""
    rank = np.empty(len(ids), np.int64)
    rank[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))
    return rank


def integer_fault(what: str, value: Any, *, least: int = 0) -> list[str]:
    """The complaint about a value that is not an integer of at least `least`; empty when it is one."""
    if type(value) is int:
        return [] if value >= least else [f"{what} must be an integer of at least {least}; got {value}"]
    if isinstance(value, float) and not math.isfinite(value):
        return [f"{what} must be finite; got {value}"]
    return [f"{what} must be an integer (ticks or bytes); got {value!r}"]


def build_skeleton(ops: "Sequence[Op]", edges: "Sequence[Edge]", devices: set[str]) -> tuple[Skeleton | None, list[str]]:
    """Check and index ops and edges; (None, complaints) when anything is wrong."""
    faults = [] if ops else ["wanted at least one op, got none"]
    position = {op.id: i for i, op in enumerate(ops)}
    if len(position) < len(ops):
        faults += _duplicates(ops)
    for op in ops:
        faults += _op_faults(op, devices)
    faults += [fault for edge in edges for fault in _edge_faults(edge, position)]
    if faults:
        return None, faults
    tensors, faults = _collect_tensors(edges, position)
    if faults:
        return None, faults
    successors: list[list[int]] = [[] for _ in ops]
    for (src, _name), tensor in tensors.items():
        successors[src].extend(tensor.consumers)
    topological, depth = kahn_order(successors)
    if len(topological) < len(ops):
        return None, [_describe_cycle(ops, successors)]
    faults = _size_faults(ops, edges)
    if faults:
        return None, faults
    return _index(ops, edges, position, tensors, successors, topological, depth), []


@dataclass
class _Tensor:
    bytes: int
    comm: int | None
    consumers: list[int]


def _duplicates(ops: "Sequence[Op]") -> list[str]:
    seen: set[str] = set()
    twice = [op.id for op in ops if op.id in seen or seen.add(op.id)]  # type: ignore[func-returns-value]  # add returns None, on purpose
    return [f"op {name!r} is listed more than once: give every op its own id" for name in dict.fromkeys(twice)]


def _op_faults(op: "Op", devices: set[str]) -> list[str]:
    time, faults = op.time, []
    if isinstance(time, Mapping):
        if not time:
            faults.append(f"op {op.id!r}: its time names no device class, so it can run nowhere")
        for kind, ticks in time.items():
            if type(ticks) is not int or ticks < 0:
                faults += integer_fault(f"op {op.id!r}: time on class {kind!r}", ticks)
    elif type(time) is not int or time < 0:
        faults += integer_fault(f"op {op.id!r}: time", time)
    if type(op.perm) is not int or op.perm < 0:
        faults += integer_fault(f"op {op.id!r}: perm", op.perm)
    if type(op.temp) is not int or op.temp < 0:
        faults += integer_fault(f"op {op.id!r}: temp", op.temp)
    if op.out is not None:
        faults += integer_fault(f"op {op.id!r}: out", op.out)
    if op.pin is not None:
        faults += [f"op {op.id!r} is pinned to the unknown device {name!r}" for name in op.pin if name not in devices]
        if not op.pin:
            faults.append(f"op {op.id!r} is pinned to no device at all, so it can run nowhere: leave `pin` out to allow every device")
    return faults


def _edge_faults(edge: "Edge", position: Mapping[str, int]) -> list[str]:
    if edge.src in position and edge.dst in position and type(edge.bytes) is int and edge.bytes >= 0 and edge.comm is None:
        return []
    where = f"edge {edge.src!r} -> {edge.dst!r}"
    faults = [f"{where} names the unknown op {end!r}" for end in (edge.src, edge.dst) if end not in position]
    faults += integer_fault(f"{where}: bytes", edge.bytes)
    if edge.comm is not None:
        faults += integer_fault(f"{where}: comm", edge.comm)
    return faults


def _collect_tensors(edges: "Sequence[Edge]", position: Mapping[str, int]) -> tuple[dict[tuple[int, str], _Tensor], list[str]]:
    tensors: dict[tuple[int, str], _Tensor] = {}
    seen: set[tuple[int, str, int]] = set()
    faults: list[str] = []
    for edge in edges:
        src, dst = position[edge.src], position[edge.dst]
        name = edge.src if edge.tensor is None else edge.tensor
        tensor = tensors.get((src, name))
        if tensor is None:
            tensors[src, name] = tensor = _Tensor(edge.bytes, edge.comm, [])
        elif tensor.bytes != edge.bytes or tensor.comm != edge.comm:
            faults.append(
                f"tensor {name!r} of op {edge.src!r} has two sizes, {tensor.bytes} bytes (comm {tensor.comm}) and {edge.bytes} bytes "
                f"(comm {edge.comm}, to {edge.dst!r}): one tensor has one size; name them apart with `tensor`"
            )
        if (src, name, dst) in seen:
            faults.append(f"op {edge.dst!r} lists tensor {name!r} of op {edge.src!r} twice: list each (tensor, consumer) once")
        seen.add((src, name, dst))
        tensor.consumers.append(dst)
    return tensors, faults


def kahn_order(successors: list[list[int]]) -> tuple[list[int], list[int]]:
    """Kahn's order and depths; shorter than the input when there is a cycle."""
    waiting = [0] * len(successors)
    for children in successors:
        for j in children:
            waiting[j] += 1
    depth = [0] * len(successors)
    order = [i for i, count in enumerate(waiting) if count == 0]
    for i in order:
        below = depth[i] + 1
        for j in successors[i]:
            if depth[j] < below:
                depth[j] = below
            waiting[j] -= 1
            if waiting[j] == 0:
                order.append(j)
    return order, depth


def _describe_cycle(ops: "Sequence[Op]", successors: list[list[int]]) -> str:
    """Name one cycle: every op that Kahn's order leaves out has a predecessor that is left out too, so walking back must repeat."""
    order, _ = kahn_order(successors)
    alive = set(range(len(ops))).difference(order)
    parent = {j: i for i in sorted(alive, reverse=True) for j in successors[i] if j in alive}
    walk, seen = [min(alive)], set[int]()
    while walk[-1] not in seen:
        seen.add(walk[-1])
        walk.append(parent[walk[-1]])
    cycle = walk[walk.index(walk[-1]) :][::-1]
    names = " -> ".join(repr(ops[i].id) for i in cycle[:12])
    more = f" -> ... ({len(cycle) - 1} ops)" if len(cycle) > 12 else ""
    return f"the graph has a cycle: {names}{more}; unroll loops before placement"


def _size_faults(ops: "Sequence[Op]", edges: "Sequence[Edge]") -> list[str]:
    ticks = sum(op.time if isinstance(op.time, int) else max(op.time.values()) for op in ops) + sum(edge.comm or 0 for edge in edges)
    size = sum(op.perm + op.temp + (op.out or 0) for op in ops) + sum(edge.bytes for edge in edges)
    faults = [f"all times together come to {ticks} ticks, beyond 2**60: use a longer tick"] if ticks > LARGEST else []
    return faults + ([f"all sizes together come to {size} bytes, beyond 2**60"] if size > LARGEST else [])


def _index(
    ops: "Sequence[Op]",
    edges: "Sequence[Edge]",
    position: dict[str, int],
    tensors: dict[tuple[int, str], _Tensor],
    successors: list[list[int]],
    topological: list[int],
    depth: list[int],
) -> Skeleton:
    n = len(ops)
    ids = [op.id for op in ops]
    keys = sorted(tensors)
    listed = [tensors[key] for key in keys]
    tensor_src = np.array([src for src, _ in keys], np.int64)
    tensor_bytes = np.array([tensor.bytes for tensor in listed], np.int64)
    emitted = sum_by(tensor_src, tensor_bytes, n)
    group, group_names = _number_groups(ops)
    shape = Shape(
        ids=ids,
        id_rank=rank_ids(ids),
        successors=successors,
        topological=topological,
        depth=np.array(depth, np.int64),
        perm=np.array([op.perm for op in ops], np.int64),
        temp=np.array([op.temp for op in ops], np.int64),
        out=np.where([op.out is None for op in ops], emitted, np.array([op.out or 0 for op in ops], np.int64)),
        keep=np.array([op.keep for op in ops], bool),
        group=group,
        group_names=group_names,
        tensor_src=tensor_src,
        tensor_bytes=tensor_bytes,
        tensor_comm=np.array([-1 if tensor.comm is None else tensor.comm for tensor in listed], np.int64),
        tensor_names=[name for _, name in keys],
        edge_tensor=np.repeat(np.arange(len(keys)), [len(tensor.consumers) for tensor in listed]),
        edge_dst=np.array([j for tensor in listed for j in tensor.consumers], np.int64),
    )
    return Skeleton(
        ops=ops,
        edges=edges,
        shape=shape,
        position=position,
        ref_time=np.array([op.time if isinstance(op.time, int) else -1 for op in ops], np.int64),
        class_time=_class_times(ops),
        pins={i: frozenset(op.pin) for i, op in enumerate(ops) if op.pin is not None},
    )


def _class_times(ops: "Sequence[Op]") -> dict[str, Ints]:
    kinds = sorted({kind for op in ops if isinstance(op.time, Mapping) for kind in op.time})
    return {kind: np.array([op.time.get(kind, -1) if isinstance(op.time, Mapping) else -1 for op in ops], np.int64) for kind in kinds}


def _number_groups(ops: "Sequence[Op]") -> tuple[Ints, dict[int, str]]:
    numbers: dict[str, int] = {}
    group = np.arange(len(ops), dtype=np.int64)
    for i, op in enumerate(ops):
        if op.group is not None:
            group[i] = numbers.setdefault(op.group, i)
    return group, {number: name for name, number in numbers.items()}

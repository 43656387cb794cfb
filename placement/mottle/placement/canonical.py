"""From a checked problem, or a fused graph, to a `Graph`: the canonical order of specification 2.1, and the times of 1.2 and 1.3."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mottle.placement.arrays import Ints, int_list
from mottle.placement.errors import ProblemError
from mottle.placement.graph import ABSENT, Graph
from mottle.placement.skeleton import LARGEST, Shape, Skeleton

if TYPE_CHECKING:
    from mottle.placement.problem import CommMode, Link, MemMode, Problem


@dataclass(frozen=True, eq=False)
class OnDevices:
    """What devices add to a `Shape`, in its numbering; the fields are those of `Graph`."""

    k: Ints
    devices: list[str]
    mem: list[int]
    link_class: list[list[int]]
    cost: Ints
    comm_mode: "CommMode"
    mem_mode: "MemMode"


def compile_graph(problem: "Problem") -> Graph:
    """Arrays of a checked problem in canonical order (2.1)."""
    skeleton = problem.skeleton
    link_class, cost = _communication(problem, skeleton.shape.tensor_bytes, skeleton.shape.tensor_comm)
    setting = OnDevices(
        k=_compute_times(problem, skeleton),
        devices=[d.id for d in problem.devices],
        mem=[d.mem for d in problem.devices],
        link_class=link_class,
        cost=cost,
        comm_mode=problem.comm_mode,
        mem_mode=problem.mem_mode,
    )
    return arrange(skeleton.shape, setting)


def arrange(shape: Shape, setting: OnDevices) -> Graph:
    """Renumber ops by (depth, -B, id), groups by first member, tensors (sorted by producer and name) by (producer, name)."""
    order = _canonical_order(shape, setting.k)
    topo = np.empty_like(order)
    topo[order] = np.arange(len(order))
    group, group_names = _canonical_groups(shape, order)
    src = topo[shape.tensor_src]
    tensor_order = np.argsort(src, kind="stable")  # names are already sorted within a producer
    rank = np.empty_like(tensor_order)
    rank[tensor_order] = np.arange(len(tensor_order))
    edge_tensor, edge_dst = rank[shape.edge_tensor], topo[shape.edge_dst]
    edge_order = np.lexsort((edge_dst, edge_tensor))
    return Graph(
        names=[shape.ids[i] for i in int_list(order)],
        devices=setting.devices,
        k=setting.k[order],
        perm=shape.perm[order],
        temp=shape.temp[order],
        out=shape.out[order],
        keep=shape.keep[order],
        group=group,
        group_names=group_names,
        tensor_src=src[tensor_order],
        tensor_bytes=shape.tensor_bytes[tensor_order],
        tensor_comm=shape.tensor_comm[tensor_order],
        tensor_names=[shape.tensor_names[t] for t in int_list(tensor_order)],
        edge_tensor=edge_tensor[edge_order],
        edge_dst=edge_dst[edge_order],
        mem=setting.mem,
        link_class=setting.link_class,
        cost=setting.cost[:, tensor_order],
        comm_mode=setting.comm_mode,
        mem_mode=setting.mem_mode,
    )


def _compute_times(problem: "Problem", skeleton: Skeleton) -> Ints:
    """k(i,d) of 1.2, in the order of the problem."""
    k = np.empty((len(skeleton.ops), len(problem.devices)), np.int64)
    by_map = skeleton.ref_time < 0
    for d, device in enumerate(problem.devices):
        if device.speed_pm == 1000:
            k[:, d] = skeleton.ref_time
        else:  # Python integers: ticks times 1000 may leave 64 bits
            scaled = [-(-t * 1000 // device.speed_pm) for t in skeleton.ref_time.tolist()]
            if max(scaled) > LARGEST:
                raise ProblemError([f"device {device.id!r}: an op takes {max(scaled)} ticks, beyond 2**60: use a longer tick"])
            k[:, d] = scaled
        if by_map.any():
            listed = skeleton.class_time.get(device.kind)
            k[by_map, d] = ABSENT if listed is None else np.where(listed[by_map] < 0, ABSENT, listed[by_map])
    np.maximum(k, 1, out=k)
    if (total := sum(int(column[column < ABSENT].sum(dtype=object)) for column in k.T)) > LARGEST:
        raise ProblemError([f"all times on all devices come to {total} ticks, beyond 2**60: use a longer tick"])
    for i, allowed in skeleton.pins.items():
        for d, device in enumerate(problem.devices):
            if device.id not in allowed:
                k[i, d] = ABSENT
    return k


def _canonical_order(shape: Shape, k: Ints) -> Ints:
    """Positions of the ops sorted by (depth, -B, id); B is the longest path below, in time summed over the devices (2.1)."""
    below = int_list(np.where(k < ABSENT, k, 0).sum(axis=1))
    for i in reversed(shape.topological):
        if children := shape.successors[i]:
            below[i] += max([below[j] for j in children])
    return np.lexsort((shape.id_rank, -np.array(below, np.int64), shape.depth))


def _canonical_groups(shape: Shape, order: Ints) -> tuple[Ints, list[str]]:
    """Group numbers by first member in canonical order, with names."""
    raw, first, inverse = np.unique(shape.group[order], return_index=True, return_inverse=True)
    rank = np.empty_like(first)
    by_first = np.argsort(first)
    rank[by_first] = np.arange(len(first))
    names = [
        shape.group_names.get(g, shape.ids[int(order[x])]) for g, x in zip(int_list(raw[by_first]), int_list(first[by_first]), strict=True)
    ]
    return rank[inverse], names


def _communication(problem: "Problem", sizes: Ints, explicit: Ints) -> tuple[list[list[int]], Ints]:
    """Link class of every device pair, and ticks per (class, tensor), 1.3."""
    ids = [d.id for d in problem.devices]
    classes: dict[Link | None, int] = {None: 0}
    link_class = [
        [classes.setdefault(None if u == v else problem.links.get((u, v), problem.default_link), len(classes)) for v in ids] for u in ids
    ]
    distinct, inverse = np.unique(sizes, return_inverse=True)
    cost = np.zeros((len(classes), len(sizes)), np.int64)
    for link, c in classes.items():
        if link is not None:
            ticks = np.array([linear_ticks(link, size, problem.tick_ns) for size in distinct.tolist()], np.int64)
            cost[c] = np.where(explicit >= 0, explicit, ticks[inverse])
    receivers = 1 if problem.comm_mode == "parallel" else max(1, len(ids) - 1)
    if (total := receivers * int(cost.max(axis=0, initial=0).sum(dtype=object))) > LARGEST:
        raise ProblemError([f"all transfers together come to {total} ticks, beyond 2**60: use a longer tick or a faster link"])
    return link_class, cost


def linear_ticks(link: "Link", size: int, tick_ns: int) -> int:
    if size == 0 or link.bytes_per_s is None:
        return link.lat
    ticks = link.lat + -(-size * 10**9 // (link.bytes_per_s * tick_ns))
    if ticks > LARGEST:
        raise ProblemError([f"moving {size} bytes takes {ticks} ticks, beyond 2**60: use a longer tick or a faster link"])
    return ticks

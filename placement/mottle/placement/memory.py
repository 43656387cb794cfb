"""Memory of a placement: static sums and dynamic events (specification 1.4).

*Static* never under-estimates a training step that keeps its activations. *Dynamic* books every allocation and free of a simulated
step; at equal times frees come first, and the peak is read after every allocation, so dynamic <= static always.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mottle.placement.arrays import Ints, max_by, sum_by
from mottle.placement.graph import Graph


class Transfers(NamedTuple):
    """Copies of tensors between devices; arrays of one length, in order of (start, tensor, destination)."""

    tensor: Ints
    src: Ints
    dst: Ints
    start: Ints
    end: Ints


def static_peaks(graph: Graph, device: Ints) -> Ints:
    """(D,) resident bytes of the ops, plus every tensor received, plus the largest scratch.

    Args:
        device: (n,) device of every op.
    """
    peak = sum_by(device, graph.perm + graph.out, graph.num_devices)
    received = received_copies(graph, device)
    for d in range(graph.num_devices):
        peak[d] += graph.tensor_bytes[received[:, d]].sum()
    return peak + max_by(device, graph.temp, graph.num_devices)


def received_copies(graph: Graph, device: Ints) -> NDArray[np.bool_]:
    """(T, D) the tensor has a consumer on that device and was made elsewhere."""
    received = np.zeros((len(graph.tensor_names), graph.num_devices), bool)
    received[graph.edge_tensor, device[graph.edge_dst]] = True
    received[np.arange(len(received)), device[graph.tensor_src]] = False
    return received


class Timeline(NamedTuple):
    """Bytes in use on one device: `level[x]` holds from `time[x]` on."""

    time: Ints
    level: Ints


def memory_events(graph: Graph, device: Ints, start: Ints, end: Ints, transfers: Transfers) -> list[tuple[Ints, Ints]]:
    """Per device, (times, signed bytes) of every allocation and free of one simulated step; permanent bytes come at time 0."""
    home = device[graph.tensor_src]
    local = home[graph.edge_tensor] == device[graph.edge_dst]
    last_use = np.full(graph.n, -1, np.int64)  # when the output of an op is no longer needed at home
    np.maximum.at(last_use, graph.tensor_src[graph.edge_tensor[local]], end[graph.edge_dst[local]])
    np.maximum.at(last_use, graph.tensor_src[transfers.tensor], transfers.end)
    freed = np.flatnonzero((last_use >= 0) & ~graph.keep)
    copy_end = np.full((len(graph.tensor_names), graph.num_devices), -1, np.int64)
    remote = ~local
    np.maximum.at(copy_end, (graph.edge_tensor[remote], device[graph.edge_dst[remote]]), end[graph.edge_dst[remote]])
    copy_free = copy_end[transfers.tensor, transfers.dst]
    copy_bytes = graph.tensor_bytes[transfers.tensor]
    dropped = ~graph.keep[graph.tensor_src[transfers.tensor]]
    times = np.concatenate([np.zeros(graph.n, np.int64), start, end, last_use[freed], transfers.start, copy_free[dropped]])
    sizes = np.concatenate([graph.perm, graph.out + graph.temp, -graph.temp, -graph.out[freed], copy_bytes, -copy_bytes[dropped]])
    where = np.concatenate([device, device, device, device[freed], transfers.dst, transfers.dst[dropped]])
    return [(times[where == d], sizes[where == d]) for d in range(graph.num_devices)]


def dynamic_timelines(graph: Graph, device: Ints, start: Ints, end: Ints, transfers: Transfers) -> list[Timeline]:
    """Bytes in use over time, per device; of several changes at one time all are kept, frees first."""
    lines = []
    for times, sizes in memory_events(graph, device, start, end, transfers):
        changes = sizes != 0
        times, sizes = times[changes], sizes[changes]
        order = np.lexsort((sizes > 0, times))
        lines.append(Timeline(times[order], np.cumsum(sizes[order])))
    return lines


def dynamic_peaks(graph: Graph, device: Ints, start: Ints, end: Ints, transfers: Transfers) -> Ints:
    """(D,) largest level of each device's timeline; 0 for an empty device."""
    lines = dynamic_timelines(graph, device, start, end, transfers)
    return np.array([line.level.max(initial=0) for line in lines], np.int64)

"""Placements that good ones are held against (specification, section 5): one device, layer split, round-robin, random."""

import hashlib

from mottle.placement.arrays import int_list
from mottle.placement.graph import Graph
from mottle.placement.judge import run
from mottle.placement.placed import Placement


def best_single(graph: Graph) -> list[int] | None:
    """All ops on the fastest device that runs and holds them; None: there is none."""
    totals = sorted((int(column.sum()), d) for d, column in enumerate(graph.k.T) if graph.group_runs[:, d].all())
    everything = int((graph.perm + graph.out).sum() + graph.temp.max())
    for _, d in totals:
        # static accounting is known without SIM, which takes its time on large graphs
        if everything <= graph.mem[d] or (graph.mem_mode == "dynamic" and run(graph, [d] * graph.n).valid):
            return [d] * graph.n
    return None


def layer_split(graph: Graph) -> list[int]:
    """Contiguous groups in canonical order, cut where the running time passes q / D of the whole.

    A group goes to the left of a cut when more than half of it is before the cut. Times are those of the fastest device.
    """
    times = [sum(int(graph.k_min[i]) for i in members) for members in graph.members]
    total, before = sum(times), 0
    home = []
    for time in times:
        home.append(min((2 * before + time) * graph.num_devices // (2 * total), graph.num_devices - 1))
        before += time
    return [home[g] for g in graph.group_of]


def round_robin(graph: Graph) -> list[int]:
    """Group number q, in order of first members, on device q mod D."""
    return [g % graph.num_devices for g in graph.group_of]


def random_split(graph: Graph, seed: int) -> list[int]:
    """Each group on device SHA-256(seed, group name) mod D."""
    home = []
    for name in graph.group_names:
        digest = hashlib.sha256(f"{seed}\0{name}".encode("utf-8", "surrogatepass")).digest()
        home.append(int.from_bytes(digest, "big") % graph.num_devices)
    return [home[g] for g in graph.group_of]


def in_canonical_order(graph: Graph, device: list[int]) -> Placement:
    """Devices alone as a placement: ops in canonical order, starting when SIM has them start."""
    return Placement(device, list(range(graph.n)), int_list(run(graph, device).start))

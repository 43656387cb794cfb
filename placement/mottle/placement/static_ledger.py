"""Static memory of a whole placement under moves of groups, kept up to date instead of summed again."""

import numpy as np

from mottle.placement.arrays import int_list, sum_by
from mottle.placement.graph import Graph


class StaticLedger:
    """Bytes per device as in `static_peaks`. A device of -1 is nowhere: its ops take no room, and what they emit comes from afar."""

    def __init__(self, graph: Graph, device: list[int]) -> None:
        self.graph = graph
        self.device = device
        self._num_devices, self._src, self._bytes = graph.num_devices, graph.src_of, graph.bytes_of
        self._base, self._scratch = int_list(graph.base), int_list(graph.scratch)
        self._largest: list[int | None] = [None] * graph.num_devices
        homes = np.array(device, np.int64)
        consumer = homes[graph.edge_dst]
        somewhere = consumer >= 0
        keys, counts = np.unique(graph.edge_tensor[somewhere] * graph.num_devices + consumer[somewhere], return_counts=True)
        self._uses = dict(zip(int_list(keys), int_list(counts), strict=True))  # tensor * D + device -> consumers there
        tensor, where = keys // graph.num_devices, keys % graph.num_devices
        copies = homes[graph.tensor_src[tensor]] != where
        placed = homes >= 0
        resident = sum_by(homes[placed], (graph.perm + graph.out)[placed], graph.num_devices)
        resident += sum_by(where[copies], graph.tensor_bytes[tensor[copies]], graph.num_devices)
        self.resident = int_list(resident)
        self.groups: list[set[int]] = [set() for _ in graph.devices]
        for g, members in enumerate(graph.members):
            if device[members[0]] >= 0:
                self.groups[device[members[0]]].add(g)

    def peak(self, d: int) -> int:
        """Static peak of a device."""
        largest = self._largest[d]
        if largest is None:
            self._largest[d] = largest = max([self._scratch[g] for g in self.groups[d]], default=0)
        return self.resident[d] + largest

    def fits(self, d: int) -> bool:
        """Whether the device holds what is on it."""
        return self.peak(d) <= self.graph.mem[d]

    def move(self, g: int, to: int) -> int:
        """Put a group elsewhere; returns where it was, so that moving it back undoes the move."""
        graph, device = self.graph, self.device
        members = graph.members[g]
        home = device[members[0]]
        touched = {t for i in members for t in graph.inputs[i]} | {t for i in members for t in graph.outputs[i]}
        self._count_copies(touched, (home, to), -1)
        for i in members:
            device[i] = to
            for t in graph.inputs[i]:
                self._use(t, home, -1)
                self._use(t, to, 1)
        self._count_copies(touched, (home, to), 1)
        for d, sign in ((home, -1), (to, 1)):
            if d >= 0:
                self.resident[d] += sign * self._base[g]
                (self.groups[d].add if sign > 0 else self.groups[d].discard)(g)
                self._largest[d] = None
        return home

    def _use(self, t: int, d: int, change: int) -> None:
        if d >= 0:
            key = t * self._num_devices + d
            self._uses[key] = self._uses.get(key, 0) + change

    def _count_copies(self, tensors: set[int], devices: tuple[int, ...], sign: int) -> None:
        """Add or take away the copies of these tensors on these devices."""
        for d in devices:
            if d >= 0:
                for t in tensors:
                    if self._uses.get(t * self._num_devices + d, 0) > 0 and self.device[self._src[t]] != d:
                        self.resident[d] += sign * self._bytes[t]

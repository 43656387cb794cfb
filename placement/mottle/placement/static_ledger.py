"""Static memory of a whole placement under moves of groups, kept up to date instead of summed again."""

from mottle.placement.arrays import int_list
from mottle.placement.graph import Graph


class StaticLedger:
    """Bytes per device as in `static_peaks`. A device of -1 is nowhere: its ops take no room, and what they emit comes from afar."""

    def __init__(self, graph: Graph, device: list[int]) -> None:
        self.graph = graph
        self.device = device
        self.resident = [0] * graph.num_devices
        self.uses: dict[tuple[int, int], int] = {}  # (tensor, device) -> consumers there
        self.groups: list[set[int]] = [set() for _ in graph.devices]
        self._base, self._scratch = int_list(graph.base), int_list(graph.scratch)
        self._largest: list[int | None] = [None] * graph.num_devices
        for g, members in enumerate(graph.members):
            if (d := device[members[0]]) >= 0:
                self.groups[d].add(g)
                self.resident[d] += self._base[g]
        for t, consumers in enumerate(graph.consumers):
            for j in consumers:
                self._use(t, device[j], 1)
            for d in {device[j] for j in consumers}:
                if self._is_copy(t, d):
                    self.resident[d] += graph.bytes_of[t]

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
            self.uses[t, d] = self.uses.get((t, d), 0) + change

    def _is_copy(self, t: int, d: int) -> bool:
        return d >= 0 and self.uses.get((t, d), 0) > 0 and self.device[self.graph.src_of[t]] != d

    def _count_copies(self, tensors: set[int], devices: tuple[int, ...], sign: int) -> None:
        for d in devices:
            for t in tensors:
                if self._is_copy(t, d):
                    self.resident[d] += sign * self.graph.bytes_of[t]

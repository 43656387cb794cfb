"""Watches the cluster's machines while a run goes on: who came, and who will be taken away."""

import threading
from collections.abc import Callable
from typing import Any

import ray

from mottle.actors import drains
from mottle.actors.hiring import Machine

EVERY_S = 1.0


class Machines:
    """A thread that tells of every machine once when it comes, and once when it is known to go.

    Args:
        came: a machine that was not there before.
        going: Ray's id of a node, and the seconds that are left, None where nobody knows.
    """

    def __init__(self, came: Callable[[Machine], None], going: Callable[[str, float | None], None]) -> None:
        self._came = came
        self._going = going
        self._known = {machine.id for machine in living()}
        self._told: set[str] = set()
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="machines", daemon=True).start()

    def close(self) -> None:
        """Tell nothing more."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(EVERY_S):
            try:
                self._look()
            except ray.exceptions.RayError as error:  # the cluster does not answer now: it is asked again
                print(f"the cluster's machines are not known at present: {error}", flush=True)

    def _look(self) -> None:
        going, here = drains.draining(), living()
        for node in sorted(going.keys() - self._told):
            self._told.add(node)
            self._going(node, going[node])
        for machine in here:
            if machine.id not in self._known:
                self._known.add(machine.id)
                if machine.id not in going:
                    self._came(machine)


def living() -> list[Machine]:
    """Every machine of the cluster that lives."""
    nodes: Any = ray.nodes()  # type: ignore[no-untyped-call]  # Ray says nothing of what it returns
    return [Machine(node["NodeID"], node["Resources"], node["Labels"]) for node in nodes if node["Alive"]]

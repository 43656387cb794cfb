"""Whom a coordinator that takes over goes on with; on live processes in test_recovery.py."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from mottle.actors.children import Child
from mottle.actors.comeback import _workers
from mottle.actors.worker import NEW, Working
from mottle.core.members import Members


class Answered:
    """Stands for `Questions` whose answers have come; who is not among them says nothing."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self._answers = answers

    def wait(self, timeout_s: float, enough: Callable[[dict[str, Any]], bool] = lambda answers: True) -> dict[str, Any]:
        assert enough(self._answers)
        return self._answers


def test_a_worker_that_was_asked_for_comes_whether_or_not_its_process_had_started_when_the_coordinator_was_lost() -> None:
    members = Members()
    for slot in (0, 1):
        members.join(slot, "cpu", "crew", now_ns=0)
    members.leave(1, "died", now_ns=1)
    working = (Working(0, "crew", {}), 1)
    said = {"at work": working, "over": None, "new": NEW}
    slots = {"at work": 0, "dead": 1, "over": 7, "new": 2, "starting": 3}
    found = {name: Child(name, "worker", (str(slot), "crew")) for name, slot in slots.items()}
    takeover: Any = SimpleNamespace(brain=SimpleNamespace(members=members))
    attaching: Any = Answered(said)
    assert _workers(attaching, found, takeover) == ({"at work": working}, {2: "crew", 3: "crew"})

"""A process of a run outlives the process of its coordinator, for another one takes over; but not the coordinator's actor.

Ray ends the actors that a dead process made. So those of a run are detached, and each looks after the coordinator itself: when Ray says
that it will not come back, they end. A line that breaks makes them look at once.
"""

import os
import threading
import time
from typing import Any

import ray

LOOK_EVERY_S = 2.0
WITH_LINE_S = 10.0
"""Where there is a line, which breaks with the coordinator."""
WHILE_LOST_S = 0.5
PATIENCE_S = 10.0
LAST_WORD_S = 5.0


class Lifeline:
    """Watches a coordinator in a thread of its own.

    Args:
        coordinator: whose end is this process's; None for nobody's.
    """

    def __init__(self, coordinator: Any) -> None:
        self._coordinator = coordinator
        self.has_line = False
        """Whether somebody stirs this when the coordinator is lost."""
        self._stirred = threading.Event()
        if coordinator is not None:
            threading.Thread(target=self._watch, name="lifeline", daemon=True).start()

    def let_go(self) -> None:
        """There is no line any more, and nothing wrong with that."""
        self.has_line = False
        self._stirred.set()

    def stir(self) -> None:
        """Look now."""
        self._stirred.set()

    def _watch(self) -> None:
        wait_s = LOOK_EVERY_S
        while True:
            self._stirred.wait(wait_s)
            self._stirred.clear()
            try:
                ray.get(self._coordinator.lives.remote(), timeout=PATIENCE_S)
                wait_s = WITH_LINE_S if self.has_line else LOOK_EVERY_S
            except ray.exceptions.ActorDiedError as gone:
                end_this_process(f"the coordinator is gone for good: {gone}")
                return
            except ray.exceptions.RayError:
                wait_s = WHILE_LOST_S  # it is being started again, or is not to be reached


def end_this_process(why: str) -> None:
    """For good: Ray starts no other one in its place."""
    print(why, flush=True)
    ray.kill(ray.get_runtime_context().current_actor)
    time.sleep(LAST_WORD_S)
    os._exit(1)

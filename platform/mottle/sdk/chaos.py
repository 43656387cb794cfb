"""Processes of a live run killed at random, with SIGKILL and on any host: what a run is worth shows when parts of it die.

Never the last worker and never the last replica of a shard: what happens then is no question (`docs/guarantees.md`). A worker that was
killed is replaced by another one of its group, so that a long run keeps its crew.
"""

import os
import random
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from mottle.actors import hosts
from mottle.actors.fleet import CrewError
from mottle.actors.hosts import Place
from mottle.core.errors import ConfigError, MottleError
from mottle.core.naming import suggestion
from mottle.sdk.run import Run

KINDS = ("workers", "shards", "coordinator", "nodes")
KILL_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Kill:
    """One that was killed."""

    t_s: float
    """Since chaos began."""
    kind: str
    victim: str
    """`w3`, `shard0-replica1`, `coordinator`, or a node's id."""


def candidates(kind: str, places: Mapping[str, Place], home: str) -> list[str]:
    """Who may be killed, in a fixed order.

    Args:
        kind: one of `KINDS`.
        places: every process of the run.
        home: node of whoever watches, which stays.
    """
    if kind == "coordinator":
        return ["coordinator"]
    if kind == "workers":
        workers = sorted(name for name in places if name.startswith("w"))
        return workers if len(workers) > 1 else []
    replicas: dict[str, list[str]] = defaultdict(list)
    for name in sorted(places):
        if name.startswith("shard"):
            replicas[name.partition("-")[0]].append(name)
    if kind == "shards":
        return [name for names in replicas.values() if len(names) > 1 for name in names]
    nodes = sorted({place.node for place in places.values()} - {home, places["coordinator"].node})
    return [node for node in nodes if all(any(places[name].node != node for name in names) for names in replicas.values())]


def choose(kinds: Sequence[str], places: Mapping[str, Place], home: str, dice: random.Random) -> tuple[str, str] | None:
    """(kind, victim): a kind first, among those of which anybody may be killed; None if there is nobody."""
    possible = {kind: found for kind in kinds if (found := candidates(kind, places, home))}
    if not possible:
        return None
    kind = dice.choice(list(possible))
    return kind, dice.choice(possible[kind])


class Chaos:
    """Kills in a thread of its own until it is stopped.

    Args:
        kinds: of `KINDS`.
        every_s: seconds between two kills.
        seed: of who is killed; the same seed and the same crew give the same victims.
    Raises:
        ConfigError: an unknown kind, with the nearest name, or a time that is none.
    """

    def __init__(self, kinds: Sequence[str], every_s: float, seed: int) -> None:
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown or not kinds:
            hint = suggestion(unknown[0], KINDS) if unknown else "got none"
            raise ConfigError(f"what dies is one or more of {', '.join(KINDS)}; {hint}")
        if not every_s > 0:
            raise ConfigError(f"the time between two kills must be above 0 seconds, got {every_s:g}")
        self._kinds = tuple(kinds)
        self._every_s = every_s
        self._dice = random.Random(seed)
        self._run: Run | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go, name="chaos", daemon=True)
        self.kills: list[Kill] = []

    def begin(self, run: Run) -> None:
        self._run = run
        self._thread.start()

    def follow(self, run: Run | None) -> Run | None:
        """The run that goes on after a failure is the one whose processes die from here on."""
        self._run = run
        return run

    def stop(self) -> None:
        """Kill nobody any more."""
        self._over.set()
        self._thread.join()

    def _go(self) -> None:
        began_s = time.monotonic()
        while not self._over.wait(self._every_s):
            try:
                self._kill_one(began_s)
            except CrewError as full:
                print(f"nobody takes the place of the worker that was killed: {full}", flush=True)
            except (MottleError, ray.exceptions.RayError):
                continue  # the run is over, or is being taken up again

    def _kill_one(self, began_s: float) -> None:
        run, home = self._run, ray.get_runtime_context().get_node_id()
        if run is None:
            return
        places = run.places()
        chosen = choose(self._kinds, places, home, self._dice)
        if chosen is None:
            return
        kind, victim = chosen
        self.kills.append(Kill(time.monotonic() - began_s, kind, victim))
        if kind == "nodes":
            _on(victim, home, _kill_raylet)
            return
        _on(places[victim].node, home, _kill, places[victim].pid)
        if kind == "workers":
            run.add_workers(1, places[victim].group)


def _on(node: str, home: str, what: Any, *arguments: int) -> None:
    """Do something on a host; whether it says that it was done is no matter, for it may be among what dies.

    Never on another one, where a process id is somebody else's: on a host that is gone nothing is done.
    """
    if node == home:
        what(*arguments)
        return
    task: Any = ray.remote(num_cpus=0, max_retries=0, **hosts.only(node))(what)
    doing = task.remote(*arguments)
    done, _ = ray.wait([doing], timeout=KILL_TIMEOUT_S)
    if not done:
        ray.cancel(doing)


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def _kill_raylet() -> None:
    """Every process of a host is a child of its raylet, and ends when that is gone."""
    os.kill(os.getppid(), signal.SIGKILL)

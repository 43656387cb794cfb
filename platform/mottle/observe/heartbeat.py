"""A sign of life in a run's folder, so that whoever has the folder alone can tell a run that goes on from one that was killed.

It is a moment by the clock of the writer's machine, written anew every few seconds. A fresh one says that the run lived then; a stale one
says that the run is dead, or cut off from its folder, or that the two clocks disagree: nobody can tell these apart from the folder alone.
"""

import json
from dataclasses import dataclass

from mottle.storage.folder import Folder

HEARTBEAT_FILE = "heartbeat.json"
EVERY_S = 3.0
MISSED = 5
"""Heartbeats after which a run is taken for silent: storage may be slow, and a busy machine late."""


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """The newest sign of life."""

    unix_s: float
    """When, by the writer's clock."""
    every_s: float
    """Until when the next one was due at the latest."""
    host: str
    pid: int

    def silent_s(self, now_unix_s: float) -> float:
        """Seconds since; never negative, whatever the clocks say."""
        return max(0.0, now_unix_s - self.unix_s)

    def fresh(self, now_unix_s: float) -> bool:
        """Whether the run wrote it so recently that it most likely goes on."""
        return self.silent_s(now_unix_s) <= MISSED * self.every_s


def write_heartbeat(folder: Folder, beat: Heartbeat) -> None:
    """Put it in the place of the last one."""
    folder.write_text(HEARTBEAT_FILE, json.dumps(beat.__dict__) + "\n")


def read_heartbeat(folder: Folder) -> Heartbeat | None:
    """None where there is none, or one that cannot be read: then nothing is known."""
    if not folder.has(HEARTBEAT_FILE):
        return None
    try:
        return Heartbeat(**json.loads(folder.read_text(HEARTBEAT_FILE)))
    except (ValueError, TypeError):
        return None

"""Which testbeds there are on this machine, whose they are, and which of them nobody owns any more.

A testbed is a numbered folder with a `state.json`. Its owner is a process, by id and start time, or nobody: then it stays until it is
taken down by name. Removing one needs the number alone, so a testbed whose owner was killed at any moment can be removed.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Any

from mottle.clusters.testbed import processes
from mottle.clusters.testbed.commands import TestbedError
from mottle.clusters.testbed.network import Network
from mottle.clusters.testbed.quota import remove_groups

FOLDER = Path("/tmp/mottle-testbed")
"""Short: the paths of Ray's sockets lie below it, and the kernel takes 107 characters."""
_STATE = "state.json"
_NUMBERS = range(200)


@dataclass(frozen=True)
class Entry:
    """One testbed of this machine."""

    number: int
    name: str
    owner: tuple[int, int] | None
    """Process id and start time in clock ticks since boot."""
    state: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        return FOLDER / str(self.number)

    @property
    def stale(self) -> bool:
        """Whether its owner is gone."""
        return self.owner is not None and _start_time(self.owner[0]) != self.owner[1]


def claim(name: str, *, owned: bool) -> int:
    """A number for a new testbed.

    Args:
        owned: whether it belongs to this process and ends with it.
    Raises:
        TestbedError: one of that name is up, or there are no numbers left.
    """
    with _locked():
        if any(each.name == name for each in entries()):
            raise TestbedError(f"testbed {name!r} is up already; take it down first, or give another name")
        taken = {each.number for each in entries()}
        number = next((each for each in _NUMBERS if each not in taken), None)
        if number is None:
            raise TestbedError(f"all {len(_NUMBERS)} testbeds of this machine are up; take one down")
        owner = [os.getpid(), _start_time(os.getpid())] if owned else None
        (FOLDER / str(number)).mkdir(mode=0o700, exist_ok=True)
        _write(number, {"name": name, "owner": owner})
    return number


def update(number: int, state: Mapping[str, Any]) -> None:
    """Add to what is known of a testbed; replaced as a whole, so nobody reads half of it."""
    entry = next(each for each in entries() if each.number == number)
    _write(number, {**entry.state, **state})


def entries() -> list[Entry]:
    """All testbeds of this machine, by number."""
    found = []
    for path in sorted(FOLDER.glob(f"*/{_STATE}")):
        state = json.loads(path.read_text())
        owner = state["owner"]
        found.append(Entry(int(path.parent.name), state["name"], None if owner is None else (owner[0], owner[1]), state))
    return found


def find(name: str) -> Entry | None:
    return next((each for each in entries() if each.name == name), None)


def remove(number: int) -> None:
    """Kill every process of a testbed and take away all that it consists of."""
    network = Network(number)
    for namespace in network.namespaces():
        processes.kill_all(namespace)
    network.remove_all()
    remove_groups(f"{network.bridge}-")
    shutil.rmtree(FOLDER / str(number), ignore_errors=True)


def remove_stale() -> list[str]:
    """Remove the testbeds whose owners are gone. Returns their names."""
    stale = [each for each in entries() if each.stale]
    for each in stale:
        remove(each.number)
    return [each.name for each in stale]


def _write(number: int, state: Mapping[str, Any]) -> None:
    folder = FOLDER / str(number)
    with tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as file:
        json.dump(state, file, indent=1)
    os.replace(file.name, folder / _STATE)


def _start_time(pid: int) -> int | None:
    """When the process began; None if there is none of that id."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return int(stat.read().rsplit(")", 1)[1].split()[19])
    except OSError:
        return None


@contextmanager
def _locked() -> Iterator[None]:
    FOLDER.mkdir(mode=0o700, exist_ok=True)
    with open(FOLDER / "lock", "w") as file:
        flock(file, LOCK_EX)
        yield

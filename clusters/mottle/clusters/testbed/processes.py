"""All processes of a host, by its namespace: whatever a host started belongs to it, however deep."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from typing import Any

from mottle.clusters.testbed.commands import TestbedError, run

_TIMEOUT_S = 10.0
_POLL_S = 0.02


def pids(namespace: str) -> list[int]:
    """Process ids in a namespace."""
    return [int(each) for each in run("ip", "netns", "pids", namespace).split()]


def wait_inside(process: "subprocess.Popen[Any]", namespace: str) -> None:
    """Wait until a process that is on its way into a namespace is there, or has ended: before, no kill of the host would reach it."""
    inside = os.stat(f"/run/netns/{namespace}").st_ino
    while process.poll() is None:
        with suppress(OSError):
            if os.stat(f"/proc/{process.pid}/ns/net").st_ino == inside:
                return
        time.sleep(0.001)


def kill_all(namespace: str) -> None:
    """SIGKILL to every process of the host, until none is left: one may have started another meanwhile.

    Raises:
        TestbedError: some are still there after 10 s.
    """
    deadline = time.monotonic() + _TIMEOUT_S
    while left := pids(namespace):
        if time.monotonic() > deadline:
            raise TestbedError(f"processes of {namespace} do not end: {left}")
        send(left, signal.SIGKILL)
        time.sleep(_POLL_S)


def stop_all(namespace: str) -> None:
    """SIGSTOP to every process of the host, until no further one has appeared."""
    stopped: set[int] = set()
    while new := set(pids(namespace)) - stopped:
        send(sorted(new), signal.SIGSTOP)
        stopped |= new


def continue_all(namespace: str) -> None:
    """SIGCONT to every process of the host."""
    send(pids(namespace), signal.SIGCONT)


def send(targets: list[int], number: signal.Signals) -> None:
    for pid in targets:
        with suppress(ProcessLookupError):  # it has ended by itself
            os.kill(pid, number)


def named(namespace: str, program: str) -> list[int]:
    """Processes of the host whose executable has that name."""
    found = []
    for pid in pids(namespace):
        with suppress(OSError):
            if os.path.basename(os.readlink(f"/proc/{pid}/exe")) == program:
                found.append(pid)
    return found


def invocation(pid: int) -> tuple[list[str], dict[str, str]]:
    """Command line and environment that a process was started with."""
    with open(f"/proc/{pid}/cmdline") as arguments, open(f"/proc/{pid}/environ") as variables:
        pairs = [each.partition("=") for each in variables.read().split("\0") if each]
        return arguments.read().rstrip("\0").split("\0"), {name: value for name, _, value in pairs}


def wait_gone(targets: list[int], timeout_s: float) -> bool:
    """Whether those processes have ended, at the latest after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while any(_alive(pid) for pid in targets):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits to be collected does not."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False

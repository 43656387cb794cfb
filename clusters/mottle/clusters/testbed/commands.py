"""Running the programs that make hosts: `ip` and `tc`, with their complaint in the error."""

import os
import shutil
import subprocess
from collections.abc import Sequence

from mottle.core.errors import MottleError

_PROGRAMS = ("ip", "tc")


class TestbedError(MottleError):
    """The testbed cannot do what it was asked for."""

    __test__ = False  # its name begins like a test class, and pytest would collect it


def missing() -> str:
    """What this machine lacks to run a testbed, as a sentence; empty where nothing is missing."""
    if os.geteuid() != 0:
        return "a testbed makes network namespaces, which takes root"
    if lacking := [program for program in _PROGRAMS if shutil.which(program) is None]:
        return f"a testbed needs {' and '.join(lacking)} of iproute2; install the package iproute2"
    return ""


def run(*command: str) -> str:
    """Standard output of a command.

    Raises:
        TestbedError: it failed; with what it said.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TestbedError(f"`{' '.join(command)}` failed: {done.stderr.strip() or done.stdout.strip() or done.returncode}")
    return done.stdout


def attempt(command: Sequence[str]) -> None:
    """Run a command whose failure means that there was nothing to do: what it would remove is gone already."""
    subprocess.run(command, capture_output=True, check=False)

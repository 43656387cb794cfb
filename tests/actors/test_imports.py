"""What a process of a run loads: every one of them pays for it, in time and memory."""

import subprocess
import sys

import pytest

NEEDED_BY_THE_COORDINATOR_ALONE = ("pandas", "rich", "pydantic", "mottle.observe")


@pytest.mark.parametrize("shell", ["worker", "shard", "validator"])
def test_only_the_coordinator_loads_what_the_record_needs(shell: str) -> None:
    program = f"import sys, mottle.actors.{shell}; print(*(set(sys.modules) & set({NEEDED_BY_THE_COORDINATOR_ALONE!r})))"
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_collector_is_as_it_was_once_all_is_imported() -> None:
    for before in ("enable", "disable"):
        program = f"import gc; gc.{before}(); import mottle.actors; print(gc.isenabled())"
        done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout.split() == [str(before == "enable")]

"""Where the GCS of a testbed's Ray keeps its tables: in its memory, on disk, or in a Redis next to it, which outlive it."""

import shutil
import time
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Any, Literal, Protocol

from mottle.clusters.testbed.commands import TestbedError

Tables = Literal["memory", "rocksdb", "redis"]
REDIS = "redis-server"
REDIS_PORT = 6400
_START_TIMEOUT_S = 30.0
_READY = "Ready to accept connections"


class Starter(Protocol):
    """Starts a process inside the head's host."""

    def __call__(self, command: list[str], **options: Any) -> "Popen[Any]": ...


def lacking(tables: Tables) -> str:
    """What this machine lacks for it, as a sentence; empty where nothing is missing."""
    if tables == "redis" and shutil.which(REDIS) is None:
        return f"a GCS with its tables in Redis needs {REDIS}; install the package {REDIS}"
    return ""


def prepare(tables: Tables, folder: Path, address: str, start: Starter) -> dict[str, str]:
    """Empty tables for a new head; the variables that it is started with.

    Args:
        folder: of the testbed, for what lies on disk.
        address: of the head's host.
    Raises:
        TestbedError: Redis does not start.
    """
    if tables == "memory":
        return {}
    if tables == "redis":
        _start_redis(folder / "redis.log", address, start)
        return {"RAY_REDIS_ADDRESS": f"{address}:{REDIS_PORT}"}
    path = folder / "gcs"
    shutil.rmtree(path, ignore_errors=True)
    return {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(path)}


def _start_redis(log: Path, address: str, start: Starter) -> None:
    """One that keeps nothing on disk and lets anybody in: only the hosts reach it."""
    log.unlink(missing_ok=True)
    command = [REDIS, "--bind", address, "--port", str(REDIS_PORT), "--protected-mode", "no", "--save", "", "--logfile", str(log)]
    server = start(command, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, start_new_session=True)
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not (log.exists() and _READY in log.read_text()):
        if server.poll() is not None or time.monotonic() > deadline:
            said = log.read_text()[-2000:] if log.exists() else "it said nothing"
            raise TestbedError(f"{REDIS} did not start at {address}:{REDIS_PORT}: {said}")
        time.sleep(0.02)

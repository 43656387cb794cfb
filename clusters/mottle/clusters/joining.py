"""Whether this process could use a running cluster, and why not: head, token, versions of every node.

Asked in a process of its own, for Ray reads its token once in a process's life and a wrong one would stay.
"""

import json
import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mottle.clusters import tokens
from mottle.core.errors import ConfigError
from mottle.core.versions import SCRIPT, here, mismatches, parse

TIMEOUT_S = 60.0
_ANSWER_S = 5.0


@dataclass(frozen=True)
class Joined:
    """A cluster as one sees it from here."""

    versions: Mapping[str, Mapping[str, str]]
    """By node's address."""
    faults: tuple[str, ...]
    """Sentences; empty where a run can be started."""


def look(address: str, environment: Mapping[str, str] | None = None, prefix: tuple[str, ...] = ()) -> Joined:
    """Connect to a cluster and ask every node for its versions.

    Args:
        address: of its head, `HOST:PORT`.
        environment: of the process that asks; this one's by default.
        prefix: a command that runs another, such as the way into a host of the testbed.
    Raises:
        ConfigError: no such address.
    """
    if not re.fullmatch(r".+:\d+", address):
        raise ConfigError(f"a cluster's address is HOST:PORT, such as 10.0.0.5:6379, got {address!r}")
    variables = dict(os.environ if environment is None else environment)
    home = Path(variables.get("HOME", "~")).expanduser()
    if variables.get("RAY_AUTH_MODE") == "token" and isinstance(wrong := tokens.source(variables, home), str):
        return Joined({}, (wrong,))  # Ray would abort
    command = [*prefix, sys.executable, "-P", "-m", "mottle.clusters.joining", address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return Joined({}, (f"no answer from Ray's head at {address} within {TIMEOUT_S:.0f} s",))
    if done.returncode:
        return Joined({}, (explain(address, f"{done.stdout}\n{done.stderr}", variables, home),))
    found: dict[str, dict[str, str]] = json.loads(done.stdout.splitlines()[-1])
    return Joined(found, tuple(mismatches(found, here())))


def explain(address: str, said: str, environment: Mapping[str, str], home: Path) -> str:
    """A sentence for what Ray said when it could not connect."""
    if mismatch := re.search(r"Version mismatch:.*?(?=\n\S*Error|\Z)", said, re.DOTALL):
        found = {name: dict.fromkeys(re.findall(name + r": ([\d.]+)", mismatch[0])) for name in ("Ray", "Python")}
        pairs = ", ".join(f"{name} {' and '.join(each)}" for name, each in found.items())
        return f"the cluster at {address} was started with other versions than this process has: {pairs}"
    if re.search(r"(?i)unauthenticated|invalid ?auth ?token|authentication", said):
        return f"Ray's head at {address} refuses: {tokens.refused(environment, home)}"
    if re.search(r"(?i)failed to connect|timed out|unable to connect|connection refused|no route|unreachable|unavailable|gaierror", said):
        return f"nobody answers as Ray's head at {address}; is the address right, is the head up, is the port open?"
    lines = [line for line in said.splitlines() if line.strip()]
    return f"Ray's head at {address} cannot be used: {lines[-1] if lines else 'it said nothing'}"


def knock(address: str) -> None:
    """See that somebody listens at a head's address, `HOST:PORT`: Ray itself would try for minutes.

    Raises:
        OSError: nobody does, or not within five seconds.
    """
    host, _, port = address.rpartition(":")
    socket.create_connection((host, int(port)), _ANSWER_S).close()


def _versions_of_nodes(address: str) -> dict[str, dict[str, str]]:
    """Runs where the question is asked; nodes run `SCRIPT`, for a node may have no Mottle at all."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def ask(script: str) -> str:
        import contextlib
        import io

        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(script, {})  # our own text, which this function was given
        return said.getvalue()

    knock(address)
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]  # Ray says nothing of what it returns
    task = ray.remote(num_cpus=0, max_retries=0)(ask)
    asked = {
        node["NodeManagerAddress"]: task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            SCRIPT
        )
        for node in nodes
    }
    return {host: parse(ray.get(reference)) for host, reference in asked.items()}


if __name__ == "__main__":
    print(json.dumps(_versions_of_nodes(sys.argv[1])))

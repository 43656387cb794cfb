"""Several hosts on one machine: namespaces with a Ray node each, and the faults that real hosts have."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mottle.clusters.testbed import processes, registry
from mottle.clusters.testbed.commands import TestbedError, missing
from mottle.clusters.testbed.network import Network
from mottle.clusters.testbed.quota import CpuQuota
from mottle.clusters.testbed.specs import Detection, HostSpec
from mottle.clusters.testbed.tables import Tables, prepare
from mottle.clusters.testbed.tables import lacking as lacks
from mottle.core.naming import suggestion

PORT = 6379
_START_TIMEOUT_S = 180.0
_LEAVE_TIMEOUT_S = 10.0
_REVIVAL_S = 2.0
_GCS_TIMEOUT_S = 60.0


class Testbed:
    """Hosts `h1`, `h2`, ...; the first one carries Ray's head.

    A context manager; what it made is gone at its end. Should its process be killed before, the next testbed clears it away.

    Args:
        hosts: how many alike, or each one's `HostSpec`.
        name: of the testbed, one of its kind on this machine.
        detection: how soon a lost host is noticed.
        owned: whether it ends with this process; one that is not stays until it is taken down by name.
        ray: whether Ray is started; without, the hosts are bare.
        tables: where Ray's GCS keeps its tables; a cluster survives its restart only where they are on disk (`rocksdb`) or in a `redis`.
    Raises:
        TestbedError: no root, no iproute2, the name is taken, or Ray does not start.
    """

    __test__ = False  # no test class, whatever pytest makes of its name

    def __init__(
        self,
        hosts: int | Sequence[HostSpec] = 2,
        *,
        name: str | None = None,
        detection: Detection | None = None,
        owned: bool = True,
        ray: bool = True,
        tables: Tables = "memory",
    ) -> None:
        if lacking := missing() or lacks(tables):
            raise TestbedError(lacking)
        specs = [HostSpec(name=f"h{place}") for place in range(1, hosts + 1)] if isinstance(hosts, int) else list(hosts)
        if not specs:
            raise TestbedError("a testbed has at least one host, got 0")
        registry.remove_stale()
        self.has_ray = ray
        self._tables = tables
        self._detection = detection or Detection()
        self._hosts: dict[str, HostSpec] = {}
        self._places: dict[str, int] = {}
        self._states: dict[str, str] = {}
        self.number = registry.claim(name or f"of-{os.getpid()}-{secrets.token_hex(2)}", owned=owned)
        self.folder = registry.FOLDER / str(self.number)
        self._network = Network(self.number)
        try:
            self._make(specs)
        except BaseException:
            registry.remove(self.number)
            raise

    @classmethod
    def attach(cls, name: str) -> Self:
        """The testbed of that name which another process brought up.

        Raises:
            TestbedError: there is none.
        """
        if lacking := missing():
            raise TestbedError(lacking)
        entry = registry.find(name)
        if entry is None or "hosts" not in entry.state:
            known = [each.name for each in registry.entries()]
            raise TestbedError(f"no testbed {name!r} is up; {suggestion(name, known) if known else 'none is'}")
        self = cls.__new__(cls)
        self.number, self.folder, self._network = entry.number, entry.folder, Network(entry.number)
        self.has_ray, self._tables = bool(entry.state["ray"]), entry.state["tables"]
        self._detection = Detection(**entry.state["detection"])
        self._hosts = {each["name"]: HostSpec(**each) for each in entry.state["hosts"]}
        self._places, self._states = dict(entry.state["places"]), dict(entry.state["states"])
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.down()

    def down(self) -> None:
        """Kill everything and take it away."""
        registry.remove(self.number)

    # --- looking ----------------------------------------------------------------------------------------------------------------------

    @property
    def hosts(self) -> dict[str, str]:
        """Host by name, with its state: up, paused, cut or killed."""
        return dict(self._states)

    @property
    def head(self) -> str:
        """Name of the host with Ray's head."""
        return next(iter(self._hosts))

    @property
    def ray_address(self) -> str:
        """Of Ray's head, for processes inside a host."""
        return f"{self.address(self.head)}:{PORT}"

    @property
    def token_file(self) -> Path:
        """The token that every process of this testbed's Ray presents."""
        return self.folder / "token"

    def address(self, host: str) -> str:
        return self._network.address(self._places[self._known(host)])

    def overlay(self, host: str) -> Path:
        """A folder whose files lie over those of `/etc` for processes started in the host from now on."""
        return self._network.overlay(self._known(host))

    def pids(self, host: str) -> list[int]:
        """Every process of the host."""
        return processes.pids(self._namespace(host))

    def has_raylet(self, host: str) -> bool:
        """Whether a Ray node runs on the host, whatever the head thinks of it."""
        return bool(processes.named(self._namespace(host), "raylet"))

    def sent_bytes(self, host: str) -> int:
        """What has left the host so far."""
        return self._network.sent_bytes(self._places[self._known(host)])

    def alive(self, *wanted: str, timeout_s: float = 0.0) -> list[str]:
        """Hosts that Ray's head believes alive.

        Args:
            wanted: wait until these are: `h2`, or `-h2` for one that must be declared dead.
        Raises:
            TestbedError: not within `timeout_s`.
        """
        signs = [f"-{self.address(each[1:])}" if each.startswith("-") else f"+{self.address(each)}" for each in wanted]
        command = [sys.executable, "-P", "-m", "mottle.clusters.testbed.probe", self.ray_address, str(timeout_s), *signs]
        done = subprocess.run(
            self.command(self.head, command), env=self.environment(self.head), capture_output=True, text=True, check=False
        )
        if done.returncode:
            said = done.stderr.strip().splitlines()[-1:] or [f"not so within {timeout_s:.0f} s"]
            raise TestbedError(f"wanted {' '.join(wanted) or 'the living hosts'} of Ray's head: {said[0]}")
        return [host for host in self._hosts if self.address(host) in done.stdout.split()]

    # --- running things ---------------------------------------------------------------------------------------------------------------

    def command(self, host: str, command: Sequence[str]) -> list[str]:
        """The command as this machine runs it inside the host, under the host's processor quota."""
        inside = ["ip", "netns", "exec", self._namespace(host), *command]
        if self._hosts[host].cpus is None:
            return inside
        return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self._quota(host).members), *inside]

    def environment(self, host: str) -> dict[str, str]:
        """Of processes inside the host: this one's, without its Ray, with the testbed's."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        return {
            **ours,
            "RAY_ADDRESS": self.ray_address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_file),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "RAY_worker_niceness": "0",
            **self._detection.environment(),
            **self._hosts[self._known(host)].environment,
        }

    def popen(self, host: str, command: Sequence[str], **options: Any) -> "subprocess.Popen[Any]":
        """Start a process inside the host, which dies with it; it is inside when this returns.

        Args:
            options: of `subprocess.Popen`.
        """
        options = {"env": self.environment(host), **options}
        process = subprocess.Popen(self.command(host, command), **options)
        processes.wait_inside(process, self._namespace(host))
        return process

    # --- faults -----------------------------------------------------------------------------------------------------------------------

    def kill(self, host: str) -> None:
        """The power goes out: SIGKILL to every process of the host. `start` brings it back."""
        processes.kill_all(self._namespace(host))
        self._note(host, "killed")

    def start(self, host: str) -> None:
        """Start Ray again on a host that was killed; where that is the head's, on the others too, for it is a new Ray.

        Also where its tables outlive it: `ray start` finds the others' processes, which name the head, and takes it to be running.
        """
        self._network.heal(self._places[self._known(host)])
        others = [each for each, state in self._states.items() if host == self.head and each != host and state == "up"]
        for each in (host, *others):
            processes.kill_all(self._namespace(each))
        self._note(host, "up")
        self._start_ray([host])
        self._start_ray(others)

    def pause(self, host: str) -> None:
        """Everything on the host stands still, as a machine does that swaps or is moved."""
        processes.stop_all(self._namespace(host))
        self._note(host, "paused")

    def resume(self, host: str) -> None:
        """Everything on the host goes on; its raylet is started again if it was declared dead meanwhile."""
        processes.continue_all(self._namespace(host))
        self._note(host, "up")
        self._revive()

    def cut(self, host: str) -> None:
        """The network cable comes out; the host's processes go on and hear nothing."""
        self._network.cut(self._places[self._known(host)])
        self._note(host, "cut")

    def heal(self, host: str) -> None:
        """The cable is in again; raylets that were declared dead meanwhile are started again."""
        self._network.heal(self._places[self._known(host)])
        self._note(host, "up")
        self._revive()

    @contextmanager
    def without_gcs(self) -> Iterator[None]:
        """Ray's GCS is dead (SIGKILL) inside the block, and started again at its end; all other processes live on.

        Raises:
            TestbedError: it does not answer within 60 s, or some host has died of it, as all do where its tables are in memory.
        """
        (gcs,) = processes.named(self._namespace(self.head), "gcs_server")
        command, environment = processes.invocation(gcs)
        here = self.alive()
        processes.send([gcs], signal.SIGKILL)
        processes.wait_gone([gcs], _LEAVE_TIMEOUT_S)
        try:
            yield
        finally:
            nothing = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            self.popen(self.head, command, env=environment, start_new_session=True, **nothing)
            self.alive(*here, timeout_s=_GCS_TIMEOUT_S)

    def limit(self, host: str, *, rate_mbit: float | None) -> None:
        """Hold the host's link to a rate in both directions; None for no limit."""
        self._network.limit(host, self._places[self._known(host)], rate_mbit)

    def join(self, spec: HostSpec) -> None:
        """A further host, with Ray on it.

        Raises:
            TestbedError: the name is taken, or Ray does not start there.
        """
        if spec.name in self._hosts:
            raise TestbedError(f"the testbed has a host {spec.name!r} already; `start` brings a killed one back")
        self._add(spec)
        self._start_ray([spec.name])
        self._note(spec.name, "up")

    def leave(self, host: str) -> None:
        """A host goes in order: its raylet says goodbye, then it is taken away.

        Raises:
            TestbedError: it carries the head.
        """
        namespace = self._namespace(host)
        if host == self.head:
            raise TestbedError(f"host {host!r} carries Ray's head, which cannot leave; take the testbed down")
        raylets = processes.named(namespace, "raylet")
        processes.send(raylets, signal.SIGTERM)
        processes.wait_gone(raylets, _LEAVE_TIMEOUT_S)
        processes.kill_all(namespace)
        self._network.remove(host, self._places[host])
        self._quota(host).remove()
        del self._hosts[host], self._places[host], self._states[host]
        self._save()

    # --- parts ------------------------------------------------------------------------------------------------------------------------

    def _make(self, specs: Iterable[HostSpec]) -> None:
        self._network.make()
        self.token_file.touch(mode=0o600)
        self.token_file.write_text(secrets.token_hex(32))
        for spec in specs:
            self._add(spec)
        self._save()
        if self.has_ray:
            head, *others = self._hosts
            self._start_ray([head])
            self._start_ray(others)

    def _add(self, spec: HostSpec) -> None:
        if spec.name in self._hosts:
            raise TestbedError(f"hosts need names of their own, got {spec.name!r} twice")
        place = max(self._places.values(), default=0) + 1
        self._hosts[spec.name], self._places[spec.name], self._states[spec.name] = spec, place, "up"
        self._network.add(spec.name, place)
        if spec.rate_mbit is not None:
            self._network.limit(spec.name, place, spec.rate_mbit)
        if spec.cpus is not None:
            self._quota(spec.name).set(spec.cpus)

    def _start_ray(self, hosts: Sequence[str]) -> None:
        """Start Ray on these hosts at the same time and wait until all have joined."""
        if not self.has_ray:
            return
        started = {host: self._ray_start(host) for host in hosts}
        for host, process in started.items():
            try:
                said, _ = process.communicate(timeout=_START_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.kill(host)
                raise TestbedError(f"Ray did not start on host {host} within {_START_TIMEOUT_S:.0f} s") from None
            if process.returncode:
                raise TestbedError(f"Ray did not start on host {host}:\n{said[-2000:]}")

    def _ray_start(self, host: str) -> "subprocess.Popen[str]":
        spec = self._hosts[host]
        # Autoscaler and log monitor would be processes that nobody asks for anything here.
        role = (
            ["--head", f"--port={PORT}", "--include-dashboard=false", "--no-monitor"]
            if host == self.head
            else [f"--address={self.ray_address}"]
        )
        command = [
            *(sys.executable, "-P", "-m", "ray.scripts.scripts", "start", *role),
            f"--node-ip-address={self.address(host)}",
            f"--temp-dir={self.folder / host}",
            f"--num-cpus={spec.num_cpus}",
            f"--object-store-memory={spec.object_store_mb * 10**6}",
            f"--resources={json.dumps(spec.ray_resources())}",
            "--include-log-monitor=false",
            "--disable-usage-stats",
        ]
        if spec.labels:
            command.append(f"--labels={','.join(f'{key}={value}' for key, value in spec.labels.items())}")
        environment = {name: value for name, value in self.environment(host).items() if name != "RAY_ADDRESS"}
        if host == self.head:
            environment |= prepare(self._tables, self.folder, self.address(host), partial(self.popen, host))
        return self.popen(
            host,
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _revive(self) -> None:
        """Start Ray again where a raylet was declared dead; one that still believes to live is ended first, as Ray wants it.

        The verdict may be on its way when the cable is back, so the head is asked for a while.
        """
        if not self.has_ray or self._states[self.head] != "up":
            return
        present = [host for host, state in self._states.items() if state == "up" and host != self.head]
        dead: list[str] = []
        deadline = time.monotonic() + _REVIVAL_S
        while not dead and time.monotonic() < deadline:
            alive = self.alive()
            dead = [host for host in present if host not in alive]
        for host in dead:
            processes.kill_all(self._namespace(host))
        self._start_ray(dead)

    def _known(self, host: str) -> str:
        if host not in self._hosts:
            raise TestbedError(f"no host {host!r} in this testbed; {suggestion(host, self._hosts)}")
        return host

    def _namespace(self, host: str) -> str:
        return self._network.namespace(self._known(host))

    def _quota(self, host: str) -> CpuQuota:
        return CpuQuota(self._network.namespace(host))

    def _note(self, host: str, state: str) -> None:
        self._states[host] = state
        self._save()

    def _save(self) -> None:
        known: Mapping[str, Any] = {
            "hosts": [asdict(spec) for spec in self._hosts.values()],
            "places": self._places,
            "states": self._states,
            "detection": asdict(self._detection),
            "ray": self.has_ray,
            "tables": self._tables,
        }
        registry.update(self.number, known)

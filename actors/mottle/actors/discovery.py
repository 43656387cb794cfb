"""The devices of the Ray cluster that this process is connected to, with their memory, rates and links, as measured from inside.

On every node a probe looks at the GPUs and the processor; probes of different nodes time round trips of 1 byte and 16 MiB over TCP
between them, and from the GPU to the host and back. Medians of ten; half a round trip is a link's time, and the two sizes give latency and
bandwidth.
"""

import itertools
import os
import socket
import statistics
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import psutil
import ray
import torch

from mottle.actors import hosts
from mottle.actors.launching import environment
from mottle.actors.probing import measured_rates
from mottle.core.errors import ConfigError
from mottle.placement.cluster import Cluster
from mottle.placement.problem import Device, Link
from mottle.placement.tracing import TICK_NS, DeviceClass
from mottle.placement.tracing.local import here

SMALL, LARGE, TRIPS = 1, 16 << 20, 10
MOST_PAIRS = 28
"""Pairs of nodes that are timed (8 nodes); of more the rest is taken to be as slow as the slowest."""
STEP_MEMORY = 256 << 20
"""Bytes to which memory is rounded down, so that the same machine is the same device a minute later."""


class Found(NamedTuple):
    """One node."""

    address: str
    devices: list[tuple[str, str, int, DeviceClass]]
    """(torch device, class, bytes, rates), GPUs first."""
    gpu_link: Link | None
    """Between a GPU and its host."""


class Probe:
    """Looks at its node from inside."""

    def look(self) -> Found:
        """Devices, and the link of the first GPU."""
        torch.set_num_threads(os.cpu_count() or 1)
        address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]  # Ray leaves it unannotated
        devices = []
        for index in range(torch.cuda.device_count()):
            device, rates = here(f"cuda:{index}")
            devices.append((f"cuda:{index}", device.kind, device.mem, rates))
        free = psutil.virtual_memory().available
        rates = measured_rates(torch.device("cpu"))
        devices.append(("cpu", "cpu", free - free // 10, rates))
        return Found(address, devices, _gpu_link() if len(devices) > 1 else None)

    def echo(self) -> tuple[str, int]:
        """Send back what the next caller sends. Returns where."""
        address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]  # Ray leaves it unannotated
        server = socket.create_server((address, 0))
        threading.Thread(target=_echo, args=(server,), name="echo", daemon=True).start()
        return address, server.getsockname()[1]

    def time_link(self, address: str, port: int) -> Link:
        """To an echo."""
        with socket.create_connection((address, port), timeout=30) as line:
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return link_of(*(_median_s(partial(_round_trip, line, size)) / 2 for size in (SMALL, LARGE)))


def discover() -> Cluster:
    """Every GPU and every node's processor of the cluster.

    Raises:
        ConfigError: this process is connected to no Ray.
    """
    if not ray.is_initialized():
        raise ConfigError('cluster="auto" is the Ray cluster of this process, which is connected to none: call ray.init(address=...) first')
    nodes = sorted(host.id for host in hosts.living())
    remote: Any = ray.remote(num_cpus=0)(Probe)
    probes = [remote.options(runtime_env=environment(), label_selector={hosts.ID_LABEL: node}).remote() for node in nodes]
    try:
        found: list[Found] = ray.get([probe.look.remote() for probe in probes])
        pairs = list(itertools.combinations(range(len(nodes)), 2))[:MOST_PAIRS]
        between = {(a, b): ray.get(probes[b].time_link.remote(*ray.get(probes[a].echo.remote()))) for a, b in pairs}
    finally:
        for probe in probes:
            ray.kill(probe)
    return cluster_of(nodes, found, between)


def cluster_of(nodes: list[str], found: list[Found], between: dict[tuple[int, int], Link]) -> Cluster:
    """Put together what the probes found.

    Args:
        nodes: Ray's ids, in order.
        between: link of pairs of nodes, by place in `nodes`.
    """
    devices: list[Device] = []
    classes: dict[str, DeviceClass] = {}
    home: dict[str, str] = {}
    of_node: dict[str, int] = {}
    shared = len({each.address for each in found}) < len(found)
    for number, (node, each) in enumerate(zip(nodes, found, strict=True)):
        name = f"{each.address}/{node[:6]}" if shared else each.address
        for place, kind, mem, rates in each.devices:
            id_ = f"{name}/{place}"
            unlike = kind in classes and classes[kind] != rates
            kind = f"{kind} of {name}" if unlike else kind
            classes[kind], home[id_], of_node[id_] = rates, node, number
            devices.append(Device(id_, kind, mem - mem % STEP_MEMORY))
    slowest = max(between.values(), key=lambda link: link.lat + LARGE / (link.bytes_per_s or 1), default=Link(0, None))
    links = {}
    for a, b in itertools.permutations(home, 2):
        if of_node[a] == of_node[b]:
            inside = found[of_node[a]].gpu_link
            links[a, b] = inside or Link(0, None)
        else:
            low, high = sorted((of_node[a], of_node[b]))
            links[a, b] = between.get((low, high), slowest)
    return Cluster(tuple(devices), classes, home, links, slowest)


def link_of(small_s: float, large_s: float) -> Link:
    """Latency and bandwidth from the times of the two sizes, one way."""
    return Link(max(1, round(small_s * 1e9 / TICK_NS)), max(1, round((LARGE - SMALL) / max(large_s - small_s, 1e-9))))


def _gpu_link() -> Link:
    times = []
    for size in (SMALL, LARGE):
        here_B = torch.empty(size, dtype=torch.uint8, pin_memory=True)

        def there_and_back(here_B: torch.Tensor = here_B) -> None:
            here_B.copy_(here_B.to("cuda:0"))
            torch.cuda.synchronize()

        times.append(_median_s(there_and_back) / 2)
    return link_of(*times)


def _median_s(do: Callable[[], object]) -> float:
    do()
    times = []
    for _ in range(TRIPS):
        began_s = time.perf_counter()
        do()
        times.append(time.perf_counter() - began_s)
    return statistics.median(times)


def _echo(server: socket.socket) -> None:
    with server, server.accept()[0] as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while size := int.from_bytes(_exactly(line, 8), "big"):
            line.sendall(_exactly(line, size))


def _round_trip(line: socket.socket, size: int) -> None:
    line.sendall(size.to_bytes(8, "big") + bytes(size))
    _exactly(line, size)


def _exactly(line: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        more = line.recv(min(1 << 20, size - len(data)))
        if not more:
            return bytes(8)  # the caller has left
        data += more
    return bytes(data)

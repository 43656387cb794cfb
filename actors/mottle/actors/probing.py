"""What a process can compute with: its device's memory and rates, measured in a few hundredths of a second.

Rates are rounded to steps of a quarter, so that equal machines that are busy in different ways count as equal, and a plan for them is the
same one every time.
"""

import math
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import psutil
import ray
import torch
from torch import Tensor

from mottle.placement.tracing import DeviceClass
from mottle.placement.tracing.local import here

STEP = 1.25
_SIDE, _LENGTH, _SMALL = 384, 1 << 21, 16
_REPEATS = 5


class Report(NamedTuple):
    """One process's device."""

    rates: DeviceClass
    mem: int
    """Bytes for a model: what is free now less a reserve; of a host, for all of its processes together."""
    node: str
    """Ray's id of the host."""
    host: str
    """Address by which the others reach it."""
    kind: str
    """`cpu`, or the GPU's name."""


def report(*, use_gpu: bool) -> Report:
    """Of this process.

    Args:
        use_gpu: whether it computes on the GPU that Ray gave it.
    """
    name = "cuda:0" if use_gpu and torch.cuda.is_available() else "cpu"
    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]  # Ray leaves it unannotated
    node: str = ray.get_runtime_context().get_node_id()
    if name != "cpu":
        device, rates = here(name)
        return Report(rates, device.mem, node, address, device.kind)
    free = psutil.virtual_memory().available
    return Report(measured_rates(torch.device("cpu")), free - free // 10, node, address, "cpu")


def measured_rates(device: torch.device) -> DeviceClass:
    """Matrix products, copies, and a small op, each the median of a few."""
    a, b, c = torch.rand(_SIDE, _SIDE, device=device), torch.rand(_LENGTH, device=device), torch.rand(_SMALL, device=device)
    out: Tensor = torch.empty_like(b)
    product_s, copy_s, small_s = _median_s(lambda: a @ a), _median_s(lambda: out.copy_(b)), _median_s(lambda: c + c)
    plain = DeviceClass(flops_per_s={"float32": 1.0}, bytes_per_s=1.0, mem=0)
    return DeviceClass(
        flops_per_s={"float32": rounded(2 * _SIDE**3 / product_s / plain.flops_share["matmul"])},
        bytes_per_s=rounded(2 * b.nbytes / copy_s / plain.bytes_share),
        mem=psutil.virtual_memory().total,
        overhead_ns=round(rounded(small_s * 1e9)),
        reserve=0.1,
    )


def rounded(value: float) -> float:
    """To a power of `STEP`."""
    return STEP ** round(math.log(value, STEP))


def _median_s(do: Callable[[], object]) -> float:
    do()
    times = []
    for _ in range(_REPEATS):
        began_s = time.perf_counter()
        do()
        times.append(time.perf_counter() - began_s)
    return max(statistics.median(times), 1e-9)

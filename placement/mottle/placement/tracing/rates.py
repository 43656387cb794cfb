"""Time of an op on a device that need not be here: the roofline of specification 4.3, and a table of device classes.

    t = max( sum over families of flops / (peak * efficiency), bytes / (bandwidth * efficiency) ) + overhead

Peaks are the makers' figures for dense arithmetic (float32 without TF32, which is PyTorch's default). They are good to a few tens of
per cent, which is enough to compare placements; `measure` replaces them by what a device does.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from mottle.core.errors import ConfigError
from mottle.core.naming import lookup
from mottle.placement.problem import Device
from mottle.placement.tracing.costs import Family, Work

GIB = 1 << 30
PCIE_BYTES_PER_S = 12_000_000_000
"""A PCIe 3.0 x16 slot in practice."""
_UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "K": 10**3, "M": 10**6, "G": 10**9}
_SHARES: Mapping[Family, float] = {"matmul": 0.75, "convolution": 0.5, "attention": 0.5}


@dataclass(frozen=True, kw_only=True)
class DeviceClass:
    """What one kind of device can do."""

    flops_per_s: Mapping[str, float]
    """Peak by dtype name; `float32` is there always and serves dtypes that are not."""
    bytes_per_s: float
    """Memory bandwidth."""
    mem: int
    """Bytes of the whole device."""
    overhead_ns: int = 5_000
    """Launching one op."""
    reserve: float = 0.05
    """Share of the memory that is left alone; at least 512 MiB of a GPU."""
    flops_share: Mapping[Family, float] = field(default_factory=lambda: dict(_SHARES))
    """Share of the peak that kernels of a family reach."""
    bytes_share: float = 0.75
    host_bytes_per_s: float | None = None
    """To the memory of its host and back; None: it is the host, or has none that it could offload to."""

    def __post_init__(self) -> None:
        rates = [*self.flops_per_s.values(), self.bytes_per_s, *self.flops_share.values(), self.bytes_share]
        rates += [] if self.host_bytes_per_s is None else [self.host_bytes_per_s]
        if "float32" not in self.flops_per_s or not all(rate > 0 for rate in rates):
            raise ConfigError(f"a device class needs positive rates, one of them for float32; got {dict(self.flops_per_s)} FLOP/s")

    def time_ns(self, work: Work, dtype: str) -> float:
        """Nanoseconds of one pass; 0 for no work at all (a view)."""
        if not work.flops and not work.traffic:
            return 0.0
        peak = self.flops_per_s.get(dtype, self.flops_per_s["float32"])
        compute = sum(count / (peak * self.flops_share[family]) for family, count in work.flops.items())
        return max(compute, work.traffic / (self.bytes_per_s * self.bytes_share)) * 1e9 + self.overhead_ns

    @property
    def budget(self) -> int:
        """Bytes for a model: the whole less the reserve (1.4)."""
        return self.mem - max(int(self.mem * self.reserve), 512 << 20)


def _gpu(float32: float, half: float, bandwidth: float, mem_gib: int) -> DeviceClass:
    """TFLOP/s, GB/s, GiB."""
    peaks = {"float32": float32 * 1e12, "float16": half * 1e12, "bfloat16": half * 1e12}
    return DeviceClass(flops_per_s=peaks, bytes_per_s=bandwidth * 1e9, mem=mem_gib * GIB, host_bytes_per_s=PCIE_BYTES_PER_S)


def cpu_class(cores: int, mem: int) -> DeviceClass:
    """A processor with vector units of 256 bits: 80 GFLOP/s and 6.25 GB/s a core."""
    return DeviceClass(flops_per_s={"float32": cores * 80e9}, bytes_per_s=cores * 6.25e9, mem=mem, overhead_ns=2_000, reserve=0.1)


DEVICE_CLASSES: Mapping[str, DeviceClass] = {
    "h200": _gpu(67, 989, 4800, 141),
    "h100": _gpu(67, 989, 3350, 80),
    "a100-80gb": _gpu(19.5, 312, 2039, 80),
    "a100-40gb": _gpu(19.5, 312, 1555, 40),
    "l40s": _gpu(91.6, 362, 864, 48),
    "a10g": _gpu(31.2, 70, 600, 24),
    "l4": _gpu(30.3, 121, 300, 24),
    "v100": _gpu(15.7, 125, 900, 16),
    "t4": _gpu(8.1, 65, 320, 16),
    "rtx4090": _gpu(82.6, 165, 1008, 24),
    "rtx3090": _gpu(35.6, 71, 936, 24),
    "rtx2080": _gpu(10.1, 40, 448, 8),
    "cpu-8": cpu_class(8, 32 * GIB),
    "cpu-32": cpu_class(32, 128 * GIB),
    "cpu-64": cpu_class(64, 256 * GIB),
}
"""By name; CPUs by number of cores."""


def declare(text: str, classes: Mapping[str, DeviceClass] = DEVICE_CLASSES) -> Device:
    """A device written as text: `name=class`, or `name=class:bytes` with K, M, G, Ki, Mi or Gi: `gpu0=a100-40gb`, `box=cpu-8:8Gi`.

    Raises:
        ConfigError: another form, or an unknown class (names the nearest).
    """
    name, equals, rest = text.partition("=")
    kind, colon, size = rest.partition(":")
    if not equals or not name or not kind:
        raise ConfigError(f"a device is written as name=class or name=class:memory, for example gpu0=a100-40gb; got {text!r}")
    known = lookup(kind, classes, "device class")
    canonical = next(key for key, value in classes.items() if value is known)
    return Device(name, canonical, parse_bytes(size) if colon else known.budget)


def parse_bytes(text: str) -> int:
    """`512Mi`, `8G`, `1.5Gi`, `1000`; an optional B at the end."""
    number = text.strip().removesuffix("B")
    unit = next((unit for unit in _UNITS if number.endswith(unit)), "")
    try:
        size = int(Fraction(number.removesuffix(unit)) * _UNITS.get(unit, 1))
    except (ValueError, ZeroDivisionError):
        raise ConfigError(f"a size is written as a number with K, M, G, Ki, Mi or Gi, for example 8Gi; got {text!r}") from None
    if size <= 0:
        raise ConfigError(f"a size is a positive number of bytes; got {text!r}")
    return size

"""The placement problem: ops, the tensors between them, devices and links (placement specification, section 1).

All times are integer ticks, all sizes integer bytes. A `Problem` is checked when it is made, so whatever holds one may
rely on it: no cycles, no unknown names, every op runs somewhere, every colocation group has a device in common. Whether it
*fits* is a question for the placers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple, cast, get_args

from mottle.placement.errors import ProblemError
from mottle.placement.skeleton import Skeleton, build_skeleton, integer_fault

if TYPE_CHECKING:
    from mottle.placement.graph import Graph

CommMode = Literal["parallel", "link", "device"]
MemMode = Literal["static", "dynamic"]
COMM_MODES: tuple[CommMode, ...] = get_args(CommMode)
MEM_MODES: tuple[MemMode, ...] = get_args(MemMode)


class Op(NamedTuple):
    """One operator: a tensor operator, a module, or a fused group of them."""

    id: str
    time: int | Mapping[str, int]
    """Ticks on the reference device, or device class -> ticks. A class that is missing cannot run the op. 0 counts as 1."""
    perm: int = 0
    """Bytes resident for the whole step: weights, gradients, optimizer state."""
    temp: int = 0
    """Scratch bytes while the op runs."""
    out: int | None = None
    """Bytes of all outputs; None: the sum over its tensors."""
    keep: bool = False
    """Outputs stay allocated to the end of the step."""
    group: str | None = None
    """Colocation group; None: alone."""
    pin: tuple[str, ...] | None = None
    """Devices allowed; None: all."""


class Edge(NamedTuple):
    """`dst` consumes a tensor of `src`. Edges with equal (src, tensor) are one tensor with several consumers."""

    src: str
    dst: str
    bytes: int = 0
    comm: int | None = None
    """Ticks between any two devices; None: from bytes and link."""
    tensor: str | None = None
    """Name of the tensor; None: the name of `src`."""


class Device(NamedTuple):
    """Where ops run. The position in `Problem.devices` is the device's rank."""

    id: str
    kind: str
    """Device class, the key of `Op.time`; called `class` in files."""
    mem: int
    """Bytes, after subtracting runtime context and a reserve."""
    speed_pm: int = 1000
    """Speed in thousandths of the reference device."""


class Link(NamedTuple):
    """Linear transfer model: latency plus bytes over bandwidth."""

    lat: int = 0
    """Ticks."""
    bytes_per_s: int | None = None
    """None: infinite."""


class Segment(NamedTuple):
    """Ops of a training step whose outputs may be computed again or wait in the host's memory until the backward pass reads them."""

    id: str
    passes: tuple[tuple[str, str | None], ...]
    """(op of the forward pass, the op of the backward pass that reads what it keeps; None: there is none), in the order they run in."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is to be placed, on what.

    Raises:
        ProblemError: every mistake found, each with the name of the op, edge or device.
    """

    ops: tuple[Op, ...]
    edges: tuple[Edge, ...] = ()
    devices: tuple[Device, ...]
    default_link: Link = field(default_factory=Link)
    links: Mapping[tuple[str, str], Link] = field(default_factory=dict)
    """Directed (src device, dst device) -> link, where it differs from the default."""
    tick_ns: int = 1
    comm_mode: CommMode = "parallel"
    mem_mode: MemMode = "static"
    segments: tuple[Segment, ...] = ()
    """What may be recomputed or offloaded (7.5); under dynamic accounting only."""
    host_links: Mapping[str, Link] = field(default_factory=dict)
    """Device class -> link to the memory of its host; a class that is missing cannot offload (it is the host, say)."""
    _skeleton: Skeleton | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("ops", "edges", "devices", "segments"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # a list would let the problem change under its checks
        problems = _device_faults(self) + _segment_faults(self)
        skeleton = self._skeleton
        if skeleton is None or skeleton.ops is not self.ops or skeleton.edges is not self.edges:
            skeleton, faults = build_skeleton(self.ops, self.edges, {d.id for d in self.devices})
            problems = faults + problems
        if problems or skeleton is None:
            raise ProblemError(problems)
        object.__setattr__(self, "_skeleton", skeleton)
        self.graph.check_runnable()

    @property
    def skeleton(self) -> Skeleton:
        """The part that does not depend on the devices, checked and indexed."""
        return cast(Skeleton, self._skeleton)

    @cached_property
    def graph(self) -> "Graph":
        """The problem as arrays in canonical order, which is what every algorithm works on."""
        from mottle.placement.canonical import compile_graph  # here, because the graph is compiled from a problem

        return compile_graph(self)

    def with_devices(self, devices: tuple[Device, ...]) -> "Problem":
        """The same ops on other devices; links between devices that are gone are dropped, new pairs get the default link.

        Raises:
            ProblemError: an op or group has no device left to run on.
        """
        ids = {d.id for d in devices}
        links = {pair: link for pair, link in self.links.items() if pair[0] in ids and pair[1] in ids}
        return replace(self, devices=devices, links=links)


def _device_faults(problem: Problem) -> list[str]:
    faults = [] if problem.devices else ["wanted at least one device, got none: declare `devices`"]
    seen: set[str] = set()
    for device in problem.devices:
        if device.id in seen:
            faults.append(f"device {device.id!r} is listed twice: give every device its own id")
        seen.add(device.id)
        faults += integer_fault(f"device {device.id!r}: mem", device.mem)
        faults += integer_fault(f"device {device.id!r}: speed_pm", device.speed_pm, least=1)
    named = {f"link {src} -> {dst}": link for (src, dst), link in problem.links.items()}
    hosts = {f"link of class {kind!r} to its host": link for kind, link in problem.host_links.items()}
    for where, link in {"link default -> default": problem.default_link, **named, **hosts}.items():
        faults += integer_fault(f"{where}: lat", link.lat)
        if link.bytes_per_s is not None:
            faults += integer_fault(f"{where}: Bps", link.bytes_per_s, least=1)
    for pair in problem.links:
        faults += [f"link {pair[0]!r} -> {pair[1]!r} names the unknown device {end!r}" for end in pair if end not in seen]
        if pair[0] == pair[1]:
            faults.append(f"link {pair[0]!r} -> {pair[1]!r} joins a device to itself: moving within a device is free")
    faults += integer_fault("tick_ns", problem.tick_ns, least=1)
    if problem.comm_mode not in COMM_MODES:
        faults.append(f"comm_mode is one of {', '.join(COMM_MODES)}; got {problem.comm_mode!r}")
    if problem.mem_mode not in MEM_MODES:
        faults.append(f"mem_mode is one of {', '.join(MEM_MODES)}; got {problem.mem_mode!r}")
    return faults


def _segment_faults(problem: Problem) -> list[str]:
    if not problem.segments:
        return []
    faults = []
    if problem.mem_mode == "static":
        faults.append(
            "segments need mem_mode 'dynamic': under static accounting outputs stay to the end of the step whatever is recomputed"
        )
    ids = {op.id for op in problem.ops}
    names, listed = set[str](), set[str]()
    for segment in problem.segments:
        where = f"segment {segment.id!r}"
        if segment.id in names:
            faults.append(f"{where} is listed twice: give every segment its own id")
        names.add(segment.id)
        for name in (each for pair in segment.passes for each in pair if each is not None):
            if name not in ids:
                faults.append(f"{where} names the unknown op {name!r}")
            elif name in listed:
                faults.append(f"{where} names op {name!r} again: an op is in one segment, in one place")
            listed.add(name)
        if not any(backward is not None for _, backward in segment.passes):
            faults.append(f"{where} has no backward op, so nothing of it waits: leave it out")
    return faults

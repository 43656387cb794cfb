"""Capture: PyTorch models as operator graphs with sizes and times, without running them. Needs torch, which `mottle.placement` does not."""

from mottle.placement.tracing.capture import PCIE, TICK_NS, Capture, capture
from mottle.placement.tracing.example import Example, parse_shapes
from mottle.placement.tracing.measure import measure
from mottle.placement.tracing.problems import GRAPHS, SLOTS, GraphKind, Optimizer, Times, TimeTable
from mottle.placement.tracing.profile import Profile, profile
from mottle.placement.tracing.rates import DEVICE_CLASSES, DeviceClass, declare, parse_bytes
from mottle.placement.tracing.trace import Source
from mottle.placement.tracing.units import Flow, State, Unit

__all__ = [
    "DEVICE_CLASSES",
    "GRAPHS",
    "PCIE",
    "SLOTS",
    "TICK_NS",
    "Capture",
    "DeviceClass",
    "Example",
    "Flow",
    "GraphKind",
    "Optimizer",
    "Profile",
    "Source",
    "State",
    "TimeTable",
    "Times",
    "Unit",
    "capture",
    "declare",
    "measure",
    "parse_bytes",
    "parse_shapes",
    "profile",
]

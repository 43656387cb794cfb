"""Placement: which device runs which op of a model, on unequal devices with little memory.

`plan` takes a PyTorch model, an example and devices, and `plan.module(model)` runs it there. Below that: `capture` makes a `Problem` of a
model (or `load_problem`, or build one); `place` it; `simulate` and `bounds` judge; `repair` adapts a plan when devices come and go.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mottle.placement.coarsen import COARSENINGS, Coarsening
from mottle.placement.command import PlaceReport, place_file
from mottle.placement.entry import catalogue, place
from mottle.placement.errors import InfeasibleError, ProblemError, UndecidedError
from mottle.placement.generate import SmallShape, block_problem, fleet, layered_problem, small_problem
from mottle.placement.lower_bounds import Bounds, bounds
from mottle.placement.perfetto import save_trace, trace_events
from mottle.placement.pg1 import load_problem, save_problem
from mottle.placement.picture import draw, save_picture
from mottle.placement.plans import Candidate, Plan, Simulation, Transfer, load_plan, save_plan, simulate
from mottle.placement.problem import COMM_MODES, MEM_MODES, CommMode, Device, Edge, Link, MemMode, Op, Problem, Segment
from mottle.placement.reductions import ACTIVATIONS, Activations, Reduction
from mottle.placement.replan import Repair, repair
from mottle.placement.replanning import Replan, replan
from mottle.placement.replicas import Replicated, place_replicated
from mottle.placement.report import explain, explain_bounds, explain_reductions
from mottle.placement.robust import RobustPlan, place_robust
from mottle.placement.stages import Chain, Pipeline, Stage, chain_of, partition_chain

if TYPE_CHECKING:
    from mottle.placement.cluster import Cluster, find_cluster
    from mottle.placement.execution import PlacedModule
    from mottle.placement.model_plan import plan
    from mottle.placement.tracing import DEVICE_CLASSES, Capture, DeviceClass, capture, declare, measure

__all__ = [
    "ACTIVATIONS",
    "COARSENINGS",
    "COMM_MODES",
    "DEVICE_CLASSES",
    "MEM_MODES",
    "Activations",
    "Bounds",
    "Candidate",
    "Capture",
    "Chain",
    "Cluster",
    "Coarsening",
    "CommMode",
    "Device",
    "DeviceClass",
    "Edge",
    "InfeasibleError",
    "Link",
    "MemMode",
    "Op",
    "Pipeline",
    "PlaceReport",
    "PlacedModule",
    "Plan",
    "Problem",
    "ProblemError",
    "Reduction",
    "Repair",
    "Replan",
    "Replicated",
    "RobustPlan",
    "Segment",
    "Simulation",
    "SmallShape",
    "Stage",
    "Transfer",
    "UndecidedError",
    "block_problem",
    "bounds",
    "capture",
    "catalogue",
    "chain_of",
    "declare",
    "draw",
    "explain",
    "explain_bounds",
    "explain_reductions",
    "find_cluster",
    "fleet",
    "layered_problem",
    "load_plan",
    "load_problem",
    "measure",
    "partition_chain",
    "place",
    "place_file",
    "place_replicated",
    "place_robust",
    "plan",
    "repair",
    "replan",
    "save_picture",
    "save_plan",
    "save_problem",
    "save_trace",
    "simulate",
    "small_problem",
    "trace_events",
]

_WITH_TORCH = {
    "plan": "mottle.placement.model_plan",
    "PlacedModule": "mottle.placement.execution",
    **dict.fromkeys(("Cluster", "find_cluster"), "mottle.placement.cluster"),
    **dict.fromkeys(("DEVICE_CLASSES", "Capture", "DeviceClass", "capture", "declare", "measure"), "mottle.placement.tracing"),
}


def __getattr__(name: str) -> Any:
    """What needs torch is loaded at first use: importing it takes longer than most placements."""
    if name not in _WITH_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WITH_TORCH[name]), name)

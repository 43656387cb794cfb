"""Placement: which device runs which op of a model, on unequal devices with little memory.

`load_problem` or build a `Problem`; `place` it; `simulate` and `bounds` judge; `repair` adapts a plan when devices come and go.
"""

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
from mottle.placement.problem import COMM_MODES, MEM_MODES, CommMode, Device, Edge, Link, MemMode, Op, Problem
from mottle.placement.replan import Repair, repair
from mottle.placement.report import explain, explain_bounds
from mottle.placement.stages import Chain, Pipeline, Stage, chain_of, partition_chain

__all__ = [
    "COARSENINGS",
    "COMM_MODES",
    "MEM_MODES",
    "Bounds",
    "Candidate",
    "Chain",
    "Coarsening",
    "CommMode",
    "Device",
    "Edge",
    "InfeasibleError",
    "Link",
    "MemMode",
    "Op",
    "Pipeline",
    "PlaceReport",
    "Plan",
    "Problem",
    "ProblemError",
    "Repair",
    "Simulation",
    "SmallShape",
    "Stage",
    "Transfer",
    "UndecidedError",
    "block_problem",
    "bounds",
    "catalogue",
    "chain_of",
    "draw",
    "explain",
    "explain_bounds",
    "fleet",
    "layered_problem",
    "load_plan",
    "load_problem",
    "partition_chain",
    "place",
    "place_file",
    "repair",
    "save_picture",
    "save_plan",
    "save_problem",
    "save_trace",
    "simulate",
    "small_problem",
    "trace_events",
]

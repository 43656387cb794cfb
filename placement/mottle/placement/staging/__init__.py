"""Staging: a captured model cut into a chain of stages, each of which runs in a process of its own. Needs torch."""

from mottle.placement.staging.calls import StandIn, call_of
from mottle.placement.staging.cutting import Activations, Cut, Member, cut_stages
from mottle.placement.staging.program import Boundary, StageProgram, attributes_of, stages_of
from mottle.placement.staging.stale import StaleConfig, StaleRun, train_stale

__all__ = [
    "Activations",
    "Boundary",
    "Cut",
    "Member",
    "StageProgram",
    "StaleConfig",
    "StaleRun",
    "StandIn",
    "attributes_of",
    "call_of",
    "cut_stages",
    "stages_of",
    "train_stale",
]

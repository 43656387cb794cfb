"""Staging: a captured model cut into a chain of stages, each of which runs in a process of its own. Needs torch."""

from mottle.placement.staging.calls import StandIn, call_of
from mottle.placement.staging.cutting import Activations, Bound, Cut, Member, cut_stages
from mottle.placement.staging.drifting import Drift
from mottle.placement.staging.predicting import predict_step
from mottle.placement.staging.program import Boundary, StageProgram, attributes_of, stages_of
from mottle.placement.staging.recutting import Recut, recut
from mottle.placement.staging.stale import StaleConfig, StaleRun, train_stale

__all__ = [
    "Activations",
    "Bound",
    "Boundary",
    "Cut",
    "Drift",
    "Member",
    "Recut",
    "StageProgram",
    "StaleConfig",
    "StaleRun",
    "StandIn",
    "attributes_of",
    "call_of",
    "cut_stages",
    "predict_step",
    "recut",
    "stages_of",
    "train_stale",
]

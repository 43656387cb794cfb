"""Execution: a model in one process on several devices, as a plan says."""

from mottle.placement.execution.hooked import HookedModule
from mottle.placement.execution.placed import PlacedModule, place_model
from mottle.placement.execution.program import Move

__all__ = ["HookedModule", "Move", "PlacedModule", "place_model"]

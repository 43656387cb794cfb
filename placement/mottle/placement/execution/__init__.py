"""Execution: a model in one process on several devices, as a plan says."""

from mottle.placement.execution.placed import PlacedModule
from mottle.placement.execution.program import Move

__all__ = ["Move", "PlacedModule"]

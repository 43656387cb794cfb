"""Optimizers on slices of the flat vector, for shards and for workers, clipping, and schedules that count samples.

`schedule`, `clipping` and `groups` know no torch, and a coordinator asks only them: what needs torch (1.1 s to import) is loaded when it
is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mottle.optim.clipping import clip_factor
from mottle.optim.groups import OptimizerSpec, read
from mottle.optim.schedule import Schedule

if TYPE_CHECKING:
    from mottle.optim.outer import build_server
    from mottle.optim.slices import SliceOptimizer, build
    from mottle.optim.state import State, cut, join

_NEEDS_TORCH = {"SliceOptimizer": "slices", "build": "slices", "build_server": "outer", "State": "state", "cut": "state", "join": "state"}

__all__ = ["OptimizerSpec", "Schedule", "SliceOptimizer", "State", "build", "build_server", "clip_factor", "cut", "join", "read"]


def __getattr__(name: str) -> Any:
    if name in _NEEDS_TORCH:
        return getattr(import_module(f"{__name__}.{_NEEDS_TORCH[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

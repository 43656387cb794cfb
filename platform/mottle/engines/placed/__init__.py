"""A model in stages, one a process: an engine that is a gang."""

from mottle.engines.placed.channel import Channel, Form
from mottle.engines.placed.config import PlacedConfig
from mottle.engines.placed.engine import Part, StageEngine, Timing
from mottle.engines.placed.passes import captured_call
from mottle.engines.placed.rehearsal import rehearse, time_link
from mottle.engines.placed.sharing import Piece, Sharing, Transfer, share
from mottle.engines.placed.stale_passes import MicroBatch

__all__ = [
    "Channel",
    "Form",
    "MicroBatch",
    "Part",
    "Piece",
    "PlacedConfig",
    "Sharing",
    "StageEngine",
    "Timing",
    "Transfer",
    "captured_call",
    "rehearse",
    "share",
    "time_link",
]

"""Training data: where rows lie, in which order an epoch visits them, and how a worker loads its leases."""

from mottle.data.arrow_files import ArrowFiles, FileSource
from mottle.data.build import build
from mottle.data.disjoint import assert_disjoint
from mottle.data.errors import DataError, OverlapError
from mottle.data.loader import Loader, Positions
from mottle.data.mapstyle import MapSource
from mottle.data.order import Order, synthetic_blocks
from mottle.data.prefetch import Prefetcher
from mottle.data.randomness import GLOBAL_RANDOMNESS, seeded_globals
from mottle.data.ray_blocks import RaySource
from mottle.data.seeds import derive_seed, draw_rows
from mottle.data.source import Batch, CollateFn, Source

__all__ = [
    "GLOBAL_RANDOMNESS",
    "ArrowFiles",
    "Batch",
    "CollateFn",
    "DataError",
    "FileSource",
    "Loader",
    "MapSource",
    "Order",
    "OverlapError",
    "Positions",
    "Prefetcher",
    "RaySource",
    "Source",
    "assert_disjoint",
    "build",
    "derive_seed",
    "draw_rows",
    "seeded_globals",
    "synthetic_blocks",
]

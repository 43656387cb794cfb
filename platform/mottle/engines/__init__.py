"""Engines: what turns samples into an update inside a worker."""

from mottle.engines.base import Accumulated, Average, Batch, Engine, Fetch, Loss, Metric
from mottle.engines.catalogue import CATALOGUE, build
from mottle.engines.companions import add_companions
from mottle.engines.flat import flatten, layout_of, unflatten
from mottle.engines.local import LocalTraining
from mottle.engines.memory import SampleTooLargeError, is_out_of_memory
from mottle.engines.torch_engine import TorchConfig, TorchEngine

__all__ = [
    "CATALOGUE",
    "Accumulated",
    "Average",
    "Batch",
    "Engine",
    "Fetch",
    "LocalTraining",
    "Loss",
    "Metric",
    "SampleTooLargeError",
    "TorchConfig",
    "TorchEngine",
    "add_companions",
    "build",
    "flatten",
    "is_out_of_memory",
    "layout_of",
    "unflatten",
]

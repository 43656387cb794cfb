"""The front door: describe a job, start it, watch it, get its result."""

from mottle.actors.job import WorkerGroup as WorkerGroup
from mottle.core.health import HealthConfig as HealthConfig
from mottle.sdk.attaching import attach as attach
from mottle.sdk.result import Result as Result
from mottle.sdk.reuse import kept_processes as kept_processes
from mottle.sdk.run import Run as Run
from mottle.sdk.trainer import Trainer as Trainer
from mottle.sdk.until import Until as Until

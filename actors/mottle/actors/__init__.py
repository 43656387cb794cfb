"""Thin Ray shells around the pure machines: coordinator, parameter shard, worker, validator."""

from mottle.actors.coordinator import Coordinator as Coordinator
from mottle.actors.job import Job as Job
from mottle.actors.job import WorkerGroup as WorkerGroup

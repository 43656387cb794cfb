"""Thin Ray shells around the pure machines: coordinator, parameter shard, worker, validator.

Each shell is imported from its own module: every process of a run imports this package, and only the coordinator's needs the tables of the
record.
"""

from mottle.actors.importing import collector_off

with collector_off():
    from mottle.actors.job import Job as Job
    from mottle.actors.job import WorkerGroup as WorkerGroup

"""What a coordinator that takes over must know of its run and cannot learn from the log: the job, and by which token the run goes.

A job holds whatever its author put in, data sets included. So it is packed once, and lies with shard 0 as it was packed.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from ray import cloudpickle

from mottle.actors import transport
from mottle.actors.job import Job


class Charter(NamedTuple):
    """See above."""

    job: Job
    run: str
    keeping: bool
    """Whether processes whose run is over wait for another."""


def charter_of(charter: Charter) -> Any:
    """As `transport.publish` makes it."""
    return transport.publish(torch.from_numpy(np.frombuffer(cloudpickle.dumps(charter), dtype=np.uint8)))  # type: ignore[no-untyped-call]  # Ray leaves it unannotated


def read_charter(published: Any) -> Charter:
    """Inverse of `charter_of`."""
    charter: Charter = cloudpickle.loads(transport.receive(published).numpy().data)
    return charter

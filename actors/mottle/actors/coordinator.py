"""The coordinator's process: it serves one run after another. What belongs to one is its `Session`, in `mottle.actors.coordination`."""

import gc
import secrets
import sys
from typing import Any

import torch

from mottle.actors import transport
from mottle.actors.coordination import Session
from mottle.actors.job import Job, Resumption
from mottle.actors.logs import Output
from mottle.actors.memory import forget_peak
from mottle.actors.reports import RunHandle
from mottle.actors.reserve import RESERVE
from mottle.core import protocol as p

SWITCH_S = 0.001
"""Longest time that the record's thread computes on when a message waits to be heard; Python's default is five times that."""


class Coordinator:
    """A coordinator's process: `start` gives it a run, `rest` ends that. People's questions go through `ask`."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        sys.setswitchinterval(SWITCH_S)
        self._output = Output()
        self._run = ""
        self._session: Session | None = None

    def start(self, me: Any, job: Job, notes: list[str], resumption: Resumption | None, values: Any, keeping: bool) -> None:
        """See `Session.start`.

        Args:
            me: this actor's own handle, for the others to send events to.
            job, notes, resumption: see `Session`.
            keeping: whether processes whose run is over wait for another.
        """
        forget_peak()
        RESERVE.keeping = keeping
        self._run = secrets.token_hex(8)
        run = RunHandle(me, self._run)
        self._session = Session(job, notes, resumption, run)
        self._output.keep(job.run_dir, "coordinator", self._session.log)
        self._session.start(values)

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of the run's session."""
        assert self._session is not None, "this process coordinates no run at present"
        return getattr(self._session, method)(*arguments)

    @transport.call(answered=False)
    def events(self, events: list[p.Event], run: str) -> None:
        """Facts from shards, workers and the validator of a run; those of an earlier one come too late."""
        if self._session is not None and run == self._run:
            self._session.events(events)

    @transport.call(group="control", answered=False)
    def log(self, run: str, name: str, data: bytes) -> None:
        """Output of a process that does not see the run's folder."""
        if self._session is not None and run == self._run:
            self._session.log(name, data)

    def rest(self) -> None:
        """Forget the run."""
        self._session = None
        self._output.close()
        gc.collect()

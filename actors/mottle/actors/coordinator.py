"""The coordinator's process: it serves one run after another. What belongs to one is its `Session`, in `mottle.actors.coordination`."""

import gc
import secrets
import sys
import threading
import traceback
from typing import Any

import ray
import torch

from mottle.actors import transport
from mottle.actors.comeback import come_back
from mottle.actors.coordination import Session
from mottle.actors.importing import keep_imported
from mottle.actors.job import Job, Resumption
from mottle.actors.logs import Output
from mottle.actors.memory import forget_peak
from mottle.actors.reports import RunHandle
from mottle.actors.reserve import RESERVE
from mottle.core import protocol as p
from mottle.core.takeover import TakeoverError

SWITCH_S = 0.001
"""Longest time that the record's thread computes on when a message waits to be heard; Python's default is five times that."""


class Coordinator:
    """A coordinator's process: `start` gives it a run, `rest` ends that. People's questions go through `ask`.

    One that Ray has made in the place of a lost one goes on with that one's run by itself.
    """

    def __init__(self) -> None:
        keep_imported()
        torch.set_num_threads(1)
        sys.setswitchinterval(SWITCH_S)
        self._output = Output()
        self._run = ""
        self._session: Session | None = None
        self._failure = ""
        """Why a lost one's run could not be gone on with."""
        self._ready = threading.Event()
        if _takes_a_place():
            threading.Thread(target=self._come_back, name="comeback", daemon=True).start()
        else:
            self._ready.set()

    def _come_back(self) -> None:
        try:
            charter = come_back(ray.get_runtime_context().current_actor, self._stand)
            assert self._session is not None
            self._output.keep(charter.job.run_dir, "coordinator", self._session.log)
        except TakeoverError as error:
            self._failure = str(error)
        except Exception as error:  # a bug of ours: whoever asks is told
            traceback.print_exc()
            self._failure = f"the coordinator was lost and could not be replaced: {type(error).__name__}: {error}"
        finally:
            self._ready.set()

    def _stand(self, session: Session, run: str) -> None:
        self._session, self._run = session, run

    def start(self, me: Any, job: Job, notes: list[str], resumption: Resumption | None, values: Any, keeping: bool) -> None:
        """See `Session.start`.

        Args:
            me: this actor's own handle, for the others to send events to.
            job, notes, resumption: see `Session`.
            keeping: whether processes whose run is over wait for another.
        """
        self._ready.wait()
        self._failure = ""
        forget_peak()
        RESERVE.keeping = keeping
        self._run = secrets.token_hex(8)
        run = RunHandle(me, self._run)
        self._session = Session(job, notes, resumption, run)
        self._output.keep(job.run_dir, "coordinator", self._session.log)
        self._session.start(values)

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of the run's session, once there is one.

        Raises:
            TakeoverError: its coordinator was lost, and this one cannot go on with it.
        """
        self._ready.wait()
        if self._failure:
            raise TakeoverError(self._failure)
        assert self._session is not None, "this process coordinates no run at present"
        return getattr(self._session, method)(*arguments)

    @transport.call(group="lives")
    def lives(self) -> None:
        """Answered by a coordinator that is not gone for good."""

    @transport.call(answered=False)
    def events(self, events: list[p.Event], run: str) -> None:
        """Facts from shards, workers and the validator of a run; those of an earlier one come too late."""
        if self._session is not None and run == self._run:
            self._session.events(events)

    @transport.call(answered=False)
    def reports(self, replica: p.ReplicaId, held: int, said: list[tuple[int, p.Report]], run: str) -> None:
        """What a shard of a run says, where it has no line."""
        if self._session is not None and run == self._run:
            self._session.reported(replica, held, said)

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


def _takes_a_place() -> bool:
    """Whether this process stands where another one was."""
    context = ray.get_runtime_context()
    return ray.is_initialized() and context.get_actor_id() is not None and bool(context.was_current_actor_reconstructed)

"""Callbacks and metric loggers, fed from the driver: whatever they do, training does not wait for them.

Each evaluation of the model becomes one merged dict of metrics: `after_report` gets it as a list of one, since Mottle has one model and not
one report a worker. A worker that dies is told by `after_exception`, under its slot.
"""

import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray.train

from mottle.actors.job import Job
from mottle.observe.loggers import MetricLogger
from mottle.observe.snapshot import Snapshot
from mottle.sdk.ray_context import run_context

POLL_S = 0.5


class WorkerDiedError(RuntimeError):
    """What `after_exception` is given for a worker that died. It does not stop the run."""


class Reporter:
    """Watches a run from a thread of its own.

    Args:
        job: the run.
        callbacks: Ray's.
        loggers: `log(metrics, samples)`.
        reports: gives the evaluations from a given one on.
        snapshot: gives the run as it is.
    """

    def __init__(
        self,
        job: Job,
        callbacks: Sequence[ray.train.UserCallback],
        loggers: Sequence[MetricLogger],
        reports: Callable[[int], list[Mapping[str, float]]],
        snapshot: Callable[[], Snapshot],
    ) -> None:
        self._callbacks = callbacks
        self._loggers = loggers
        self._reports = reports
        self._snapshot = snapshot
        self._num_seen = 0
        self._dead: set[str] = set()
        self._stopped = threading.Event()
        storage = job.run_dir.rstrip("/").rpartition("/")[0]
        self._context = run_context(job.name, storage, sum(group.count for group in job.groups)) if callbacks else None
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Tell what has not been told yet, then let the loggers close."""
        self._stopped.set()
        self._thread.join()
        self._tell()
        for logger in self._loggers:
            logger.close()

    def _run(self) -> None:
        while not self._stopped.wait(POLL_S):
            self._tell()

    def _tell(self) -> None:
        for metrics in self._reports(self._num_seen):
            self._num_seen += 1
            for logger in self._loggers:
                logger.log({name: value for name, value in metrics.items() if name != "samples"}, int(metrics["samples"]))
            for callback in self._callbacks:
                self._call(callback.after_report, run_context=self._context, metrics=[dict(metrics)], checkpoint=None)
        for worker in self._snapshot().workers if self._callbacks else ():
            if worker.state == "killed" and worker.id not in self._dead:
                self._dead.add(worker.id)
                exceptions = {int(worker.id[1:]): WorkerDiedError(f"worker {worker.id} on {worker.device} died; the run goes on")}
                for callback in self._callbacks:
                    self._call(callback.after_exception, run_context=self._context, worker_exceptions=exceptions)

    @staticmethod
    def _call(callback: Callable[..., None], **arguments: Any) -> None:
        """A callback that fails is the user's: its traceback is printed, the others are still called."""
        try:
            callback(**arguments)
        except Exception:
            traceback.print_exc()

"""A run that goes on under a trial: its evaluations, its crew, its durable copies, and the ways in which it ends."""

import time
from collections.abc import Mapping
from typing import Any

from mottle.actors.copies import CopyError, Source
from mottle.actors.job import Job
from mottle.core.errors import MottleError
from mottle.observe.snapshot import Snapshot
from mottle.observe.wording import GONE
from mottle.sdk import Run
from mottle.storage import Folder
from mottle.tune.borrowing import Borrowing
from mottle.tune.keeping import Keeper

POLL_S = 0.1
FREE_S = 5.0
"""Time for a stopped run to finish what it has in hand, and to save what was asked for: about what starting new processes would take."""
STORAGE_POLL_S = 0.05


class TrialError(MottleError):
    """A trial cannot go on; the others are not touched by it."""


class Going:
    """One run, from its start to the moment when its processes are free.

    Args:
        run: has begun.
        job: of it.
        data: the job file's.
        borrowing: where the workers come from; None for a crew of its own.
        after_samples: evaluations of no more samples than these were reported before.
    """

    def __init__(self, run: Run, job: Job, data: Mapping[str, Any], borrowing: Borrowing | None, after_samples: int) -> None:
        self.run, self.job, self.data = run, job, data
        self.keeper = Keeper(Folder.at(job.run_dir))
        self._borrowing = borrowing
        self._after_samples, self._after_version = after_samples, 0
        self._num_seen = 0
        self._source: Source | None = None
        if borrowing is not None:
            borrowing.begin(run)

    @property
    def source(self) -> Source:
        """Its model, for others to copy; the same until another one takes its place."""
        if self._source is None:
            self._source = self.run.source()
        return self._source

    def next(self) -> dict[str, float] | None:
        """The next evaluation that is of its own; None if there is none any more.

        Raises:
            TrialError: its crew is gone.
        """
        for snapshot in self.run.watch(POLL_S):
            for report in self.run.evaluations(self._num_seen):
                self._num_seen += 1
                if report["samples"] > self._after_samples and report["version"] >= self._after_version:
                    self._reported(report)
                    return _told(report, snapshot)
            self._check_crew(snapshot)
        return None

    def _reported(self, report: Mapping[str, float]) -> None:
        if self._borrowing is not None:
            self._borrowing.reported(int(report["samples"]))
        _ = self.source  # while it can be asked

    def _check_crew(self, snapshot: Snapshot) -> None:
        """Nobody adds workers to a trial with a crew of its own, so without any it would wait for ever."""
        if self._borrowing is not None:
            if fault := self._borrowing.fault():
                raise TrialError(fault)
            return
        if snapshot.workers and all(worker.state in GONE for worker in snapshot.workers) and not self.run.finished:
            died = [event.text for event in snapshot.events if event.kind == "killed"]
            raise TrialError(f"every worker of the trial died: {died[-1] if died else 'see the logs in its folder'}")

    @property
    def has_more(self) -> bool:
        """Whether there will be another evaluation, as far as can be told after a short while."""
        return not self.over(POLL_S) or bool(self.run.evaluations(self._num_seen))

    def over(self, timeout_s: float) -> bool:
        """Whether the run has finished, after waiting for it that long."""
        until = time.monotonic() + timeout_s
        while not self.run.finished:
            if time.monotonic() >= until:
                return False
            time.sleep(min(STORAGE_POLL_S, timeout_s))
        return True

    # --- other models, and pauses -----------------------------------------------------------------------------------------------------

    def copy(self, donor: Any, **settings: Any) -> None:
        """Take over another run's model; evaluations that began before are of nobody's any more.

        Args:
            donor: its coordinator, or the source of the model.
        Raises:
            MottleError: why that cannot be; nothing has changed.
        """
        if self.run.finished:
            raise CopyError("the run has ended")
        self.run.copy_from_coordinator(donor, **settings)
        self._after_version, self._source = self.run.progress.version, None
        _ = self.source

    def park(self) -> None:
        """Compute nothing more for a while; workers that were lent go to others."""
        if self._borrowing is None:
            self.run.pause()
        self._give_back()

    def go_on(self, borrowing: Borrowing | None) -> None:
        """After `park`."""
        self._borrowing = borrowing
        if borrowing is None:
            self.run.resume()
        else:
            borrowing.begin(self.run)

    # --- the end ----------------------------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Release the processes of a run that has finished.

        Raises:
            RunFailedError: it could not go on.
        """
        self._give_back()
        result = self.run.result()
        if result.error is not None:
            raise result.error

    def free(self) -> None:
        """End it so that its processes can serve another one; if that takes too long they are killed."""
        self.run.stop("stopped by Ray Tune")
        self._give_back()
        if not self.over(FREE_S):
            self.release()
            return
        self.run.result()
        self.keeper.close()

    def release(self) -> None:
        """End it at once, but for what was to be saved."""
        self._give_back()
        self.keeper.finish(FREE_S)
        self.run.kill()
        self.keeper.close()

    def _give_back(self) -> None:
        if self._borrowing is not None:
            self._borrowing.over()


def _told(report: Mapping[str, float], snapshot: Snapshot) -> dict[str, float]:
    """An evaluation as Tune's loggers and schedulers see it."""
    values = {name: value for name, value in report.items() if name != "time_s"}
    present = sum(worker.state not in GONE for worker in snapshot.workers)
    return {**values, "samples": int(report["samples"]), "wall_s": report["time_s"], "workers": present}

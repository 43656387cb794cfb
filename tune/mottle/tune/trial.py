"""One trial of Ray Tune is one Mottle run: a thin shell that starts it, reports its evaluations and lets it go.

The run trains on while Tune thinks. It is asked to save a checkpoint with every evaluation, so what Tune keeps along with a result is the
version that was measured (or, under asynchronous strategies, one that a step on its way had reached by then).
"""

import math
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, ClassVar

import ray
import ray.tune
from ray.tune.result import DONE, RESULT_DUPLICATE, SHOULD_CHECKPOINT

from mottle.actors.fleet import CrewError
from mottle.actors.job import KeepCheckpoints
from mottle.checkpoint.parts import CheckpointError
from mottle.core.errors import ConfigError, MottleError
from mottle.observe.snapshot import Snapshot
from mottle.observe.wording import GONE
from mottle.sdk import Run, Trainer, kept_processes
from mottle.sdk.jobfile import JobFile
from mottle.sdk.local import missing_resources
from mottle.sdk.schema import JobFileError
from mottle.storage import Folder
from mottle.tune import crew, handover
from mottle.tune.arbiter import Loan
from mottle.tune.borrowing import Borrowing, job_and_crew
from mottle.tune.fields import SCALING, touched
from mottle.tune.population import fixed_fields, in_place
from mottle.tune.space import job_with

POLL_S = 0.1
FREE_S = 5.0
"""Time for a stopped run to finish what it has in hand: about what starting new processes would take."""
STORAGE_POLL_S = 0.05
_SCHEMES = {"s3": "s3", "gcs": "gs"}
_FLEET_FIELDS = {"fleet", SCALING}
Config = dict[str, Any]


class TrialError(MottleError):
    """A trial cannot go on; the others are not touched by it."""


class Trial(ray.tune.Trainable):
    """What `trainable` makes a class of for each job."""

    job: ClassVar[JobFile]
    loan: ClassVar[Loan | None] = None
    """The fleet that trials share; None where each has a crew of its own."""

    # --- on the driver ----------------------------------------------------------------------------------------------------------------

    @classmethod
    def default_resource_request(cls, config: Config) -> Any:
        """What Tune sets aside; asked on the driver before a trial is started, so here a space that cannot be is refused.

        A field that does not exist ends the sweep, for it does not exist in any trial. A value that cannot be, or a crew that is too large
        where the crew is what is searched, fails its own trial alone, which asks for nothing.
        """
        if not config:
            raise ConfigError("the space is empty; name at least one field to search, such as optimizer.lr")
        try:
            if cls.loan is not None:
                job_and_crew(cls.job, config, cls.loan)
                return crew.lent()
            groups = crew.groups_of(job_with(cls.job, config))
        except JobFileError as error:
            if unknown := [fault for fault in error.faults if fault.unknown]:
                raise JobFileError(unknown) from None
            return crew.nothing() if cls.loan is None else crew.lent()
        except MottleError:
            if cls.loan is None:
                raise
            return crew.lent()  # a share that the fleet cannot give
        if lacking := missing_resources(groups) if ray.is_initialized() else "":
            if touched(config) & _FLEET_FIELDS:
                return crew.nothing()
            raise CrewError(f"one trial's crew needs {lacking}; ask for fewer workers or resources, or add machines")
        return crew.request(groups)

    # --- in the trial's process -------------------------------------------------------------------------------------------------------

    def setup(self, config: Config) -> None:
        """Note what the trial is; nothing is started before Tune wants a step, for a checkpoint may come first."""
        self._kept = ExitStack()
        self._kept.enter_context(kept_processes())  # where Tune reuses this process for another trial, that one reuses the crew's
        self._become(config)

    def _become(self, config: Config) -> None:
        self._fields = config
        self._trainer: Trainer | None = None
        self._resumes = False
        self._run: Run | None = None
        self._borrowing: Borrowing | None = None
        self._num_seen = 0
        self._began_at = 0
        self._version: int | None = None
        """The version that the last result, or the checkpoint taken up, was of."""
        self._ended = False

    def step(self) -> dict[str, Any]:
        """The next evaluation; the last one says that the trial is done.

        Raises:
            ConfigError: values that cannot be.
            TrialError: the run diverged, lost its whole crew, or measured nothing.
            RunFailedError: the run could not go on.
        """
        if self._run is None and not self._ended:
            self._begin()
        report = None if self._ended else self._next()
        if report is None:
            if self._version is None:
                raise TrialError("the run ended and nothing was measured: every evaluation failed; see the logs in its folder")
            return {RESULT_DUPLICATE: True}  # Tune takes its last result as the end
        self._version = int(report["version"])
        if self._borrowing is not None:
            self._borrowing.reported(int(report["samples"]))
        if not math.isfinite(report["test_loss"]):
            self._release()
            raise TrialError(f"diverged: test_loss is {report['test_loss']} after {report['samples']:.0f} samples")
        self._await_checkpoint()
        assert self._run is not None
        if self._over(POLL_S) and not self._run.evaluations(self._num_seen):
            self._end()
        return {**report, "complete": self._ended, DONE: self._ended, SHOULD_CHECKPOINT: True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Hand over the version of the last result."""
        assert self._trainer is not None
        assert self._version is not None, "Tune saves after a result or not at all"
        job = self._trainer.job
        manifest = handover.whole(Folder.at(job.run_dir), self._version)
        if manifest is None:
            raise CheckpointError(f"no checkpoint of version {self._version} could be written to {job.run_dir}; see the logs there")
        handover.hand_over(job, manifest, checkpoint_dir)

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Go on from there at the next step, in a folder of its own: what was computed until now is another history."""
        self._free()
        self._trainer = self._described()
        manifest = handover.take_up(checkpoint, self._trainer.job)
        self._resumes, self._began_at, self._version = True, manifest.samples, manifest.version[1]
        self._num_seen, self._ended = 0, False

    def reset_config(self, new_config: Config) -> bool:
        """Become another trial in the same process, and in the processes of the crew where they are free soon."""
        self._free()
        self._become(new_config)
        return True

    # --- population-based training ----------------------------------------------------------------------------------------------------

    def coordinator(self) -> Any:
        """Whom another trial can copy the model from; None between two runs."""
        return None if self._run is None else self._run.coordinator

    def exploit(self, donor: Any, new_config: Config) -> str:
        """Take over the model of another trial's run and go on with these fields. Why that cannot be, and nothing has changed; else empty.

        Args:
            donor: the other run's coordinator.
        """
        if self._run is None or self._trainer is None:
            return "the run has ended"
        other = self._job_of(new_config)
        job, then = self._trainer.job, other.trainer(folder="unused").job
        settings, fixed = in_place(job, then)
        if fixed := fixed_fields(self._job_of(self._fields).data, other.data) + fixed:
            return f"{', '.join(fixed)} cannot be changed while a run goes on"
        try:
            self._run.copy_from_coordinator(donor, **settings)
        except MottleError as error:
            return str(error)
        self._fields = new_config
        self._trainer.job = replace(
            job,
            optimizer=then.optimizer,
            strategy=then.strategy,
            strategy_defaults=then.strategy_defaults,
            server_optimizer=then.server_optimizer,
        )
        return ""

    def cleanup(self) -> None:
        """Let every actor of the run go at once."""
        self._release()
        self._kept.close()

    # --- the run ----------------------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._trainer is None:
            self._trainer = self._described()
        self._run = self._trainer.resume() if self._resumes else self._trainer.start()
        if self._borrowing is not None:
            self._borrowing.begin(self._run)

    def _described(self) -> Trainer:
        """The trial's job, in a folder of its own below the trial's."""
        assert self._storage is not None, "Tune gives every trial a place"
        trials = Folder(self._storage.storage_filesystem, self._storage.trial_fs_path)
        name = f"run-{sum(each.startswith('run-') for each in trials.folders()):03d}"
        folder = f"{address_of(trials)}/{name}"
        trainer = self._job_of(self._fields).trainer(folder=folder)
        if self.loan is not None:
            _, (minimum, maximum) = job_and_crew(self.job, self._fields, self.loan)
            trainer.job = replace(trainer.job, lent_crew=minimum, lender=self.loan.owner)
            self._borrowing = Borrowing(self.loan, trainer.job.run_dir, minimum, maximum)
        brain = replace(trainer.job.brain, save_evaluated=True, checkpoint_every=None)
        trainer.job = replace(trainer.job, name=self.trial_name, brain=brain, keep=KeepCheckpoints())
        return trainer

    def _job_of(self, fields: Config) -> JobFile:
        return job_with(self.job, fields) if self.loan is None else job_and_crew(self.job, fields, self.loan)[0]

    def _next(self) -> dict[str, float] | None:
        """The next evaluation that is not of what the run began with; None if there is none any more."""
        assert self._run is not None
        for snapshot in self._run.watch(POLL_S):
            for report in self._run.evaluations(self._num_seen):
                self._num_seen += 1
                if report["samples"] > self._began_at:
                    return _told(report, snapshot)
            self._check_crew(snapshot)
        self._end()
        return None

    def _check_crew(self, snapshot: Snapshot) -> None:
        """Nobody adds workers to a trial with a crew of its own, so without any it would wait for ever."""
        assert self._run is not None
        if self._borrowing is not None:
            if fault := self._borrowing.fault():
                self._release()
                raise TrialError(fault)
            return
        if snapshot.workers and all(worker.state in GONE for worker in snapshot.workers) and not self._run.finished:
            died = [event.text for event in snapshot.events if event.kind == "killed"]
            self._release()
            raise TrialError(f"every worker of the trial died: {died[-1] if died else 'see the logs in its folder'}")

    def _await_checkpoint(self) -> None:
        """Until what was measured is saved, or cannot be: then it is for Tune's own call to say so."""
        assert self._trainer is not None
        assert self._version is not None
        folder = Folder.at(self._trainer.job.run_dir)
        while handover.whole(folder, self._version) is None:
            if self._over(STORAGE_POLL_S):
                return

    def _over(self, timeout_s: float) -> bool:
        """Whether the run has finished, after waiting for it that long."""
        assert self._run is not None
        until = time.monotonic() + timeout_s
        while not self._run.finished:
            if time.monotonic() >= until:
                return False
            time.sleep(min(STORAGE_POLL_S, timeout_s))
        return True

    def _end(self) -> None:
        """Release the crew of a run that has finished.

        Raises:
            RunFailedError: it could not go on.
        """
        assert self._run is not None
        run, self._run, self._ended = self._run, None, True
        self._give_back()
        result = run.result()
        if result.error is not None:
            raise result.error

    def _free(self) -> None:
        """End a run that has not so that its processes can serve another one; one that takes too long for that is killed."""
        if self._run is None:
            return
        self._run.stop("stopped by Ray Tune")
        self._give_back()
        if self._over(FREE_S):
            self._run.result()
            self._run = None
        self._release()

    def _release(self) -> None:
        """End a run that has not, at once."""
        self._give_back()
        if self._run is not None:
            self._run.kill()
            self._run = None

    def _give_back(self) -> None:
        """Others may have the workers that were lent to the run."""
        if self._borrowing is not None:
            self._borrowing.over()


def _told(report: Mapping[str, float], snapshot: Snapshot) -> dict[str, float]:
    """An evaluation as Tune's loggers and schedulers see it."""
    values = {name: value for name, value in report.items() if name != "time_s"}
    present = sum(worker.state not in GONE for worker in snapshot.workers)
    return {**values, "samples": int(report["samples"]), "wall_s": report["time_s"], "workers": present}


def address_of(folder: Folder) -> str:
    """A folder of Tune's storage as a path or URI that the run's actors can open.

    Raises:
        ConfigError: a filesystem that has no such address.
    """
    kind = folder.filesystem.type_name
    if folder.is_local:
        return folder.path
    if kind not in _SCHEMES:
        raise ConfigError(
            f"trials open their storage by its address, and a {kind} filesystem has none; give a path, s3:// or gs:// as storage_path"
        )
    return f"{_SCHEMES[kind]}://{folder.path}"

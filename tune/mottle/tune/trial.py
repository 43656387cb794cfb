"""One trial of Ray Tune is one Mottle run: a thin shell that starts it, reports its evaluations and lets it go.

The run trains on while Tune thinks. It is asked to save a checkpoint with every evaluation, and Tune is given a token for it: the version
that was measured (or, under asynchronous strategies, one that a step on its way had reached by then) follows in the background.

Where Tune reuses this process for the same trial, as its population-based training does, the run is only parked meanwhile: it goes on as it
is, or copies the model of the trial whose token comes, from shard to shard.
"""

import logging
import math
import time
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import ray
import ray.tune
from ray.tune.result import DONE, RESULT_DUPLICATE, SHOULD_CHECKPOINT

from mottle.actors import placing
from mottle.actors.fleet import CrewError
from mottle.actors.job import KeepCheckpoints
from mottle.core.errors import ConfigError, MottleError
from mottle.sdk import Trainer, kept_processes
from mottle.sdk.jobfile import JobFile
from mottle.sdk.local import missing_resources
from mottle.sdk.schema import JobFileError
from mottle.storage import Folder
from mottle.tune import crew, handover
from mottle.tune.arbiter import Loan
from mottle.tune.borrowing import Borrowing, job_and_crew
from mottle.tune.fields import SCALING, touched
from mottle.tune.going import Going, TrialError
from mottle.tune.handover import InPlace, Token
from mottle.tune.population import fixed_fields, in_place
from mottle.tune.space import job_with

logger = logging.getLogger(__name__)
SAVING_S = 30.0
"""Longest wait for a durable copy that a living run has yet to write."""
_SCHEMES = {"s3": "s3", "gcs": "gs"}
_FLEET_FIELDS = {"fleet", SCALING}
Config = dict[str, Any]


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
        self._going: Going | None = None
        self._parked: Going | None = None
        """The run that the trial had when it was paused."""
        self._measured: Going | None = None
        """What the last result is of; it may be over."""
        self._become(config)

    def _become(self, config: Config) -> None:
        self._fields = config
        self._trainer: Trainer | None = None
        self._resumes = False
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
        if self._going is None and not self._ended:
            self._begin()
        report = None if self._ended else self._next()
        if report is None:
            if self._version is None:
                raise TrialError("the run ended and nothing was measured: every evaluation failed; see the logs in its folder")
            return {RESULT_DUPLICATE: True}  # Tune takes its last result as the end
        self._version, self._measured = int(report["version"]), self._going
        if not math.isfinite(report["test_loss"]):
            self._release()
            raise TrialError(f"diverged: test_loss is {report['test_loss']} after {report['samples']:.0f} samples")
        if self._going is not None and not self._going.has_more:
            self._end()
        return {**report, "complete": self._ended, DONE: self._ended, SHOULD_CHECKPOINT: True}

    def _next(self) -> dict[str, float] | None:
        assert self._going is not None
        try:
            report = self._going.next()
        except TrialError:
            self._release()
            raise
        if report is None:
            self._end()
        return report

    def save(self, checkpoint_dir: str | None = None) -> Any:
        """As Ray's: hand over the token of the last result; its durable copy follows to the same place."""
        saved = super().save(checkpoint_dir)
        assert self._measured is not None
        assert self._version is not None
        assert saved.checkpoint is not None
        kept = Folder(saved.checkpoint.filesystem, saved.checkpoint.path)
        self._measured.keeper.keep(self._version, self._measured.source.lineage, kept)
        return saved

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the token."""
        assert self._measured is not None, "Tune saves after a result or not at all"
        assert self._version is not None
        handover.write_token(handover.token_of(self._measured.job, self._measured.source, self._version), checkpoint_dir)

    def restore(self, checkpoint_path: Any) -> None:
        """As Ray's, and the checkpoint is read where it lies.

        Args:
            checkpoint_path: what `save` has returned, its checkpoint, or the path of that.
        """
        given: Any = ray.tune.Checkpoint.from_directory(checkpoint_path) if isinstance(checkpoint_path, str) else checkpoint_path
        if isinstance(given, ray.tune.Checkpoint):
            super().restore(InPlace(given.path, given.filesystem))
        else:
            super().restore(type(given)(InPlace(given.checkpoint.path, given.checkpoint.filesystem), given.metrics))

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Go on from there: in the run that the trial had, with the model as it is in its shards or those of another trial; else in a new
        run from the durable copy, in a folder of its own."""
        kept = checkpoint.folder
        token = handover.read_token(kept)
        if self._parked is not None:
            if not (trouble := self._go_on_with(token)):
                return
            logger.info("%s goes on from the durable copy: %s", self.trial_name, trouble)
        self._free()
        self._trainer = self._described()
        until = time.monotonic() + SAVING_S
        lives = partial(placing.stands, token.source.coordinator)
        manifest = handover.take_up(kept, token, self._trainer.job, lambda: time.monotonic() < until and lives())
        self._resumes, self._ended = manifest is not None, False
        if manifest is None:
            logger.warning("%s begins anew: %s ended before anything of it was saved", self.trial_name, token.source.run)
        else:
            self._began_at, self._version = manifest.samples, manifest.version[1]

    def reset_config(self, new_config: Config) -> bool:
        """Become another trial in the same process, and in the processes of the crew where they are free soon; or the same one again, whose
        run waits for what Tune has it go on from."""
        going, self._going = self._going, None
        if going is not None and going.job.run_dir.startswith(f"{address_of(self._folder)}/"):
            going.park()
            self._parked = going
        elif going is not None:
            going.free()
        self._become(new_config)
        return True

    # --- other models in the run that goes on -----------------------------------------------------------------------------------------

    def coordinator(self) -> Any:
        """Whom another trial can copy the model from; None between two runs."""
        return None if self._going is None else self._going.run.coordinator

    def exploit(self, donor: Any, new_config: Config) -> str:
        """Take over the model of another trial's run and go on with these fields. Why that cannot be, and nothing has changed; else empty.

        Args:
            donor: the other run's coordinator.
        """
        if self._going is None:
            return "the run has ended"
        if not (trouble := self._copy(self._going, donor, new_config)):
            self._fields = new_config
        return trouble

    def _go_on_with(self, token: Token) -> str:
        """Have the parked run go on from there. Why that cannot be; else empty."""
        going = self._parked
        assert going is not None
        if going.run.finished:
            return "the run has ended"
        if trouble := self._copy(going, None if token.source == going.source else token.source, self._fields):
            return trouble
        going.go_on(self._borrowed(going.job.run_dir))
        self._going, self._parked, self._measured, self._version = going, None, going, token.version
        return ""

    def _copy(self, going: Going, donor: Any, fields: Config) -> str:
        """Have a run take over a model, if there is one to take over, and go on with these fields. Why that cannot be; else empty."""
        other = self._job_of(fields)
        then = other.trainer(folder="unused").job
        settings, fixed = in_place(going.job, then)
        if fixed := fixed_fields(going.data, other.data) + fixed:
            return f"{', '.join(fixed)} cannot be changed while a run goes on"
        try:
            if donor is not None:
                going.copy(donor, **settings)
            elif settings:
                going.run.set(**settings)
        except MottleError as error:
            return str(error)
        going.data = other.data
        going.job = replace(
            going.job,
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

    @property
    def _folder(self) -> Folder:
        assert self._storage is not None, "Tune gives every trial a place"
        return Folder(self._storage.storage_filesystem, self._storage.trial_fs_path)

    def _begin(self) -> None:
        self._free()  # a run that was parked, and nothing to go on from came for it
        if self._trainer is None:
            self._trainer = self._described()
        job, data = self._trainer.job, self._job_of(self._fields).data
        run = self._trainer.resume() if self._resumes else self._trainer.start()
        self._going = Going(run, job, data, self._borrowed(job.run_dir), self._began_at)

    def _described(self) -> Trainer:
        """The trial's job, in a folder of its own below the trial's."""
        name = f"run-{sum(each.startswith('run-') for each in self._folder.folders()):03d}"
        trainer = self._job_of(self._fields).trainer(folder=f"{address_of(self._folder)}/{name}")
        if self.loan is not None:
            minimum, _ = self._crew()
            trainer.job = replace(trainer.job, lent_crew=minimum, lender=self.loan.owner)
        brain = replace(trainer.job.brain, save_evaluated=True, checkpoint_every=None)
        trainer.job = replace(trainer.job, name=self.trial_name, brain=brain, keep=KeepCheckpoints())
        return trainer

    def _job_of(self, fields: Config) -> JobFile:
        return job_with(self.job, fields) if self.loan is None else job_and_crew(self.job, fields, self.loan)[0]

    def _crew(self) -> tuple[int, int]:
        assert self.loan is not None
        return job_and_crew(self.job, self._fields, self.loan)[1]

    def _borrowed(self, run_dir: str) -> Borrowing | None:
        return None if self.loan is None else Borrowing(self.loan, run_dir, *self._crew())

    def _end(self) -> None:
        """Release the crew of a run that has finished.

        Raises:
            RunFailedError: it could not go on.
        """
        assert self._going is not None
        going, self._going, self._ended = self._going, None, True
        going.end()

    def _free(self) -> None:
        """Let go of every run, so that the processes can serve another one."""
        for going in (self._going, self._parked):
            if going is not None:
                going.free()
        self._forget()

    def _release(self) -> None:
        """End every run that has not, at once."""
        for going in (self._going, self._parked):
            if going is not None:
                going.release()
        self._forget()

    def _forget(self) -> None:
        if self._measured is not None:
            self._measured.keeper.close()
        self._going = self._parked = self._measured = None


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

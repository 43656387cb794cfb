"""A live run: watch it, change it, end it. Nothing here blocks training."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ray
import ray.train
from torch import Tensor

from mottle.actors import transport
from mottle.actors.copies import Source
from mottle.actors.hosts import Place
from mottle.actors.job import Job
from mottle.actors.reasons import reason_of
from mottle.actors.reserve import RESERVE
from mottle.core.errors import MottleError
from mottle.core.rotation import chosen
from mottle.core.takeover import TakeoverError
from mottle.engines.flat import unflatten
from mottle.engines.rotation import tensors_of_model
from mottle.observe import Snapshot, snapshot_html
from mottle.observe.loggers import MetricLogger
from mottle.observe.result import RunResult
from mottle.sdk.live_settings import checked_settings
from mottle.sdk.reporting import Reporter
from mottle.sdk.result import Result, RunFailedError

POLL_S = 0.25
ONCE = ("add_workers", "copy_from")
"""What would do something else if it was asked twice."""


class Run:
    """Handle of a run that `Trainer.start` began.

    Args:
        job: what was started.
        coordinator: its actor.
        callbacks: Ray's, told of evaluations and dead workers.
        loggers: told of evaluations.
    """

    def __init__(
        self, job: Job, coordinator: Any, *, callbacks: Sequence[ray.train.UserCallback] = (), loggers: Sequence[MetricLogger] = ()
    ) -> None:
        self.job = job
        self._coordinator = coordinator
        self._reporter: Reporter | None = None
        if callbacks or loggers:
            self._reporter = Reporter(job, callbacks, loggers, self.evaluations, lambda: self._ask("snapshot"))
        self._result: Result | None = None
        self._last: Snapshot | None = None

    # --- watching ---------------------------------------------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """The run's folder: a local path or a URI."""
        return self.job.run_dir

    @property
    def coordinator(self) -> Any:
        """Its coordinator's actor, for whoever lends the run workers."""
        return self._coordinator

    @property
    def progress(self) -> Snapshot:
        """The run at this moment; its last moment once it is over."""
        if self._result is None:
            self._last = self._ask("snapshot")
        assert self._last is not None
        return self._last

    @property
    def finished(self) -> bool:
        """Whether it has nothing left to do."""
        return self._result is not None or bool(self._ask("wait", 0.0))

    def watch(self, every_s: float = POLL_S) -> Iterator[Snapshot]:
        """Snapshots until the run has finished; the last one is its end."""
        while True:
            finished = bool(self._ask("wait", every_s))
            yield self.progress
            if finished:
                return

    def evaluations(self, after: int = 0) -> list[Mapping[str, float]]:
        """What was measured, a dict for each evaluation from number `after` on: the metrics, `samples`, `version` and `time_s`."""
        return list(self._ask("reports", after))

    def processes(self) -> dict[str, int]:
        """Process id of every worker that is present, by worker id."""
        return {name: place.pid for name, place in self.places().items() if name.startswith("w")}

    def places(self) -> dict[str, Place]:
        """Process id and node of the coordinator, of every worker that is present and of every live shard replica."""
        return dict(self._ask("places"))

    def parameters(self, model: int | None = None) -> dict[str, Tensor]:
        """The newest parameters and floating-point buffers by name: copies.

        Args:
            model: of several that are trained in rotation the one that is wanted; None is the best at the last evaluation.
        Raises:
            ConfigError: there is no such model, or none was evaluated yet.
        """
        rotation = self.job.rotation
        wanted = chosen(model, 1 if rotation is None else rotation.number, self.progress.metrics)
        _, pieces = self._ask("newest")
        flat = transport.joined(pieces)
        tensors = unflatten(flat, self.job.layout) if rotation is None else tensors_of_model(flat, rotation, wanted)
        return {name: tensor.clone() for name, tensor in tensors.items()}

    # --- changing ---------------------------------------------------------------------------------------------------------------------

    def add_workers(self, count: int, group: str | None = None) -> list[str]:
        """Start workers of a declared group (the first one by default); training does not wait for them. Returns their ids.

        Raises:
            CrewError: no such group, or more than it may have.
        """
        slots = self._ask("add_workers", count, group or self.job.groups[0].name)
        return [f"w{slot}" for slot in slots]

    def remove_worker(self, worker: str) -> None:
        """Let a worker go: it finishes what it has in hand and gets nothing new.

        Raises:
            CrewError: nobody of that id is here; names those who are.
        """
        self._ask("remove_worker", worker)

    def set(self, **settings: Any) -> None:
        """Change settings from the next step on; logged, so a replay follows.

        Args:
            settings: `lr`: the optimizer's learning rate, before any schedule; `momentum`: of SGD on the shards; `rule`: the robust rule of
                a synchronous strategy, or None for the mean; `strategy`: the run's own one with other options (staleness weight, batch
                size, local steps), for which what is in hand is given up.
        Raises:
            ConfigError: a setting or rule that there is not, with the nearest name, or a value that cannot be. Nothing is changed then.
        """
        self._ask("configure", self._checked(settings))

    def _checked(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        job, defaults = self.job, self.job.strategy_defaults
        return checked_settings(
            settings,
            job.strategy,
            trusted=job.validation is not None,
            lr=defaults.get("lr"),
            resized=defaults.get("batch_policy") is not None,
            defaults=defaults,
            optimizer=job.server_optimizer or job.optimizer,
        )

    def copy_from(self, donor: "Run", **settings: Any) -> None:
        """Take over the model of another live run, optimizer state included, from its shards to this one's; and change settings with it.

        What workers have in hand belongs to the old model and is given up; its samples are free again. The run's own place in the data
        stays. Returns when the new model is the newest version, of the next lineage.

        Args:
            donor: as it is now; it trains on.
            settings: as `set` takes them; they change together with the model, or not at all.
        Raises:
            CopyError: another model, a run that is over, or no shard to be had; nothing has changed then.
        """
        self.copy_from_coordinator(donor.coordinator, **settings)

    def copy_from_coordinator(self, donor: Any, **settings: Any) -> None:
        """As `copy_from`, from a run of another process: its coordinator, or the `Source` of the model that is wanted of it."""
        self._ask("copy_from", donor, self._checked(settings) if settings else {})

    def source(self) -> Source:
        """By what another process can ask for this run's model later, with `copy_from_coordinator`."""
        source: Source = self._ask("source")
        return source

    def pause(self) -> None:
        """Give out no new work; what is in hand is finished."""
        self._ask("configure", {"paused": True})

    def resume(self) -> None:
        self._ask("configure", {"paused": False})

    def checkpoint(self) -> None:
        """Save a checkpoint as soon as a step is complete; training goes on meanwhile."""
        self._ask("checkpoint")

    def stop(self, reason: str = "stopped by the user", *, checkpoint: bool = False) -> None:
        """Give out no new work and end when what is out has come in.

        Args:
            reason: what the result gives as the reason of the end.
            checkpoint: save one of the end, when the last update is applied.
        """
        self._ask("stop", reason, checkpoint)

    # --- ending -----------------------------------------------------------------------------------------------------------------------

    def result(self) -> Result:
        """Wait for the end, release every actor, return what the run leaves behind."""
        if self._result is None:
            while not self._ask("wait", 60.0):
                pass
            self._close()
        assert self._result is not None
        return self._result

    def kill(self) -> None:
        """End at once: every actor is released, and nothing more is computed or written. There is no result then."""
        ray.kill(self._coordinator)  # the others go with it

    def _close(self) -> None:
        if self._reporter is not None:
            self._reporter.finish()
        self._last = self._ask("snapshot")
        summary: RunResult = self._ask("close")
        RESERVE.put(self._coordinator)
        self._result = Result.of(summary, self.job.run_dir, self.job.keep)

    def _ask(self, method: str, *arguments: Any) -> Any:
        if self._result is not None:
            raise MottleError("the run is over: what it left behind is in result() and in its folder")
        while True:
            try:
                return ray.get(self._coordinator.ask.options(concurrency_group="control").remote(method, *arguments))
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, TakeoverError):
                    raise RunFailedError(str(error.cause)) from None
                if isinstance(error.cause, MottleError):  # what was asked cannot be: the sentence is enough
                    raise type(error.cause)(str(error.cause)) from None
                raise
            except ray.exceptions.ActorUnavailableError:  # its process was lost; another one takes over
                if method in ONCE:
                    raise MottleError(
                        f"the coordinator was lost while it was asked to {method}; see what came of it and ask again"
                    ) from None
                time.sleep(POLL_S)
            except ray.exceptions.RayActorError as error:
                raise RunFailedError(f"the coordinator is gone: {reason_of(error)}") from error

    def _repr_html_(self) -> str:
        return snapshot_html(self.progress)

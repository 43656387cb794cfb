"""`Trainer`: one description of a job, checked before anything starts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import torch
from torch import nn

from mottle import compression, data, strategies
from mottle.actors import placing, transport
from mottle.actors.coordinator import Coordinator
from mottle.actors.fleet import CrewError
from mottle.actors.job import Job, Resumption, WorkerGroup, placed_config
from mottle.actors.reasons import reason_of
from mottle.actors.reserve import RESERVE
from mottle.aggregation.decisions.rulebook import Rules
from mottle.core.config import BrainConfig
from mottle.core.errors import ConfigError
from mottle.core.fragments import Fragments, fragments_of
from mottle.core.health import HealthConfig
from mottle.core.layout import Layout
from mottle.core.naming import Spec, parse
from mottle.core.strategy import Fragmented, Strategy
from mottle.engines import Loss, Metric
from mottle.observe.loggers import MetricLogger
from mottle.observe.record import holds_run
from mottle.optim import schedule
from mottle.sdk.attaching import coordinator_name
from mottle.sdk.comeback import Comeback
from mottle.sdk.configs import RunSettings, settings_of
from mottle.sdk.describing import Beginning, Model, ModelFactory, Sources, check_counts, check_health, strategy_defaults, worker_groups
from mottle.sdk.local import ensure_ray, missing_resources
from mottle.sdk.result import Result, RunFailedError
from mottle.sdk.resuming import take_up
from mottle.sdk.rotating import beginnings, check_rotation, rotation_of, server_optimizer
from mottle.sdk.run import Run
from mottle.sdk.short_rounds import short_rounds_warning
from mottle.sdk.staged import check_stages
from mottle.sdk.survival import survival_warning
from mottle.sdk.trial import weighs_itself
from mottle.sdk.until import Until
from mottle.simulate.planning import planner_of

HEALTHY = HealthConfig()


class Trainer:
    """Trains one model on an unequal, changing, partly hostile fleet.

    Args:
        model: a module, or a function without arguments that makes one.
        loss: `loss(model, batch)`: the mean loss, or `(mean, weight)` where the unit is not the sample.
        train_data: whatever `mottle.data.build` takes.
        validation_data: trusted data for strategies that test updates; disjoint from `test_data`.
        test_data: what the metrics are measured on.
        metrics: by name, `metric(model, batch)`: a mean over the batch. They are reported as `test_NAME`.
        optimizer: `{"sgd": {"lr": 0.1, "momentum": 0.9}}`; any element-wise `torch.optim` class by name. With a strategy of local steps it
            is the workers'.
        lr_schedule: see `mottle.optim.schedule.build`; counts samples.
        batch_size: samples of one step (synchronous) or of one order (asynchronous).
        batch_policy: what becomes of batch and learning rate when the crew changes: `{"adascale": {"per_worker": 16}}`; see
            `mottle.strategies.batch_policy`. By default nothing: who is there shares `batch_size`.
        until: `{"epochs": 5}`; see `Until`.
        strategy: `{"zeno++": {"rho": 0.001}}`; see `mottle.strategies.catalogue`.
        rule: robust rule of a synchronous strategy.
        codec: how updates travel.
        attack: what every worker of the fleet does to its updates; for some of them, put it on a `WorkerGroup`.
        collusion: open the channel through which attackers see the others' updates; for studies, it costs a copy of every update.
        seed: of data order, model randomness and everything else.
        scaling_config: Ray's `ScalingConfig`, a `WorkerGroup`, or a list of them.
        run_config: Ray's `RunConfig`.
        folder: of the run; by default `storage_path/name` of the run config, or `runs/mottle`.
        loggers: `mottle.observe.TensorBoardLogger(...)` and the like; told of every evaluation.
        collate_fn: list of samples -> batch.
        shards: parameter shards.
        replicas: further copies of each shard, 0 or 1; with one, training goes on when a shard's process dies.
        micro_batch_size: samples that go through the model at once; a smaller one saves memory.
        evaluate_every: samples between evaluations on the test data; a twentieth of the run by default.
        checkpoint_every: samples between checkpoints; None for those on demand only.
        max_grad_norm: clip the aggregate (the mean gradient, or pseudo-gradient of local steps) to this global norm.
        max_grad_norm_per_worker: clip each worker's mean gradient, at every local step where it takes some.
        retry_rejected: try a rejected update's samples once more, on another worker.
        rule_samples: trusted samples of each reference or score that a robust rule needs.
        lease_floor_s: least time that a worker is given for an order before others get its samples; above it, its own usual times decide.
            None waits for ever: for runs that must be bit-identical on machines that may stall.
        health: when a worker gets no work for a while, because its updates are always rejected, or it is silent or slow again and again;
            None: never.
    Raises:
        ConfigError: anything that cannot work, all found before a process starts.
    """

    def __init__(
        self,
        model: Model,
        loss: Loss,
        train_data: Any,
        *,
        validation_data: Any = None,
        test_data: Any = None,
        metrics: Mapping[str, Metric] | None = None,
        optimizer: Spec,
        lr_schedule: Any = None,
        batch_size: int,
        batch_policy: Spec | None = None,
        until: Any,
        strategy: Spec,
        rule: Spec | None = None,
        codec: Spec | None = None,
        attack: Spec | None = None,
        collusion: bool = False,
        seed: int = 0,
        scaling_config: Any = None,
        run_config: Any = None,
        folder: str | Path | None = None,
        loggers: Sequence[MetricLogger] = (),
        collate_fn: Any = None,
        shards: int = 1,
        replicas: int = 0,
        micro_batch_size: int | None = None,
        evaluate_every: int | None = None,
        checkpoint_every: int | None = None,
        max_grad_norm: float | None = None,
        max_grad_norm_per_worker: float | None = None,
        retry_rejected: bool = True,
        rule_samples: int = 128,
        lease_floor_s: float | None = 10.0,
        health: HealthConfig | None = HEALTHY,
        seed_samples: bool = True,
    ) -> None:
        self.arguments = {name: value for name, value in locals().items() if name != "self"}
        """What it was described with, for whoever derives another one."""
        check_counts(1, batch_size=batch_size, micro_batch_size=micro_batch_size, evaluate_every=evaluate_every, shards=shards)
        check_counts(0, seed=seed)
        self._loggers = tuple(loggers)
        self.settings: RunSettings = settings_of(run_config, folder)
        sources = Sources.of(train_data, validation_data, test_data, collate_fn)
        limits = Until.of(until)
        sources.check_metrics(limits, metrics or {})
        defaults = strategy_defaults(strategy, rule, batch_size, optimizer, sources.trusted, batch_policy)
        strategic = strategies.build(strategy, defaults)
        if max_grad_norm is not None:
            strategies.check_clipping(strategic, parse(strategy, "strategy")[0])
        make = ModelFactory(model, strategic.companion)
        beginning = Beginning.of(make, optimizer, seed)
        rotation = rotation_of(strategic, beginning.layout)
        self._values = beginning.values if rotation is None else beginnings(strategic, make, rotation, seed)
        local = strategies.takes_local_steps(parse(strategy, "strategy")[0])
        built_codec = compression.build(codec or "identity")
        loader = data.Loader(sources.train, seed=seed, seed_samples=seed_samples)
        micro_batch_size = micro_batch_size or batch_size
        check_health(health, codec=codec, seed_samples=seed_samples)
        groups = worker_groups(
            scaling_config, attack, collusion=collusion, micro_batch_size=micro_batch_size, max_grad_norm=max_grad_norm_per_worker
        )
        brain = BrainConfig(
            num_positions=sources.train.num_rows,
            max_samples=limits.max_samples(sources.train.num_rows),
            max_ns=None if limits.seconds is None else round(limits.seconds * 1e9),
            target=None if limits.metric is None else next(iter(limits.metric.items())),
            evaluate_every=None if sources.test is None else evaluate_every or limits.twentieth(sources.train.num_rows),
            checkpoint_every=checkpoint_every,
            worker_state=local or compression.remembers(built_codec),
            num_shards=shards,
            replicas=replicas,
            weighted_loss=weighs_itself(beginning.module, loss, loader, min(micro_batch_size, sources.train.num_rows)),
            max_grad_norm=max_grad_norm,
            retry_rejected=retry_rejected,
            rule_samples=rule_samples,
            lease_floor_ns=None if lease_floor_s is None else round(lease_floor_s * 1e9),
            health=health,
            check_samples=micro_batch_size,
            least_crew=strategies.least_workers(strategy),
            rule_crew=1 if defaults.get("rule") is None else Rules().least_crew(defaults["rule"]),
            seed=seed,
        )
        strategies.check_coded(
            strategy,
            num_workers=sum(group.count for group in groups),
            weighted_loss=brain.weighted_loss,
            lossy_codec=built_codec.contraction < 1,
            clips_workers=max_grad_norm_per_worker is not None,
        )
        if rotation is not None:
            check_rotation(strategic, optimizer, rotation, self._values, groups, made=isinstance(model, nn.Module))
        self.job = Job(
            name=self.settings.name,
            model=make,
            loss=loss,
            layout=beginning.layout if rotation is None else rotation.stacked,
            fragments=_fragments(strategic, beginning.layout, groups) if rotation is None else rotation.fragments,
            rotation=rotation,
            loader=loader,
            validation=sources.trusted,
            test=sources.test,
            metrics=dict(metrics or {}),
            optimizer=optimizer,
            server_optimizer=server_optimizer(strategic, optimizer),
            schedule=None if lr_schedule is None else schedule.build(lr_schedule),
            strategy=strategy,
            strategy_defaults=defaults,
            codec=codec or "identity",
            groups=groups,
            collusion=collusion,
            brain=brain,
            micro_batch_size=micro_batch_size,
            run_dir=str(self.settings.folder),
            seed=seed,
            max_grad_norm_per_worker=max_grad_norm_per_worker,
            total_samples=brain.max_samples,
            keep=self.settings.keep,
            planner=planner_of(strategies.config_of(strategy, defaults), micro_batch_size, optimizer),
        )
        check_stages(self.job, beginning.module)

    def start(self, *, address: str | None = None, detached: bool = False) -> Run:
        """Begin and return at once with a live handle.

        Args:
            address: of a Ray cluster; by default the one in the environment, else a local Ray is started.
            detached: the run outlives this process; `mottle.sdk.attach(name)` finds it again.
        Raises:
            ConfigError: the cluster lacks what the crew needs, with what it has; or a detached run on a Ray that ends with this process.
        """
        return self._start(self._values, None, address, detached=detached)

    def resume(self, checkpoint: int | None = None, *, address: str | None = None) -> Run:
        """Go on from a checkpoint in the run's folder, the newest by default; crew and shards may be others than before.

        Raises:
            CheckpointError: there is none, it is damaged, or of another model.
            ConfigError: as `start`.
        """
        return self._start(*take_up(self.job, checkpoint), address, detached=False)

    def _start(self, values: torch.Tensor, resumption: Resumption | None, address: str | None, *, detached: bool) -> Run:
        if resumption is None and holds_run(self.job.run_dir):
            raise ConfigError(f"{self.job.run_dir} holds a run already: resume it, delete it, or give another folder")
        note = ensure_ray(self.job.groups, address)
        if detached and note is not None:
            ray.shutdown()
            raise ConfigError("a detached run needs a Ray that does not end with this process; start one with `ray start --head`")
        if lacking := missing_resources(self.job.groups):
            raise ConfigError(f"the crew needs {lacking}; ask for fewer workers or resources, or add machines")
        defaults = self.job.strategy_defaults
        survival = survival_warning(defaults.get("rule"), self.job.groups, self.job.strategy)
        short = short_rounds_warning(strategies.build(self.job.strategy, defaults), self.job.brain.num_positions)
        notes = [each for each in (note, survival, short) if each]
        try:
            coordinator = placing.make_coordinator(Coordinator, name=coordinator_name(self.job.name) if detached else None)
        except ray.exceptions.ActorAlreadyExistsError:
            raise ConfigError(
                f"a detached run {self.job.name!r} goes on already: attach to it, stop it, or give this one another name or folder"
            ) from None
        if self.job.own_groups:
            RESERVE.clear()  # what waits yet and was not taken up may hold what this run needs
        start = coordinator.start.options(concurrency_group="control")
        try:
            ray.get(start.remote(coordinator, self.job, notes, resumption, transport.publish(values), RESERVE.keeping and not detached))
        except BaseException as error:
            ray.kill(coordinator)  # the others go with it
            if isinstance(error, ray.exceptions.RayTaskError) and isinstance(error.cause, CrewError):
                raise CrewError(str(error.cause)) from error
            raise
        return Run(self.job, coordinator, callbacks=self.settings.callbacks, loggers=self._loggers)

    def fit(self) -> Result:
        """Train to the end; after a failure that stops the run, go on from its newest checkpoint, at most `max_failures` times.

        Raises:
            RunFailedError: the run could not go on, and that was once too often, or there is no checkpoint.
        """
        run, comeback = self.start(), self.comeback()
        while True:
            try:
                result = run.result()
                error = result.error
            except ray.exceptions.RayActorError as lost:
                error = RunFailedError(f"the coordinator is lost: {reason_of(lost)}")
            except RunFailedError as gone:
                error = gone
            if error is None:
                return result
            following = comeback.again()
            if following is None:
                raise error
            run = following

    def comeback(self, *, address: str | None = None) -> Comeback:
        """What takes the run up again after failures that stopped it, as often as `FailureConfig.max_failures` allows."""
        return Comeback(lambda: self.resume(address=address), self.settings.max_failures, self.job.run_dir)


def _fragments(strategy: Strategy, layout: Layout, groups: Sequence[WorkerGroup]) -> Fragments | None:
    """Of the model, for a strategy that sends them apart."""
    if not isinstance(strategy, Fragmented):
        return None
    if gangs := [group.name for group in groups if placed_config(group) is not None]:
        raise ConfigError(f"workers that are gangs ({', '.join(gangs)}) cannot send fragments of a model: take diloco, or single processes")
    return fragments_of(layout, strategy.fragmentation)

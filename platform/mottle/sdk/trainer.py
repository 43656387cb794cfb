"""`Trainer`: one description of a job, checked before anything starts."""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import torch
from torch import nn

from mottle import compression, data, optim, strategies
from mottle.actors import placing, transport
from mottle.actors.coordinator import Coordinator
from mottle.actors.faulty import check_live
from mottle.actors.fleet import CrewError, reason_of
from mottle.actors.job import Job, KeepCheckpoints, Resumption
from mottle.core.config import BrainConfig
from mottle.core.errors import ConfigError
from mottle.core.naming import Spec, parse
from mottle.data.source import Source
from mottle.engines import Loss, Metric, TorchConfig
from mottle.engines.flat import flatten, layout_of
from mottle.observe.loggers import MetricLogger
from mottle.observe.record import holds_run
from mottle.optim import schedule
from mottle.sdk.attaching import coordinator_name
from mottle.sdk.comeback import Comeback
from mottle.sdk.configs import RunSettings, groups_of, settings_of
from mottle.sdk.live_rule import live_rule
from mottle.sdk.local import ensure_ray, missing_resources
from mottle.sdk.result import Result, RunFailedError
from mottle.sdk.resuming import take_up
from mottle.sdk.run import Run
from mottle.sdk.trial import weighs_itself
from mottle.sdk.until import Until

Model = nn.Module | Callable[[], nn.Module]


class Trainer:
    """Trains one model on an unequal, changing, partly hostile fleet.

    Args:
        model: a module, or a function without arguments that makes one.
        loss: `loss(model, batch)`: the mean loss, or `(mean, weight)` where the unit is not the sample.
        train_data: whatever `mottle.data.build` takes.
        validation_data: trusted data for strategies that test updates; disjoint from `test_data`.
        test_data: what the metrics are measured on.
        metrics: by name, `metric(model, batch)`: a mean over the batch. They are reported as `test_NAME`.
        optimizer: `{"sgd": {"lr": 0.1, "momentum": 0.9}}`; any element-wise `torch.optim` class by name.
        lr_schedule: see `mottle.optim.schedule.build`; counts samples.
        batch_size: samples of one step (synchronous) or of one order (asynchronous).
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
        evaluate_every: samples between evaluations; a twentieth of the run by default.
        checkpoint_every: samples between checkpoints; None for those on demand only.
        max_grad_norm: clip the aggregate to this global norm.
        max_grad_norm_per_worker: clip each worker's mean gradient.
        retry_rejected: try a rejected update's samples once more, on another worker.
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
        seed_samples: bool = True,
    ) -> None:
        self._loggers = tuple(loggers)
        self.settings: RunSettings = settings_of(run_config, folder)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = _make(model)
        spec = optim.read(optimizer)
        layout = layout_of(module, spec.group_patterns)
        self._values = flatten(module, layout)
        optim.build(optimizer, self._values.clone(), layout.group_ranges)  # a wrong name or option is told now
        source = data.build(train_data, collate_fn)
        trusted, test = (None if each is None else data.build(each, collate_fn) for each in (validation_data, test_data))
        if trusted is not None and test is not None:
            data.assert_disjoint(trusted, test)
        limits = Until.of(until)
        total = limits.max_samples(source.num_rows)
        self._check_target(limits, test is not None, metrics or {})
        lr = spec.options.get("lr")
        checked_rule = None if rule is None else live_rule(rule, trusted=trusted is not None, lr=lr)
        defaults = {"batch_size": batch_size, "lr": lr, "rule": checked_rule}
        defaults = {name: value for name, value in defaults.items() if value is not None}
        self._check_strategy(strategy, defaults, spec.name, trusted, rule)
        compression.build(codec or "identity")
        loader = data.Loader(source, seed=seed, seed_samples=seed_samples)
        micro_batch_size = micro_batch_size or batch_size
        groups = groups_of(scaling_config, attack)
        for group in groups:
            if group.attack is not None:
                check_live(group.attack, collusion=collusion)
            TorchConfig(micro_batch_size=micro_batch_size, autocast=group.autocast, max_grad_norm_per_worker=max_grad_norm_per_worker)  # type: ignore[arg-type]  # it names the choices
        self._check_numbers(shards, replicas, max_grad_norm)
        self.job = Job(
            name=self.settings.name,
            model=_Factory(model),
            loss=loss,
            layout=layout,
            loader=loader,
            validation=trusted,
            test=test,
            metrics=dict(metrics or {}),
            optimizer=optimizer,
            schedule=None if lr_schedule is None else schedule.build(lr_schedule),
            strategy=strategy,
            strategy_defaults=defaults,
            codec=codec or "identity",
            groups=groups,
            collusion=collusion,
            brain=BrainConfig(
                num_positions=source.num_rows,
                max_samples=total,
                max_ns=None if limits.seconds is None else round(limits.seconds * 1e9),
                target=None if limits.metric is None else next(iter(limits.metric.items())),
                evaluate_every=evaluate_every or max(1, (total or 20 * source.num_rows) // 20),
                checkpoint_every=checkpoint_every,
                num_shards=shards,
                replicas=replicas,
                weighted_loss=weighs_itself(module, loss, loader, min(micro_batch_size, source.num_rows)),
                max_grad_norm=max_grad_norm,
                retry_rejected=retry_rejected,
                seed=seed,
            ),
            micro_batch_size=micro_batch_size,
            run_dir=str(self.settings.folder),
            seed=seed,
            max_grad_norm_per_worker=max_grad_norm_per_worker,
            total_samples=total,
            keep=KeepCheckpoints(
                count=self.settings.num_to_keep, score=self.settings.score_attribute, highest=self.settings.score_order == "max"
            ),
        )

    @staticmethod
    def _check_numbers(shards: int, replicas: int, max_grad_norm: float | None) -> None:
        if shards < 1 or replicas not in (0, 1):
            raise ConfigError(f"a run has at least 1 shard and 0 or 1 replicas of each, got {shards} and {replicas}")
        if max_grad_norm is not None and not max_grad_norm > 0:
            raise ConfigError(f"max_grad_norm must be above 0, got {max_grad_norm}; leave it out to clip nothing")

    @staticmethod
    def _check_target(limits: Until, tested: bool, metrics: Mapping[str, Metric]) -> None:
        if limits.metric is None:
            return
        measured = [f"test_{name}" for name in ("loss", *metrics)] if tested else []
        for name in limits.metric:
            if name not in measured:
                raise ConfigError(
                    f"until waits for metric {name!r}, and what is measured is {', '.join(measured) or 'nothing without test_data'}"
                )

    @staticmethod
    def _check_strategy(spec: Spec, defaults: Mapping[str, Any], optimizer: str, trusted: Source | None, rule: Spec | None) -> None:
        strategy = strategies.build(spec, defaults)
        name, _ = parse(spec, "strategy")
        if strategy.needs_validation and trusted is None:
            raise ConfigError(f"strategy {name!r} tests updates on trusted data; give validation_data, disjoint from test_data")
        if strategy.needs_validation and optimizer.lower() != "sgd":
            raise ConfigError(
                f"strategy {name!r} fixes the length of every step, so it takes plain SGD only, got optimizer {optimizer!r}; use sgd"
            )
        if rule is not None and not strategies.takes_rule(name):
            raise ConfigError(f"strategy {name!r} applies no robust rule; use sync, or leave the rule out")

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
        coordinator = placing.make_coordinator(
            Coordinator, self.job, [note] if note else [], resumption, name=coordinator_name(self.job.name) if detached else None
        )
        start = coordinator.start.options(concurrency_group="control")
        try:
            ray.get(start.remote(coordinator, transport.publish(values)))
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


class _Factory:
    """Makes the module in another process; a module that was given is copied, so nobody shares it."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def __call__(self) -> nn.Module:
        return _make(self._model)


def _make(model: Model) -> nn.Module:
    made = copy.deepcopy(model) if isinstance(model, nn.Module) else model() if callable(model) else model
    if not isinstance(made, nn.Module):
        raise ConfigError(f"model is a torch module or a function without arguments that makes one, got {type(made).__name__}")
    return made

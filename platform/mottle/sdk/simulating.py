"""A job as a task of the simulator: its model trained for real, on virtual time."""

from dataclasses import replace

import torch
from torch import nn

from mottle import optim
from mottle.actors.job import Job
from mottle.core.brain import Brain
from mottle.engines import add_companions
from mottle.engines.flat import flatten, layout_of
from mottle.sdk.rotating import beginnings, rotation_of, server_optimizer
from mottle.simulate import Fleet, Learning, TorchProblem
from mottle.simulate.compare import Task


def task_of(job: Job, fleet: Fleet) -> Task:
    """The job for `Task.run` on that fleet, without checkpoints."""

    def numbers(brain: Brain) -> Learning:
        problem, rotation = _problem(job, brain.strategy.companion), rotation_of(brain.strategy, job.model_layout)
        return Learning(
            problem,
            brain.shards.live,
            optimizer=server_optimizer(brain.strategy, job.optimizer) or job.optimizer,
            codec=job.codec,
            schedule=job.schedule,
            rotation=rotation,
            validated=job.validation is not None,
            values=None if rotation is None else beginnings(brain.strategy, job.model, rotation, job.seed),
            seed=job.seed,
            num_workers=fleet.num_workers,
            collusion=fleet.collusion,
            rule=job.strategy_defaults.get("rule"),
        )

    return Task(
        config=replace(job.brain, checkpoint_every=None),
        numbers=numbers,
        micro_batch=job.micro_batch_size,
        defaults=job.strategy_defaults,
        untested=_untested(job),
        num_workers=fleet.num_workers,
    )


def _problem(job: Job, companion: float | None) -> TorchProblem:
    """The job's model and data, for a strategy that shares a second vector beside the parameters, or none."""

    def make() -> nn.Module:
        module: nn.Module = job.model()
        return module if companion is None else add_companions(module, companion)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.seed)
        module = make()
    layout = layout_of(module, optim.read(job.optimizer).group_patterns)
    return TorchProblem(
        make,
        job.loss,
        layout,
        flatten(module, layout),
        job.loader,
        trusted=job.validation,
        test=job.test,
        metrics=job.metrics,
        micro_batch_size=job.micro_batch_size,
        weighted=job.brain.weighted_loss,
        max_grad_norm_per_worker=job.max_grad_norm_per_worker,
        seed=job.seed,
    )


def _untested(job: Job) -> str:
    """Why strategies that test updates cannot run with this job; the same conditions as for a live run."""
    if job.validation is None:
        return "the job has no validation_data"
    name = optim.read(job.optimizer).name
    return "" if name.lower() == "sgd" else f"fixes the length of every step, so it takes sgd, and the job has {name}"

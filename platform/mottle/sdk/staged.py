"""Whether a job's model can be cut into the stages that its groups declare, told before any process starts."""

from torch import nn

from mottle.actors.job import Job, placed_config
from mottle.actors.stage_bench import capture_for
from mottle.core.errors import ConfigError
from mottle.placement import DEVICE_CLASSES
from mottle.placement.staging import Member, cut_stages


def check_stages(job: Job, model: nn.Module) -> None:
    """Cut a model as its gangs will, for devices that are all alike.

    Args:
        model: the job's, whose weights are not touched.
    Raises:
        ConfigError: with the group, and why not.
    """
    for group in job.groups:
        config = placed_config(group)
        if config is None:
            continue
        try:
            if job.collusion:
                raise ConfigError("collusion needs whole updates, and no process of a gang has one; leave it out")
            if config.schedule == "dsp":
                _check_stale(job)
            members = [Member(DEVICE_CLASSES["cpu-8"])] * config.stages
            cut_stages(capture_for(job, model), members, config.microbatches, activations=config.held)
        except ConfigError as error:
            raise ConfigError(f"worker group {group.name!r}, engine 'placed': {error}") from error


def _check_stale(job: Job) -> None:
    """Every stage steps by itself."""
    if job.server_optimizer is None:
        raise ConfigError("schedule dsp takes inner steps, so it needs a strategy that has some: local_sgd, diloco and their kin")
    if job.max_grad_norm_per_worker is not None:
        raise ConfigError("schedule dsp lets every stage step by itself, so no norm of a gradient is known to clip by: take 1f1b")

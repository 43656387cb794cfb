"""Whether a strategy can run in the job and on the fleet that it is named for: what its own options cannot say."""

from typing import Any

from mottle.core.errors import ConfigError
from mottle.core.naming import Spec, folded, parse
from mottle.core.strategy import Strategy
from mottle.strategies.catalogue import config_of, counts_its_workers, is_coded


def least_workers(spec: Spec) -> int:
    """Workers without which the strategy that a job names makes no step."""
    if not counts_its_workers(parse(spec, "strategy")[0]):
        return 1
    needed: int = config_of(spec, {"batch_size": 1}).least_workers
    return needed


def check_coded(
    spec: Spec, *, num_workers: int, weighted_loss: bool = False, lossy_codec: bool = False, clips_workers: bool = False
) -> None:
    """Refuse what does not go with sums that are decoded; of other strategies nothing is asked.

    Args:
        spec: of the strategy, as a job names it.
        num_workers: of the crew that the run begins with.
        weighted_loss: the loss has units of its own (tokens), so that a sum's samples do not say what to divide it by.
        lossy_codec: updates arrive as something near to what was sent.
        clips_workers: each worker scales its own update.
    Raises:
        ConfigError: one of them, and what to do.
    """
    name, options = parse(spec, "strategy")
    job = {"weighted_loss": weighted_loss, "lossy_codec": lossy_codec, "clips_workers": clips_workers}
    if folded(name) == "auto":  # which may change to those that it is allowed
        allowed: Any = options.get("allow") or ()
        for candidate in allowed:
            check_coded(candidate, num_workers=num_workers, **job)
    if not is_coded(name):
        return
    config = config_of(spec, {"batch_size": 1})
    faults = []
    if num_workers < config.least_workers:
        faults.append(f"num_stragglers {config.num_stragglers} needs at least {config.least_workers} workers, there are {num_workers}")
    if weighted_loss:
        faults.append("it divides by samples, and the loss has a weight of its own: return a mean over samples, or use sync")
    if clips_workers:
        faults.append("coded sums that are clipped one by one cannot be decoded: use max_grad_norm in place of max_grad_norm_per_worker")
    if lossy_codec and config.code != "fractional":
        faults.append("a code with coefficients magnifies what a lossy codec changes: use code: fractional, or no codec")
    if faults:
        raise ConfigError(f"strategy {name!r} cannot run here: {'; '.join(faults)}")


def check_clipping(strategy: Strategy, name: str) -> None:
    """Refuse to clip the aggregate of a strategy whose aggregate is whole models.

    Raises:
        ConfigError: says what to use.
    """
    if strategy.server_optimizer is not None and {"mixing", "merging"} & set(strategy.server_optimizer):
        raise ConfigError(
            f"strategy {name!r} averages whole models, which max_grad_norm would shorten; use max_grad_norm_per_worker, which clips each "
            "inner step"
        )

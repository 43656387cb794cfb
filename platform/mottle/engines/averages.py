"""What a user's loss or metric returned, checked: a mean, and the weight it counts with."""

import math
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from mottle.core.errors import ConfigError
from mottle.engines.base import Average, Batch, Metric


def split(returned: object, num_samples: int) -> tuple[object, float]:
    """`(mean, weight)`; the number of samples where no weight was returned.

    Raises:
        ConfigError: a tuple of another length, or a weight that is no finite number of at least 0.
    """
    if not isinstance(returned, tuple):
        return returned, float(num_samples)
    if len(returned) != 2:
        raise ConfigError(f"a loss or metric returns a mean, or (mean, weight), got {len(returned)} values; return logs in another way")
    mean, weight = returned
    if not isinstance(weight, Tensor | int | float) or (isinstance(weight, Tensor) and weight.numel() != 1):
        raise ConfigError(f"the weight of a loss or metric is one number (of tokens, say), got {_described(weight)}")
    if not (math.isfinite(float(weight)) and float(weight) >= 0):
        raise ConfigError(f"the weight of a loss or metric is finite and at least 0, got {float(weight)}")
    return mean, float(weight)


def differentiable(returned: Average, num_samples: int) -> tuple[Tensor, float]:
    """The mean loss, shape (), and its weight.

    Raises:
        ConfigError: not a tensor, not a scalar, or not connected to the parameters.
    """
    mean, weight = split(returned, num_samples)
    if not isinstance(mean, Tensor):
        raise ConfigError(f"the loss must be a torch tensor, got {_described(mean)}; return it before .item()")
    if mean.numel() != 1:
        raise ConfigError(f"the loss must be a scalar, got {_described(mean)}; return its mean over the batch")
    if not mean.requires_grad:
        raise ConfigError(
            "the loss does not depend on a trainable parameter (requires_grad is False): was it computed under no_grad or detached?"
        )
    return mean.reshape(()), weight


def mean_of(metrics: Mapping[str, Metric], model: nn.Module, batches: Iterable[tuple[Batch, int]]) -> dict[str, float]:
    """Weighted means over batches, in float64.

    Raises:
        ConfigError: no batch, or a metric that is not a number.
    """
    sums = dict.fromkeys(metrics, 0.0)
    weights = dict.fromkeys(metrics, 0.0)
    num_batches = 0
    for batch, num_samples in batches:
        num_batches += 1
        for name, metric in metrics.items():
            mean, weight = split(metric(model, batch), num_samples)
            if weight > 0:  # the mean of nothing is not a number
                sums[name] += _number(name, mean) * weight
                weights[name] += weight
    if num_batches == 0:
        raise ConfigError("there is nothing to evaluate on: the data has no sample")
    return {name: sums[name] / weights[name] if weights[name] else math.nan for name in metrics}


def _number(name: str, mean: object) -> float:
    if isinstance(mean, Tensor) and mean.numel() == 1:
        return float(mean)
    if isinstance(mean, int | float):
        return float(mean)
    raise ConfigError(f"metric {name!r} must give one number per batch, got {_described(mean)}; return its mean over the batch")


def _described(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"{type(value).__name__} {value!r:.60}"

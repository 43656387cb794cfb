"""One micro-batch through model and loss before anything starts: what they get wrong is told in the process that described the job."""

import torch
from torch import nn

from mottle.core.errors import ConfigError
from mottle.data import Loader, Positions
from mottle.engines import Loss
from mottle.engines.averages import differentiable
from mottle.engines.batches import to_device


def weighs_itself(model: nn.Module, loss: Loss, loader: Loader, num_samples: int) -> bool:
    """Whether the loss returns `(mean, weight)`: whether its unit is another one than the sample.

    Args:
        model: used up: its buffers change.
        loader: the first `num_samples` positions of epoch 0 are loaded, as a worker would.
    Raises:
        ConfigError: data, model or loss that fail, or a loss that cannot be trained on, with what to do.
    """
    batch = loader.load(Positions(0, 0, num_samples))
    device = next(model.parameters()).device
    model.train()
    try:
        with torch.random.fork_rng(devices=[]):
            returned = loss(model, to_device(batch, device))
    except Exception as error:
        raise ConfigError(
            f"the loss fails on the first {num_samples} samples of the training data: {type(error).__name__}: {error}"
        ) from error
    differentiable(returned, num_samples)
    return isinstance(returned, tuple)

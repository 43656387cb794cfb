"""Commands to the validator."""

from mottle.core.messages import message
from mottle.core.protocol.names import Version


@message
class Refresh:
    """Compute the gradient of the mean loss on trusted data at `version` and push it to the shards as `name`."""

    name: str
    version: Version
    seed: int
    num_samples: int


@message
class Score:
    """Compute, on one trusted sample, by how much each of these updates alone would lower the loss of `version`; answer `Scored`.

    `samples` spent, and `lr` where the user changed it, give the learning rate of the step.
    """

    request: int
    names: tuple[str, ...]
    version: Version
    seed: int
    num_samples: int
    samples: int
    lr: float | None = None


@message
class Evaluate:
    """Compute the metrics of `version` on the test data; or its mean loss on the `trusted` data, for the strategy."""

    version: Version
    trusted: bool = False


@message
class SaveModel:
    """Write the parameters and buffers of `version`, by name, as part of the checkpoint; read under the name `checkpoint/N`."""

    checkpoint: int
    version: Version

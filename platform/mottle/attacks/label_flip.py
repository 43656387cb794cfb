"""Label flip: poisoned training data, honestly processed.

Source: Xie et al., Zeno (ICML 2019) and SLSGD (ECML 2019, arXiv 1903.06996).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mottle.attacks.base import Attack
from mottle.attacks.checks import flag, whole
from mottle.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class LabelFlip(Attack):
    """Class y becomes C-1-y in the faulty workers' training batches; its own inverse, and with C odd the middle class stays.

    On tensors its rows are the workers' own updates: they were computed on flipped labels. Validation and test data are not to pass here.
    """

    name: ClassVar[str] = "label_flip"
    citation: ClassVar[str] = "Xie et al. 2019, arXiv 1805.10032; arXiv 1903.06996"
    stage: ClassVar = "data"

    num_classes: int = 10
    """C."""
    reinitialise: bool = False
    """Also start every round of local training from a newly initialised network, as the SLSGD experiments do."""

    def _problems(self) -> list[str]:
        return whole("num_classes", self.num_classes, least=2) + flag("reinitialise", self.reinitialise)

    def local_start(self, params_D: Tensor, fresh: Callable[[], Tensor]) -> Tensor:
        """The parameters that local training starts from: those of the server, or with `reinitialise` what `fresh` makes."""
        return fresh() if self.reinitialise else params_D

    def _labels(self, labels: Tensor, round: int, generator: np.random.Generator | None) -> Tensor:
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise ConfigError(
                f"label_flip needs integer class labels, got dtype {labels.dtype}; for other targets write an attack of your own"
            )
        if labels.numel() and not (int(labels.min()) >= 0 and int(labels.max()) < self.num_classes):
            raise ConfigError(
                f"label_flip needs labels from 0 to {self.num_classes - 1}, got {int(labels.min())} to {int(labels.max())}; set num_classes"
            )
        return self.num_classes - 1 - labels

"""Loss scaling for float16, whose gradients would otherwise vanish (Micikevicius et al. 2018, section 3.2).

The scale is a power of two, so scaling and unscaling round nothing: it decides only what underflows. It backs off when a micro-batch
overflows (that micro-batch is computed again) and grows after a long time without. `torch.amp.GradScaler` does the same but belongs to
an optimizer's step, and a worker has none.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

START = 2.0**16
"""As `GradScaler`."""
GROW_AFTER = 2000
"""Micro-batches without overflow; as `GradScaler`."""
LARGEST = 2.0**24
"""Beyond it a mean loss above 2^-9 would overflow float16 by itself."""


class LossScale:
    """A dynamic scale; `enabled=False` is a scale of 1 that never looks at a gradient."""

    def __init__(self, *, enabled: bool) -> None:
        self.value = START if enabled else 1.0
        self._enabled = enabled
        self._num_fine = 0

    def overflowed(self, grads: Sequence[Tensor]) -> bool:
        """Look at scaled gradients; whether the micro-batch is to be computed again, at the halved scale.

        At scale 1 the answer is no: what is not finite then is the model's own, and the gate of the step has to judge it.
        """
        if not self._enabled or self.value <= 1.0 or bool(torch.nn.utils.get_total_norm(grads, norm_type=torch.inf).isfinite()):
            self._grow()
            return False
        self.value /= 2
        self._num_fine = 0
        return True

    def _grow(self) -> None:
        self._num_fine += self._enabled
        if self._num_fine >= GROW_AFTER:
            self.value = min(self.value * 2, LARGEST)
            self._num_fine = 0

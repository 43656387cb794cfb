"""A published-style study of asynchronous rules: linear regression on models up to ten versions old, sign flips of ten times the size.

All draws come from one generator in a fixed order, so a conforming rule ends at the same distance from the truth. D coordinates.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

D, WORKERS, BATCH, MESSAGES, NOISE, OLDEST = 20, 10, 10, 2000, 0.5, 10

Vector = np.ndarray


@dataclass
class Study:
    """One run.

    Args:
        share: of faulty workers, the first ones.
        versions: models so far, the start among them; whoever drives the rule appends to it.
        first_fault: message from which on they are faulty.
    """

    share: float
    versions: list[Vector]
    first_fault: int = 0
    rng: np.random.Generator = field(init=False)
    truth: Vector = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.truth = self.rng.standard_normal(D)

    def faulty(self, worker: int) -> bool:
        return worker < round(self.share * WORKERS)

    def messages(self) -> Iterator[tuple[int, int, Vector]]:
        """(worker, base version, gradient)."""
        for number in range(MESSAGES):
            base = int(self.rng.integers(max(0, len(self.versions) - 1 - OLDEST), len(self.versions)))
            worker = int(self.rng.integers(0, WORKERS))
            g_D = self.gradient(self.versions[base], BATCH)
            yield worker, base, -10 * g_D if number >= self.first_fault and self.faulty(worker) else g_D

    def gradient(self, x_D: Vector, num_samples: int) -> Vector:
        """Of the mean loss over fresh samples."""
        rows_BD = self.rng.standard_normal((num_samples, D))
        targets_B = rows_BD @ self.truth + NOISE * self.rng.standard_normal(num_samples)
        return np.asarray(rows_BD.T @ (rows_BD @ x_D - targets_B) / num_samples)

    @property
    def error(self) -> float:
        """Distance of the newest model from the truth."""
        return float(np.linalg.norm(self.versions[-1] - self.truth))

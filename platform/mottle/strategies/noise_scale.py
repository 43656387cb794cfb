"""Gradient noise scale: up to which batch size more samples in a step are worth their time.

With G the true gradient and Sigma the covariance of one sample's: B_simple = tr(Sigma) / |G|^2. A step of B samples comes as far, per
sample, as (B_simple + M0) / (B_simple + B) of one of M0.

From n mean gradients g_i of m_i samples each, at one version: G2 = mean of <g_i, g_j> over pairs i != j, and S = mean of
m_i (|g_i|^2 - G2); both without bias. With equal m_i these are the two-batch formulas of the source, with the small batch m and the large
one n m. Numerator and denominator are smoothed apart.

Source: McCandlish et al., "An Empirical Model of Large-Batch Training", arXiv 1812.06162, appendix A; `elasticity.md` 3.3.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

SMOOTHING = 0.2
"""Weight of the newest step, once there have been as many as its inverse; until then all weigh alike."""
MOST = 1e12
"""In the place of infinity: no gradient is seen for all the noise."""


class NoiseScale:
    """Estimates from step after step."""

    def __init__(self) -> None:
        self.num_steps = 0
        self._noise = 0.0  # S
        self._signal = 0.0  # G2

    def note(self, samples: Sequence[float], norms2: Sequence[float], products: Sequence[float], *, newest: float | None = None) -> None:
        """One step. What is too large for a float is passed over.

        Args:
            samples: of each worker's mean gradient.
            norms2: its squared norm.
            products: inner products of two different ones, for some of the pairs.
            newest: its weight in the place of `SMOOTHING`.
        """
        if not samples or not products:
            return
        signal = fmean(products)
        noise = fmean(count * (norm2 - signal) for count, norm2 in zip(samples, norms2, strict=True))
        if not (math.isfinite(signal) and math.isfinite(noise)):
            return
        self.num_steps += 1
        weight = max(SMOOTHING if newest is None else newest, 1 / self.num_steps)
        self._signal += weight * (signal - self._signal)
        self._noise += weight * (noise - self._noise)

    @property
    def value(self) -> float | None:
        """In samples; None while nothing is known, `MOST` where the gradient drowns in noise."""
        if not self.num_steps:
            return None
        if self._signal <= 0:
            return MOST
        return min(MOST, max(0.0, self._noise / self._signal))

    def state(self) -> dict[str, float]:
        """As JSON types."""
        return {"steps": self.num_steps, "noise": self._noise, "signal": self._signal}

    def restore(self, state: Mapping[str, float]) -> None:
        """Take up what `state` gave."""
        self.num_steps, self._noise, self._signal = int(state["steps"]), state["noise"], state["signal"]


def efficiency(batch: float, base: float, noise_scale: float) -> float:
    """Progress of a sample in steps of `batch` samples against one in steps of `base`, where the rate follows the batch; at most 1.

    Smaller steps than the job asks for are not credited with more: the job chose its batch size.
    """
    return min(1.0, (noise_scale + base) / (noise_scale + batch))


def gain(scale: float, base: float, noise_scale: float) -> float:
    """Steps of `base` samples that one of `scale * base` is worth, at a rate that makes the most of it; between 1 and `scale`.

    r(s) = (var + sqr) / (var / s + sqr), with var the variance of a gradient of `base` samples and sqr the true one's squared norm:
    AdaScale's gain (Johnson et al. 2020, arXiv 2007.05105), which is s E(s M0) with E the efficiency above. Below a scale of 1 it is less.
    """
    return scale * (noise_scale + base) / (noise_scale + scale * base)

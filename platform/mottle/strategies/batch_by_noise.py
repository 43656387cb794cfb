"""The batch that trains the crew at hand fastest, as far as its speeds and the noise of the gradients are known.

    goodput(B) = B / T(B) * E(B),   E(B) = (phi + M0) / (phi + B)

T is the time of a round of B samples for this crew: what its workers' orders take (speed, overhead), and the exchange around it. E is
what a sample is worth in a step of B (`noise_scale.efficiency`), phi the noise scale and M0 the job's batch, which is the least. Of 50
sizes in geometric spacing the best is taken, where it promises more than 2 % over the one at hand. So a batch grows when workers join, when
gradients get noisier as training goes on, and where an order's fixed cost is large; it shrinks when workers leave. The rate is AdaScale's.

What was measured right before a change says little right after it: a batch holds for `hold_steps` steps after each change of batch or crew.
The third step is of up to twice the job's samples, because a worker's overhead cannot be told from its speed by orders of one size.

Source: Qiao et al. 2021, "Pollux", OSDI, arXiv 2008.12260; `elasticity.md` 3.3. Differs: the round's time is that of the strategy on the
workers as they were measured, in the place of seven fitted parameters for workers that are alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mottle.core import strategy as s
from mottle.core.errors import ConfigError
from mottle.strategies.balance import Speed
from mottle.strategies.batch_policy import BatchPolicy, Following, Gaining, RoundTime, check_following
from mottle.strategies.measuring import Measurements
from mottle.strategies.noise_scale import efficiency

CANDIDATES = 50
"""Sizes that are compared."""
LEAST_GAIN = 0.02
"""That another batch must promise: what LB-BSP asks of other shares."""
PROBED = 2
"""Steps before the one that is larger, so that it can be compared with one after the warm-up."""


@dataclass(frozen=True, kw_only=True)
class NoiseScaleConfig:
    """The batch of greatest goodput."""

    most: int
    """Samples of a step, at most."""
    hold_steps: int = 20
    """Steps for which a batch stays after it, or the crew, has changed."""
    rate: Following | None = None
    """How the rate follows the gain: `linear` or `sqrt`; None: as suits the job's optimizer (linear with SGD, else sqrt)."""
    memory: float = 0.999
    """Part of what is known of the noise that a step of the job's batch leaves; larger steps leave less."""

    def __post_init__(self) -> None:
        check_following(self.rate, ("linear", "sqrt"))
        if self.most < 1 or self.hold_steps < 1 or not 0 < self.memory < 1:
            raise ConfigError(
                f"noise_scale needs most >= 1, hold_steps >= 1 and 0 < memory < 1, got {self.most}, {self.hold_steps} and {self.memory}"
            )

    def build(self, batch_size: int, round_time: RoundTime) -> BatchPolicy:
        if self.most < batch_size:
            raise ConfigError(f"noise_scale grows the batch from batch_size {batch_size} up, so most must not be below it, got {self.most}")
        return ByNoise(self, batch_size, round_time)


class ByNoise(Gaining):
    """State machine of the policy."""

    def __init__(self, config: NoiseScaleConfig, batch_size: int, round_time: RoundTime) -> None:
        super().__init__(batch_size, memory=config.memory, rate=config.rate)
        self.config = config
        self._round_time = round_time
        self._measurements = Measurements()
        self._crew: tuple[int, ...] = ()
        self._chosen = batch_size
        self._num_steps = 0
        self._held = 0
        """Steps since batch or crew changed."""

    def _wanted(self, crew: Sequence[int]) -> int:
        if tuple(crew) != self._crew:
            self._crew, self._held = tuple(crew), 0
        if self._num_steps == PROBED:
            return min(self.config.most, 2 * self._base)
        if self._held >= self.config.hold_steps and (best := self._best()) != self._chosen:
            self._chosen, self._held = best, 0
        return self._chosen

    def step(self, decision: s.Apply | s.ApplyRule, updates: list[s.Update]) -> list[s.Decision]:
        self._num_steps += 1
        self._held += 1
        return super().step(decision, updates)

    def _best(self) -> int:
        known = [self._measurements.of(worker) for worker in self._crew]
        measured = [each for each in known if each is not None]
        noise = self._probe.noise.value
        if len(measured) < len(known) or noise is None:
            return self._chosen
        exchange = max(each["exchange_s"] for each in measured)
        speeds = [Speed(max(1e-12, each["sample_s"]), each["overhead_s"]) for each in measured]
        worth = {
            batch: goodput(batch, self._round_time(batch, speeds) + exchange, self._base, noise)
            for batch in (*sizes(self._base, self.config.most), self._chosen)
        }
        best = max(worth, key=lambda batch: worth[batch])
        return best if worth[best] > (1 + LEAST_GAIN) * worth[self._chosen] else self._chosen

    def hear(self, event: s.StrategyEvent) -> None:
        super().hear(event)
        match event:
            case s.UpdateArrived(update):
                self._measurements.note(update, alone=True)
            case s.WorkerGone(worker):
                self._measurements.gone(worker)

    def state(self) -> dict[str, Any]:
        return {**super().state(), "chosen": self._chosen, "steps": self._num_steps}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The workers are other ones: they are measured anew."""
        super().restore(state)
        self._chosen, self._num_steps = state["chosen"], state["steps"]


def goodput(batch: int, took: float, base: int, noise_scale: float) -> float:
    """Samples in steps of `base` that would come as far, in the unit of time of `took`: what a round of `batch` takes."""
    return batch / took * efficiency(batch, base, noise_scale)


def sizes(least: int, most: int) -> list[int]:
    """Whole numbers from `least` to `most` in geometric spacing, each once."""
    steps = CANDIDATES - 1
    return sorted({round(least * (most / least) ** (step / steps)) for step in range(CANDIDATES)})

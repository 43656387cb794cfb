"""What becomes of batch and learning rate when the crew changes: policies for strategies whose step has one batch for all workers.

* `fixed`: the batch stays, so do rate and path, whoever computes it (policy F). What a strategy does if nothing is said.
* `linear`: every worker brings `per_worker` samples, and the rate follows the batch, in a ramp after each change (policy S; Goyal et al.
  2017, arXiv 1706.02677). With optimizers that divide by a gradient's size it follows the root of the batch.
* `adascale`: the same batch; the rate grows by the gain of the batch, which the noise of the gradients decides (`noise_scale.gain`), and
  the schedule counts progress: gains, in steps of the job's batch. Johnson et al. 2020, arXiv 2007.05105.
* `noise_scale`: the batch itself is the one that trains the crew at hand fastest (`batch_by_noise.py`).

In all of them `batch_size` is the batch that the job's rate was chosen for. A policy hears what its strategy hears and decides from that
alone, so a run's log replays to the same batches and rates. Norms and inner products come from the shards; liars among the workers can
move a gain between 1 and the scale of the batch, and no further. The last step of an epoch, which may have fewer samples, is taken at the
rate of a whole one, as ever.

Source: `elasticity.md` 3. Differs: gains are of the noise that was measured up to the step before, since inner products come back
after the step is told.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from mottle.core import strategy as s
from mottle.core.errors import ConfigError
from mottle.core.naming import Spec, construct, folded, parse
from mottle.strategies.balance import Speed
from mottle.strategies.noise_probe import NoiseProbe
from mottle.strategies.noise_scale import gain

Following = Literal["linear", "sqrt", "constant"]
"""How a rate follows the batch, or its gain."""
POWERS: Mapping[str, float] = {"linear": 1.0, "sqrt": 0.5, "constant": 0.0}
LENGTHENED = ("sgd", "asgd")
"""Optimizers whose steps are as long as the gradient."""
RoundTime = Callable[[int, Sequence[Speed]], float]
"""How long a round of so many samples takes these workers, in the unit of their speeds."""

_TAG = "batch-noise"


class BatchPolicy(ABC):
    """State machine of a policy.

    Args:
        batch_size: the batch that the job's rate was chosen for.
    """

    def __init__(self, batch_size: int) -> None:
        self._base = batch_size
        self._batch = batch_size
        """Of the round that is out, before the end of an epoch cuts it."""
        self._told = batch_size

    def batch(self, crew: Sequence[int], most: int | None = None) -> int:
        """Samples of the round that begins, for these workers.

        Args:
            most: what they can hold together; None for no bound.
        """
        wanted = self._wanted(crew)
        self._batch = wanted if most is None else min(wanted, most)
        return self._batch

    @property
    def name(self) -> str:
        """What a checkpoint calls it."""
        return type(self).__name__

    @property
    def scale(self) -> float:
        """Of the round's batch, over the job's."""
        return self._batch / self._base

    def step(self, decision: s.Apply | s.ApplyRule, updates: list[s.Update]) -> list[s.Decision]:
        """The round's step, at its rate, and what is measured of its updates before it uses them up."""
        rate, lead = self._rate(sum(update.samples for update in updates))
        notes: list[s.Decision] = []
        if self._batch != self._told and (reason := self._reason()):
            notes.append(s.Warn(f"steps of {self._batch} samples in the place of {self._base}, {reason}", kind="batch"))
        self._told = self._batch
        return [*notes, *self._measured(updates), replace(decision, rate=rate, lead=lead)]

    @abstractmethod
    def _wanted(self, crew: Sequence[int]) -> int: ...

    @abstractmethod
    def _rate(self, samples: int) -> tuple[float, int]:
        """Of the step that is taken now, of so many samples: a factor on the schedule's rate, and by how much its argument is ahead."""

    @abstractmethod
    def _reason(self) -> str:
        """What people are told of another batch; empty: nothing."""

    def _measured(self, updates: list[s.Update]) -> list[s.Decision]:
        return []

    @abstractmethod
    def hear(self, event: s.StrategyEvent) -> None:
        """What else may be learnt from an event."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON types."""

    @abstractmethod
    def restore(self, state: Mapping[str, Any]) -> None:
        """Take it up."""


class Fixed(BatchPolicy):
    """Always the job's batch and rate."""

    def _wanted(self, crew: Sequence[int]) -> int:
        return self._base

    def _rate(self, samples: int) -> tuple[float, int]:
        return 1.0, 0

    def _reason(self) -> str:
        return ""

    def hear(self, event: s.StrategyEvent) -> None:
        """Nothing is learnt."""

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing was kept."""


class Linear(BatchPolicy):
    """A ramp of `ramp_steps` steps leads from one rate to the next; the first crew begins at its own."""

    def __init__(self, config: "LinearConfig", batch_size: int) -> None:
        super().__init__(batch_size)
        self.config = config
        self._power = POWERS[config.rate or "linear"]
        self._factor: float | None = None
        """Of the last step."""
        self._from, self._goal, self._steps = 1.0, 1.0, 0
        """Where the ramp begins and ends, and how far it has been gone."""

    def _wanted(self, crew: Sequence[int]) -> int:
        return self.config.per_worker * len(crew)

    def _rate(self, samples: int) -> tuple[float, int]:
        goal = self.scale**self._power
        if self._factor is None:
            self._from, self._goal, self._steps = goal, goal, 0
        elif goal != self._goal:
            self._from, self._goal, self._steps = self._factor, goal, 0
        self._steps += 1
        left = max(0.0, 1 - self._steps / max(1, self.config.ramp_steps))
        self._factor = self._goal + left * (self._from - self._goal)
        return self._factor, 0

    def _reason(self) -> str:
        return f"at {self.scale**self._power:.3g} times the rate"

    def hear(self, event: s.StrategyEvent) -> None:
        """The crew is all that counts."""

    def state(self) -> dict[str, Any]:
        return {"ramp": [self._factor, self._from, self._goal, self._steps], "told": self._told}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._factor, self._from, self._goal, self._steps = state["ramp"]
        self._told = state["told"]


class Gaining(BatchPolicy):
    """What policies have in common whose rate is a gain: the noise is measured at each step, and the schedule counts progress."""

    def __init__(self, batch_size: int, *, memory: float, rate: Following | None) -> None:
        super().__init__(batch_size)
        self._power = POWERS[rate or "linear"]
        self._memory = memory
        self._probe = NoiseProbe(_TAG)
        self._lead = 0.0
        """By how many samples steps of the job's batch that would have come as far differ from those taken; mostly below 0."""

    @property
    def gain(self) -> float:
        """Of the round's batch. While nothing is known of the noise a larger batch gains nothing, a smaller one loses its share."""
        noise = self._probe.noise.value
        return min(1.0, self.scale) if noise is None else gain(self.scale, self._base, noise)

    def _rate(self, samples: int) -> tuple[float, int]:
        gained, lead = self.gain, round(self._lead)
        self._lead += (gained / self.scale - 1) * samples
        return gained**self._power, lead

    def _reason(self) -> str:
        noise = self._probe.noise.value
        known = "the noise scale is not known yet" if noise is None else f"at a noise scale of {noise:,.0f} samples"
        return f"worth {self.gain:.3g} steps of these: {known}"

    def _measured(self, updates: list[s.Update]) -> list[s.Decision]:
        return self._probe.compare(updates, newest=1 - self._memory**self.scale, alone=True)

    def hear(self, event: s.StrategyEvent) -> None:
        match event:
            case s.DotsMeasured(tag, dots) if tag == _TAG:
                self._probe.measured(dots)

    def state(self) -> dict[str, Any]:
        return {"lead": self._lead, "noise": self._probe.noise.state(), "told": self._told}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._lead, self._told = state["lead"], state["told"]
        self._probe.noise.restore(state["noise"])


class AdaScale(Gaining):
    """Every worker brings the same, and the rate is what that is worth."""

    def __init__(self, config: "AdaScaleConfig", batch_size: int) -> None:
        super().__init__(batch_size, memory=config.memory, rate=config.rate)
        self.config = config

    def _wanted(self, crew: Sequence[int]) -> int:
        return self.config.per_worker * len(crew)


# --- by name --------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class FixedConfig:
    """The job's batch, whoever is there."""

    def build(self, batch_size: int, round_time: RoundTime) -> BatchPolicy:
        return Fixed(batch_size)


@dataclass(frozen=True, kw_only=True)
class LinearConfig:
    """Batch and rate grow with the crew."""

    per_worker: int
    """Samples of a step for each worker."""
    rate: Following | None = None
    """`linear`, `sqrt` or `constant` in the batch; None: as suits the job's optimizer (linear with SGD, else sqrt)."""
    ramp_steps: int = 100  # w
    """Steps from one rate to the next after a change."""

    def __post_init__(self) -> None:
        check_following(self.rate, POWERS)
        if self.per_worker < 1 or self.ramp_steps < 0:
            raise ConfigError(f"linear needs per_worker >= 1 and ramp_steps >= 0, got {self.per_worker} and {self.ramp_steps}")

    def build(self, batch_size: int, round_time: RoundTime) -> BatchPolicy:
        return Linear(self, batch_size)


@dataclass(frozen=True, kw_only=True)
class AdaScaleConfig:
    """The batch grows with the crew, the rate by what that gains."""

    per_worker: int
    """Samples of a step for each worker."""
    rate: Following | None = None
    """How the rate follows the gain: `linear` or `sqrt`; None: as suits the job's optimizer (linear with SGD, else sqrt)."""
    memory: float = 0.999
    """Part of what is known of the noise that a step of the job's batch leaves; larger steps leave less."""

    def __post_init__(self) -> None:
        check_following(self.rate, ("linear", "sqrt"))
        if self.per_worker < 1 or not 0 < self.memory < 1:
            raise ConfigError(f"adascale needs per_worker >= 1 and 0 < memory < 1, got {self.per_worker} and {self.memory}")

    def build(self, batch_size: int, round_time: RoundTime) -> BatchPolicy:
        return AdaScale(self, batch_size)


def check_following(rate: str | None, known: Sequence[str] | Mapping[str, float]) -> None:
    """Refuse another word for how a rate follows the batch."""
    if rate is not None and rate not in known:
        raise ConfigError(f"the rate follows the batch as one of {', '.join(known)}, got {rate!r}")


def catalogue() -> dict[str, Any]:
    """The configuration of each policy, by name."""
    from mottle.strategies.batch_by_noise import NoiseScaleConfig  # which builds on this module

    return {"fixed": FixedConfig, "linear": LinearConfig, "adascale": AdaScaleConfig, "noise_scale": NoiseScaleConfig}


def config_of(spec: Spec | None) -> Any:
    """The configuration of the policy that `spec` names; of `fixed` for None.

    Raises:
        ConfigError: unknown name or option, with the nearest one, or values that cannot be.
    """
    return construct("fixed" if spec is None else spec, catalogue(), "batch policy")


def for_optimizer(spec: Spec, optimizer: str) -> dict[str, Any]:
    """The policy with its rate spelt out: linear in batch or gain with SGD, the root with optimizers that divide by a gradient's size.

    Args:
        optimizer: by name, the job's.
    Raises:
        ConfigError: as `config_of`.
    """
    config = config_of(spec)
    name, options = parse(spec, "batch policy")
    if hasattr(config, "rate") and config.rate is None:
        options["rate"] = "linear" if folded(optimizer) in LENGTHENED else "sqrt"
    return {name: options}


def check(spec: Spec | None, batch_size: int) -> None:
    """Refuse what `build` would refuse, for the configurations of strategies.

    Raises:
        ConfigError: as `build`.
    """
    build(spec, batch_size, lambda batch, speeds: 0.0)


def build(spec: Spec | None, batch_size: int, round_time: RoundTime) -> BatchPolicy:
    """The policy that `spec` names.

    Args:
        batch_size: the job's.
        round_time: of the strategy.
    Raises:
        ConfigError: as `config_of`, or a largest batch below the job's.
    """
    policy: BatchPolicy = config_of(spec).build(batch_size, round_time)
    return policy

"""Load-balanced synchronous SGD: the step of synchronous SGD, with shares so unequal that all finish at once.

Before each round the time of every worker is predicted, b samples taking overhead_i + b * sample_i, and the batch is split so that the
slowest is as fast as may be (`balance.py`). The shares always add up to the batch and the direction is the mean over its samples, so the
model goes exactly the way of synchronous SGD; only the time differs.

Shares change only for a gain of more than 2 % of the round, which keeps batches steady where times are noisy. To tell a worker's overhead
from its speed, its second and third order are made clearly larger and smaller (or the other way round) than its share.

Source: Chen et al., "Semi-Dynamic Load Balancing", SoCC 2020 (arXiv 1806.02508); `heterogeneous.md` 5. Differs: a moving average takes the
place of the recurrent predictor; times are what workers report of themselves, see `Update.compute_ns` for what lies are worth. Neutral
reference: synchronous SGD.
"""

from dataclasses import dataclass
from statistics import median

from mottle.core import strategy as s
from mottle.strategies import batch_policy
from mottle.strategies.balance import Predictor, Speed, balanced, level_time
from mottle.strategies.barriered import Barriered
from mottle.strategies.options import CrewBatchOptions, below, refuse, unless
from mottle.strategies.rounds import Round, even_shares

_GAIN = 0.02  # of the predicted time of a round, that new shares must bring; [D] of the specification
_PROBES = (1.5, 0.5)
"""Parts of its share that a worker computes in its second and third order, or the other way round."""


@dataclass(frozen=True, kw_only=True)
class LBBSPConfig(CrewBatchOptions):
    """Load-balanced synchronous SGD."""

    smoothing: float = 0.2  # a in the specification
    """Weight of the newest measurement of a worker's speed."""
    least: int = 1
    """Samples of one worker at least, where the batch has so many for each."""
    most: int | None = None
    """Samples of one worker at most (its memory); a batch that is too large for the crew is made smaller."""
    calibrate: bool = True
    """Measure the overhead of an order; without, it counts as part of the samples' time."""

    def __post_init__(self) -> None:
        refuse(
            "lb_bsp",
            below(1, batch_size=self.batch_size, least=self.least),
            unless(self.most is None or self.most >= self.least, f"most >= least, got {self.most} and {self.least}"),
            unless(0 < self.smoothing <= 1, f"0 < smoothing <= 1, got {self.smoothing}"),
        )
        batch_policy.check(self.batch_policy, self.batch_size)

    def build(self) -> "LBBSP":
        return LBBSP(self)


class LBBSP(Barriered):
    """State machine of load-balanced synchronous SGD."""

    def __init__(self, config: LBBSPConfig) -> None:
        super().__init__(config.rule, policy=batch_policy.build(config.batch_policy, config.batch_size, level_time))
        self.config = config
        self._predictors: dict[int, Predictor] = {}
        self._shares: dict[int, int] = {}
        """Of the last round with nobody on probation."""

    def _orders(self, crew: list[int], free: int) -> list[s.Assign]:
        room = None if self.config.most is None else self.config.most * len(crew)
        return [s.Assign(worker, share) for worker, share in self._split(self._batch(crew, free, room), crew)]

    def _enough(self, current: Round) -> bool:
        return False

    def _step(self, current: Round) -> s.Apply | s.ApplyRule:
        return current.step(self._rule, len(current.members))

    def _heard(self, event: s.StrategyEvent, current: Round | None) -> list[s.Decision]:
        match event:
            case s.UpdateArrived(update):
                self._predictor(update.worker).note(update.samples, max(1, update.compute_ns))
            case s.WorkerGone(worker):
                self._predictors.pop(worker, None)
        return []

    # --- shares -----------------------------------------------------------------------------------------------------------------------

    def _predictor(self, worker: int) -> Predictor:
        if worker not in self._predictors:
            self._predictors[worker] = Predictor(self.config.smoothing, calibrate=self.config.calibrate)
        return self._predictors[worker]

    def _split(self, batch: int, crew: list[int]) -> list[tuple[int, int]]:
        """(worker, samples), ascending slot; evenly while nothing is known."""
        most = self.config.most
        speeds = self._speeds(crew)
        if speeds is None:
            return even_shares(batch, crew)
        probing = [self._probed(worker, place) for place, worker in enumerate(crew)]
        apparent = [Speed(each.sample / factor, each.overhead) for each, factor in zip(speeds, probing, strict=True)]
        least = min(self.config.least, batch // len(crew))
        shares = dict(zip(crew, balanced(batch, apparent, least, most), strict=True))
        if set(probing) == {1.0}:
            shares = self._shares = self._steadied(shares, dict(zip(crew, speeds, strict=True)))
        return [(worker, share) for worker, share in shares.items() if share]

    def _speeds(self, crew: list[int]) -> list[Speed] | None:
        """Predictions; whoever is new is taken to be like the others. None if nothing is known of anybody."""
        known = [speed for worker in crew if (speed := self._predictor(worker).speed) is not None]
        if not known:
            return None
        usual = Speed(median(each.sample for each in known), median(each.overhead for each in known))
        return [self._predictor(worker).speed or usual for worker in crew]

    def _probed(self, worker: int, place: int) -> float:
        """What part of its share the worker gets for the sake of calibration; half of the crew more while the other half gets less."""
        predictor = self._predictor(worker)
        if not self.config.calibrate or predictor.calibrated or predictor.num_orders not in (1, 2):
            return 1.0
        return _PROBES[(place + predictor.num_orders) % 2]

    def _steadied(self, shares: dict[int, int], speeds: dict[int, Speed]) -> dict[int, int]:
        """The shares of the last round, unless the new ones gain enough."""
        before = self._shares
        if set(before) != set(shares) or sum(before.values()) != sum(shares.values()):
            return shares
        takes, took = (max(speeds[worker].time(share) for worker, share in each.items()) for each in (shares, before))
        return shares if takes < (1 - _GAIN) * took else before

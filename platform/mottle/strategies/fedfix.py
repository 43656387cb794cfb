"""FedFix: a step every so often, of whatever came in since the last one; slow workers keep computing at the version they began with.

Fixed windows keep much of the steadiness of synchronous steps, and weighing a worker by how seldom it comes keeps the fast ones from ruling
the mixture: at the end of a window x <- x - lr * sum over those who came of d_i * g_i, with g_i the mean gradient and

    d_i = (1 / n) / f_i,   f_i the share of windows, of those since it joined, in which worker i came (this one included)

so that the average weight of every worker is 1 / n. A window as long as the slowest worker takes is synchronous SGD.

Source: Fraboni, Vidal, Kameni, Lorenzi, "A General Theory for Federated Optimization with Asynchronous and Heterogeneous Clients Updates",
JMLR 24(110), 2023, arXiv 2206.10189; `asynchronous.md` B6. Differs: workers send gradients (one local step); all are of equal importance;
an empty window makes no version; windows rest while nothing is out. Neutral reference: plain SGD with one worker.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mottle.core import strategy as s
from mottle.strategies.options import Usual, below, not_above, refuse
from mottle.strategies.turns import Turns


@dataclass(frozen=True, kw_only=True)
class FedFixConfig:
    """Steps at fixed times."""

    batch_size: int
    """Samples of one order."""
    window_s: float  # Delta t in the paper
    """Seconds from one step to the next; a worker's order should take about as long, or a few times as long."""

    def __post_init__(self) -> None:
        refuse("fedfix", below(1, batch_size=self.batch_size), not_above(0, window_s=self.window_s))

    def build(self) -> "FedFix":
        return FedFix(self)


@dataclass(slots=True)
class _Presence:
    """How often a worker came."""

    since: int
    """Windows that were over when it joined."""
    came: int = 0


class FedFix(Usual):
    """State machine of FedFix. Whoever came in a window begins again at the version that the window makes."""

    def __init__(self, config: FedFixConfig) -> None:
        self.config = config
        self._windows = 0
        """Windows that are over."""
        self._open = False
        """A window is running, and its alarm set."""
        self._out: set[int] = set()
        """Work ids."""
        self._arrived: dict[int, s.Update] = {}
        """Worker -> its update of the window."""
        self._turns = Turns()
        self._presence: dict[int, _Presence] = {}

    def handle(self, event: s.StrategyEvent, view: s.View) -> list[s.Decision]:
        match event:
            case s.WorkerIdle(worker) if worker not in self._arrived and self._turns.may_go(worker, view.version):
                self._presence.setdefault(worker, _Presence(self._windows))
                return [self._assign(worker)]
            case s.OrderIssued(work_id):
                self._out.add(work_id)
                return self._open_window()
            case s.UpdateArrived(update):
                self._out.discard(update.work_id)
                self._arrived[update.worker] = update
            case s.OrderEnded(work_id):
                self._out.discard(work_id)
            case s.AlarmRang(name) if name == self._alarm:
                return self._close_window(view)
            case s.NothingLeft():
                self._open = False
                return self._step(view)
            case s.VersionPublished(version):
                return [self._assign(worker) for worker in self._turns.published(version)]
            case s.WorkerGone(worker):
                self._turns.gone(worker)
                self._presence.pop(worker, None)
        return []

    # --- windows ----------------------------------------------------------------------------------------------------------------------

    @property
    def _alarm(self) -> str:
        return f"window-{self._windows}"

    def _open_window(self) -> list[s.Decision]:
        if self._open:
            return []
        self._open = True
        return [s.SetAlarm(self._alarm, round(self.config.window_s * 1e9))]

    def _close_window(self, view: s.View) -> list[s.Decision]:
        """The next window begins at once, unless nothing is out and nothing came."""
        busy = bool(self._out or self._arrived)
        step = self._step(view)
        self._open = False
        return step + (self._open_window() if busy else [])

    def _step(self, view: s.View) -> list[s.Decision]:
        """Of what came in the window, ascending slot."""
        self._windows += 1
        if not self._arrived:
            return []
        terms = tuple((update.work_id, self._weight(update, view)) for _, update in sorted(self._arrived.items()))
        for worker in self._arrived:
            self._turns.decided(worker, version=view.head.number + 1)
        self._arrived = {}
        return [s.Apply(terms)]

    def _weight(self, update: s.Update, view: s.View) -> float:
        presence = self._presence.get(update.worker) or _Presence(self._windows - 1)  # it may have left since
        presence.came += 1
        often = presence.came / (self._windows - presence.since)
        short = min(update.samples / self.config.batch_size, 1.0)
        return short / (max(1, len(view.crew)) * often * update.weight)

    def _assign(self, worker: int) -> s.Assign:
        return s.Assign(worker, self.config.batch_size)

    # --- checkpoints ------------------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {"windows": self._windows}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._windows = state["windows"]

    def check(self) -> None:
        assert all(each.came <= self._windows - each.since for each in self._presence.values()), "somebody came twice in a window"

"""What a simulated run came to, in numbers for people and programs."""

from collections.abc import Mapping
from dataclasses import dataclass

from mottle.simulate.simulation import DESERTED, Simulation
from mottle.simulate.tally import Point, WorkerTally

HOUR_NS = 3600 * 10**9


@dataclass(frozen=True, kw_only=True)
class WorkerOutcome:
    """One worker.

    Attributes:
        present_s: from joining to leaving or the end.
        utilisation: share of that time in which it computed, whatever became of it.
        samples: of its updates that were accepted or left unselected.
        staleness: mean of the same updates; None without any.
        cost: of its presence.
    """

    name: str
    group: str
    present_s: float
    left: str
    """Why it left before the end; empty if it did not."""
    utilisation: float
    samples: int
    staleness: float | None
    updates: Mapping[str, int]
    bytes_up: int
    bytes_down: int
    cost: float


@dataclass(frozen=True, kw_only=True)
class Reached:
    """How a run fared against a target."""

    metric: str
    wanted: float
    best: float | None
    """None if it was never measured."""
    seconds: float | None
    """When it was measured to be reached first; None if it never was."""
    samples: int | None
    cost: float | None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A run. Means over workers are weighted by the time they were present, staleness by updates."""

    strategy: str
    ended: str
    seconds: float
    versions: int
    samples: int
    samples_per_s: float
    utilisation: float
    staleness: float | None
    bytes_up: int
    bytes_down: int
    cost: float
    workers: tuple[WorkerOutcome, ...]
    metrics: Mapping[str, float]
    """As last measured."""
    target: Reached | None
    curve: tuple[Point, ...]


def outcome_of(run: Simulation, strategy: str, target: tuple[str, float] | None = None) -> Outcome:
    """The numbers of a run that has ended."""
    now_ns = run.clock.now_ns
    workers = tuple(_worker(run, slot, tally, now_ns) for slot, tally in run.tally.workers.items())
    seconds = now_ns / 1e9
    samples = sum(worker.samples for worker in workers)
    present_s = sum(worker.present_s for worker in workers)
    counted = [(tally.staleness_sum, _num_used(tally)) for tally in run.tally.workers.values()]
    num_used = sum(num for _, num in counted)
    points = run.tally.points
    return Outcome(
        strategy=strategy,
        ended=_ended(run),
        seconds=seconds,
        versions=run.tally.num_versions,
        samples=samples,
        samples_per_s=samples / seconds if seconds else 0.0,
        utilisation=sum(worker.utilisation * worker.present_s for worker in workers) / present_s if present_s else 0.0,
        staleness=sum(total for total, _ in counted) / num_used if num_used else None,
        bytes_up=sum(worker.bytes_up for worker in workers),
        bytes_down=sum(worker.bytes_down for worker in workers),
        cost=cost_until(run, now_ns),
        workers=workers,
        metrics=dict(points[-1].metrics) if points else {},
        target=None if target is None else _reached(run, *target),
        curve=tuple(points),
    )


def cost_until(run: Simulation, now_ns: int) -> float:
    """Of all workers' presence and all servers, from the start until then."""
    workers = sum(_present_ns(tally, now_ns) * tally.price_per_hour for tally in run.tally.workers.values())
    return (workers + now_ns * len(run.hosts.all) * run.fleet.servers.price_per_hour) / HOUR_NS


def _present_ns(tally: WorkerTally, now_ns: int) -> int:
    return max(0, min(now_ns, now_ns if tally.left_ns is None else tally.left_ns) - tally.joined_ns)


def _num_used(tally: WorkerTally) -> int:
    return tally.verdicts["accepted"] + tally.verdicts["unselected"]


def _worker(run: Simulation, slot: int, tally: WorkerTally, now_ns: int) -> WorkerOutcome:
    present_ns = _present_ns(tally, now_ns)
    side, used = run.crew.all[slot].side, _num_used(tally)
    return WorkerOutcome(
        name=tally.name,
        group=tally.group,
        present_s=present_ns / 1e9,
        left=tally.why_left,
        utilisation=tally.compute_ns / present_ns if present_ns else 0.0,
        samples=tally.samples,
        staleness=tally.staleness_sum / used if used else None,
        updates=dict(tally.verdicts),
        bytes_up=side.up.num_bytes,
        bytes_down=side.down.num_bytes,
        cost=present_ns * tally.price_per_hour / HOUR_NS,
    )


def _ended(run: Simulation) -> str:
    if run.deserted:
        return DESERTED
    if run.finished is None:
        return "nothing moves any more"
    return {"samples": "all samples are spent", "time": "the time is up"}.get(run.finished.reason, run.finished.reason)


def _reached(run: Simulation, metric: str, wanted: float) -> Reached:
    measured = [(point, point.metrics[metric]) for point in run.tally.points if metric in point.metrics]
    first = next((point for point, value in measured if value >= wanted), None)
    return Reached(
        metric=metric,
        wanted=wanted,
        best=max((value for _, value in measured), default=None),
        seconds=None if first is None else first.now_ns / 1e9,
        samples=None if first is None else first.samples,
        cost=None if first is None else cost_until(run, first.now_ns),
    )

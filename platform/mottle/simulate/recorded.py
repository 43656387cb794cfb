"""A fleet from the record of a live run: how fast each worker was, how long its way to the shards, who came and went when.

Read from the log of events (`mottle.observe.events`): a receipt says when an update was there, of how many samples it was and how long the
worker says it computed. What a record cannot tell apart is named in the fleet's note: bytes and bandwidth, and waiting for others.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from math import exp, log
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from mottle import strategies
from mottle.core.errors import ConfigError
from mottle.core.protocol import work_id_of
from mottle.observe.events import read_events
from mottle.observe.result import read_result
from mottle.simulate.faults import Fault
from mottle.simulate.fleet import Fleet, Workers, Workload
from mottle.simulate.speed import ComputeTime, Lognormal
from mottle.storage import Folder

ALIKE = 1.25
"""Workers of a group whose median times differ by no more than this factor are one group of the fleet."""

STEADY = 0.01
"""Below this spread a speed counts as constant."""

NOTE = """Recorded from {name}: {num_updates} updates of {num_workers} workers in {wall_s:.1f} s.
sample_s: means and spreads of what the workers said they computed, so that as much is done in a second as was then.
latency_s: half of the mean time from one update to the next that was not computing{whose}. Bytes are not in a
record, so this holds the transfers too: model_bytes is 0 here. Set model_bytes, bandwidths and latencies where they are known."""


@dataclass
class _Seen:
    """One worker in the record; times in seconds since training began."""

    group: str
    joined_s: float
    left_s: float | None = None
    died: bool = False
    last_s: float | None = None
    sample_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)

    def delivered(self, at_s: float, samples: int, compute_s: float) -> None:
        if samples < 1 or compute_s <= 0:
            return  # a claim that says nothing about speed
        self.sample_s.append(compute_s / samples)
        self.samples.append(samples)
        if self.last_s is not None:
            self.gaps_s.append(max(0.0, at_s - self.last_s - compute_s))
        self.last_s = at_s


def fleet_of_run(where: str | Path | Folder) -> tuple[Fleet, str]:
    """The fleet that a run's folder tells of, and a note on where its numbers come from.

    Raises:
        ConfigError: no run was recorded there, or none of its workers delivered anything.
    """
    folder = Folder.at(where)
    seen, wall_s = _read(folder)
    told = {slot: worker for slot, worker in seen.items() if worker.sample_s}
    if not told:
        raise ConfigError(f"wanted the folder of a run in which workers delivered updates; nothing was delivered in {folder.path}")
    together = _steps_together(folder)
    groups, members = _groups(told, together=together)
    num_updates = sum(len(worker.sample_s) for worker in told.values())
    batch_size = round(median(samples for worker in told.values() for samples in worker.samples))
    fleet = Fleet(
        workers=tuple(groups),
        faults=tuple(_faults(told, members, wall_s)),
        workload=Workload(batch_size=batch_size, model_bytes=0),
    )
    whose = ", of the worker that waited least for others" if together else ""
    return fleet, NOTE.format(name=folder.name, num_updates=num_updates, num_workers=len(told), wall_s=wall_s, whose=whose)


def _steps_together(folder: Folder) -> bool:
    """Whether workers of that run waited for each other, which a time between updates does not tell from a slow network."""
    result = read_result(folder)
    try:
        return result is not None and strategies.build(result.strategy, {"batch_size": 1, "lr": 1.0, "rho": 0.1}).barriered
    except ConfigError:  # a strategy of the user's own
        return False


def _read(folder: Folder) -> tuple[dict[int, _Seen], float]:
    """Everybody who joined, and when the last update was there: whoever leaves after that leaves because the run is over."""
    seen: dict[int, _Seen] = {}
    counted: set[str] = set()
    began_ns, last_s = 0, 0.0
    for event in read_events(folder):
        if event.kind == "Started":
            began_ns = event.now_ns
            for worker in seen.values():
                worker.joined_s = 0.0  # those who wait for the start are there from the start
        now_s = (event.now_ns - began_ns) / 1e9
        body: dict[str, Any] = event.body
        match event.kind:
            case "Joined":
                seen[body["worker"]] = _Seen(body["group"], max(0.0, now_s))
            case "RemoveAsked" | "Left" if body["worker"] in seen and seen[body["worker"]].left_s is None:
                seen[body["worker"]].left_s, seen[body["worker"]].died = now_s, bool(body.get("died"))
            case "Receipt" if body["sender"] in seen and work_id_of(body["name"]) is not None and body["name"] not in counted:
                counted.add(body["name"])
                seen[body["sender"]].delivered(now_s, body["samples"], body["compute_ns"] / 1e9)
                last_s = now_s
    return seen, last_s


def _groups(told: dict[int, _Seen], *, together: bool) -> tuple[list[Workers], dict[str, list[int]]]:
    """The fleet's groups, and the slots in each, in the order of joining."""
    by_group: dict[str, list[int]] = defaultdict(list)
    for slot in sorted(told):
        by_group[told[slot].group].append(slot)
    shortest_s = min((_latency_s([worker]) for worker in told.values() if worker.gaps_s), default=0.0)
    groups, members = [], {}
    for group, slots in by_group.items():
        for index, alike in enumerate(_alike(told, slots)):
            name = group if index == 0 else f"{group}{index + 1}"
            alike.sort(key=lambda slot: (told[slot].joined_s, slot))
            members[name] = alike
            own = [told[slot] for slot in alike]
            count = sum(worker.joined_s == 0 for worker in own)
            latency_s = shortest_s if together else _latency_s(own)
            groups.append(Workers(name=name, count=count, sample_s=_compute_time(own), latency_s=latency_s))
    return groups, members


def _alike(told: dict[int, _Seen], slots: list[int]) -> list[list[int]]:
    """Slots in parts of like speed, fastest first."""
    parts: list[list[int]] = []
    fastest_s = 0.0
    for median_s, slot in sorted((median(told[slot].sample_s), slot) for slot in slots):
        if not parts or median_s > ALIKE * fastest_s:
            parts.append([])
            fastest_s = median_s
        parts[-1].append(slot)
    return parts


def _compute_time(workers: list[_Seen]) -> ComputeTime:
    times = [each for worker in workers for each in worker.sample_s]
    sigma = stdev(map(log, times)) if len(times) > 2 else 0.0
    if sigma < STEADY:
        return _rounded(fmean(times))
    sigma = _rounded(min(sigma, 5.0))
    return Lognormal(median_s=_rounded(fmean(times) / exp(sigma**2 / 2)), sigma=sigma)  # whose mean is that of the times


def _latency_s(workers: list[_Seen]) -> float:
    gaps = [each for worker in workers for each in worker.gaps_s]
    return _rounded(fmean(gaps) / 2) if gaps else 0.0


def _rounded(number: float) -> float:
    """Three significant digits: a record is no more exact."""
    return float(f"{number:.3g}")


def _faults(told: dict[int, _Seen], members: dict[str, list[int]], wall_s: float) -> list[Fault]:
    """Who came and went after the start, in the order of time."""
    faults = []
    for group, slots in members.items():
        for index, slot in enumerate(slots):
            worker = told[slot]
            if worker.joined_s > 0:
                faults.append(Fault(kind="join", group=group, at_s=round(worker.joined_s, 3)))
            if worker.left_s is not None and worker.left_s < wall_s:
                kind = "crash" if worker.died else "leave"
                faults.append(Fault(kind=kind, worker=f"{group}-{index}", at_s=round(max(0.0, worker.left_s), 3)))  # type: ignore[arg-type]  # one of its kinds
    return sorted(faults, key=lambda fault: fault.at_s or 0.0)

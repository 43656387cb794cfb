"""Which strategy suits a crew that has been measured: every candidate runs on the simulator, the best one is named, with the reason.

    progress a second = samples a second * worth of a sample in steps of that size * worth of a gradient that is so many steps old

Samples a second, samples a step and staleness come from the simulation: the very machines of the live run on the measured workers, timing
only. The worth of a batch is the noise scale's (`strategies.noise_scale`), that of stale gradients was fitted (`simulate.penalties`).
Both are measured against synchronous steps of the job's batch size, which are worth 1.

What it does not know: links (their time is in each worker's measured exchange, which holds whoever shares them), learning rates (each
strategy is taken at a good one of its own; for ABS-SGD with SGD half the job's, scaled with the step), and how speeds will change.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from mottle.core import protocol as p
from mottle.core.brain import Brain
from mottle.core.config import BrainConfig
from mottle.core.naming import Spec, parse
from mottle.simulate.fleet import Fleet, Workers
from mottle.simulate.numbers import Synthetic
from mottle.simulate.penalties import staleness_efficiency
from mottle.simulate.simulation import Simulation
from mottle.simulate.speed import ComputeTime, Lognormal
from mottle.strategies.auto import AutoConfig
from mottle.strategies.noise_scale import efficiency

LEAST_GAIN = 0.05
"""What another strategy must promise beyond the running one: less is within what is not known."""
LEAST_JITTER = 0.03
"""Scatter of a worker's times below which they are taken to be constant."""
ROUNDS = 60
"""Facts for the brain, for each worker, that a candidate is simulated for; the first third is its own settling down."""
MOST_FACTS = 20_000
CAP = 4.0
"""Greatest factor by which ABS-SGD's steps grow with their samples."""


@dataclass(frozen=True, kw_only=True)
class Rated:
    """One candidate on the measured crew."""

    spec: Spec
    samples_per_s: float
    batch: float
    """Samples of a step."""
    staleness: float
    batch_worth: float
    staleness_worth: float

    @property
    def name(self) -> str:
        return parse(self.spec, "strategy")[0]

    @property
    def progress_per_s(self) -> float:
        """Samples a second of synchronous steps of the job's batch size that would come as far."""
        return self.samples_per_s * self.batch_worth * self.staleness_worth

    def as_dict(self) -> dict[str, Any]:
        """As JSON types, rounded for people."""
        numbers = {
            "samples_per_s": self.samples_per_s,
            "batch": self.batch,
            "staleness": self.staleness,
            "batch_worth": self.batch_worth,
            "staleness_worth": self.staleness_worth,
            "progress_per_s": self.progress_per_s,
        }
        return {"strategy": self.name, **{key: float(f"{value:.4g}") for key, value in numbers.items()}}


def planner_of(config: object, micro_batch: int | None, optimizer: object) -> Callable[[Mapping[str, Any]], p.Planned] | None:
    """What answers the strategy of that configuration when it asks for a plan; None for strategies that never ask.

    Args:
        micro_batch, optimizer: the job's.
    """
    if not isinstance(config, AutoConfig):
        return None
    name, _ = parse(optimizer, "optimizer")
    return partial(plan, config=config, micro_batch=micro_batch, scales=name.lower() == "sgd")


def plan(measured: Mapping[str, Any], *, config: AutoConfig, micro_batch: int | None, scales: bool) -> p.Planned:
    """Answer to `PlanWanted`.

    Args:
        measured: see `strategies.auto.Auto`.
        config: the job's.
        micro_batch: samples between two looks of a worker at its mailbox.
        scales: whether a step grows with its rate (SGD), so that larger batches can be given larger steps; with Adam and its like they
            cannot.
    """
    fleet = fleet_of(measured)
    base = config.batch_size
    scales = scales and not measured["robust"]  # a robust step is not scaled by how much somebody computed
    rated = [
        _rate(_tuned(spec, base, scales=scales), fleet, config, micro_batch, measured["noise_scale"], scales=scales)
        for spec in measured["candidates"]
    ]
    ranking = sorted(rated, key=lambda each: -each.progress_per_s)
    best = ranking[0]
    running = next((each for each in ranking if each.name == parse(measured["running"], "strategy")[0]), None)
    stays = running is not None and best.progress_per_s < (1 + LEAST_GAIN) * running.progress_per_s
    chosen = running if stays and running is not None else best
    spec = measured["running"] if stays else chosen.spec
    return p.Planned(spec, _why(chosen, ranking, fleet, measured, base, stays=stays), tuple(each.as_dict() for each in ranking))


def fleet_of(measured: Mapping[str, Any]) -> Fleet:
    """The measured crew; who has not been measured yet is taken to be like the others.

    The part of an order's time that does not grow with it counts as exchange, half on the way there and half on the way back.
    """
    known = {int(slot): numbers for slot, numbers in measured["workers"].items()}
    usual = {key: median(numbers[key] for numbers in known.values()) for key in ("sample_s", "overhead_s", "exchange_s", "jitter")}
    return Fleet(workers=tuple(_worker(slot, known.get(slot, usual)) for slot in measured["crew"]))


def _worker(slot: int, numbers: Mapping[str, float]) -> Workers:
    seconds = max(1e-9, numbers["sample_s"])
    jitter = min(5.0, numbers["jitter"])
    pace: ComputeTime = Lognormal(median_s=seconds, sigma=jitter) if jitter > LEAST_JITTER else seconds
    return Workers(name=f"w{slot}", sample_s=pace, latency_s=(numbers["exchange_s"] + numbers["overhead_s"]) / 2)


def _tuned(spec: Spec, base: int, *, scales: bool) -> Spec:
    """ABS-SGD at half the job's rate for steps of the job's batch size, more for larger ones; all others as they are."""
    if spec != "abs_sgd" or not scales:
        return spec
    return {"abs_sgd": {"linear_batch": 2 * base, "linear_cap": CAP}}


def _rate(spec: Spec, fleet: Fleet, config: AutoConfig, micro_batch: int | None, noise: float | None, *, scales: bool) -> Rated:
    brain = Brain(BrainConfig(num_positions=10**12, lease_floor_ns=None), config.candidate(spec))
    run = Simulation(brain, fleet, Synthetic(0), micro_batch=micro_batch)
    facts = min(MOST_FACTS, ROUNDS * fleet.num_workers)
    run.run(until=lambda: run.num_brain_events >= facts // 3)
    samples, versions, since_ns = brain.samples, run.tally.num_versions, run.clock.now_ns
    run.run(until=lambda: run.num_brain_events >= facts)
    steps, seconds = max(1, run.tally.num_versions - versions), max(1, run.clock.now_ns - since_ns) / 1e9
    batch = max(1.0, (brain.samples - samples) / steps)
    used = sum(each.verdicts["accepted"] for each in run.tally.workers.values())
    staleness = sum(each.staleness_sum for each in run.tally.workers.values()) / max(1, used)
    return Rated(
        spec=spec,
        samples_per_s=(brain.samples - samples) / seconds,
        batch=batch,
        staleness=staleness,
        batch_worth=batch_worth(batch, config.batch_size, noise, scales=scales),
        staleness_worth=staleness_efficiency(staleness),
    )


def batch_worth(batch: float, base: int, noise: float | None, *, scales: bool) -> float:
    """Where steps cannot grow, or have grown as far as they may, more samples make them no longer."""
    furthest = 2 * CAP if scales else 1.0
    known = 1.0 if noise is None else efficiency(batch, base, noise)
    return min(known, furthest * base / batch, 1.0)


# --- in words -------------------------------------------------------------------------------------------------------------------------


def _why(chosen: Rated, ranking: Sequence[Rated], fleet: Fleet, measured: Mapping[str, Any], base: int, *, stays: bool) -> str:
    noise = measured["noise_scale"]
    noisy = "the noise scale is not known" if noise is None else f"the noise scale is {noise:,.0f} samples"
    rivals = [each for each in ranking if each is not chosen]
    others = ", ".join(f"{each.name} {each.progress_per_s:,.0f}" for each in rivals[:4])
    parts = [
        f"auto {'stays with' if stays else 'goes on with'} {chosen.name}: {_crew(measured)}.",
        f"On this crew it is simulated to train {chosen.samples_per_s:,.0f} samples/s, in steps of {chosen.batch:,.0f} samples that are "
        f"{chosen.staleness:.1f} steps old.",
        f"Against synchronous steps of {base} samples, and as {noisy}, that batch is worth {chosen.batch_worth:.2f} and that staleness "
        f"{chosen.staleness_worth:.2f}: {chosen.progress_per_s:,.0f} useful samples/s",
    ]
    parts[-1] += f" ({others})." if others else "."
    if stays and ranking[0] is not chosen:
        parts.append(f"A change promises less than {LEAST_GAIN:.0%} more.")
    return " ".join(parts)


def _crew(measured: Mapping[str, Any]) -> str:
    speeds = sorted((1 / numbers["sample_s"] for numbers in measured["workers"].values()), reverse=True)
    shown = ", ".join(f"{speed:,.0f}" for speed in speeds[:6]) + (", ..." if len(speeds) > 6 else "")
    exchange_ms = median(numbers["exchange_s"] for numbers in measured["workers"].values()) * 1e3
    return f"{len(measured['crew'])} workers, measured at {shown} samples/s with {exchange_ms:.1f} ms of exchange an order"

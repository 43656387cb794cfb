"""`mottle simulate`: how strategies fare on a fleet, on virtual time."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mottle.cli.answers import Answer, BadInputError, Code, Json, say

if TYPE_CHECKING:
    from mottle.simulate.compare import Task
    from mottle.simulate.fleet import Fleet
    from mottle.simulate.outcome import Outcome
    from mottle.simulate.simulation import Simulation

DEFAULT_SECONDS = 60.0
"""Of virtual time, where only timing is simulated and nobody says how long."""

MOST_SECONDS = 1e9
"""Thirty years."""

MOST_TRACED = 2000
"""Workers up to which a timeline is kept."""


def _names(incomplete: str) -> list[str]:
    """For tab completion."""
    from mottle.strategies import catalogue

    return [name for name in ("all", *catalogue()) if name.startswith(incomplete)]


def simulate(
    fleet: Annotated[Path, typer.Argument(metavar="FLEET.yaml", help="Machines, network and faults.")],
    job: Annotated[
        Path | None, typer.Option(metavar="JOB.yaml", help="Train this job for real, on virtual time; without it only time passes.")
    ] = None,
    names: Annotated[str, typer.Option("--strategies", metavar="all|A,B", help="Which to compare.", autocompletion=_names)] = "all",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="STRATEGY.OPTION=VALUE", help="An option of a strategy; again for more.")
    ] = None,
    target: Annotated[str | None, typer.Option(metavar="METRIC=VALUE", help="Stop when a metric of the job reaches it from below.")] = None,
    seconds: Annotated[float | None, typer.Option(metavar="S", help="Virtual seconds; 60 without a job, else as the job says.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", min=0, help="Of all chance in the fleet; the fleet's own without it.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write timelines, traces for Perfetto and the numbers there.")] = None,
    as_json: Json = False,
) -> Answer:
    """Compare strategies on a fleet: throughput, utilisation, staleness, bytes, time to a target, cost.

    The coordinator, shards and workers are those of a live run; machines, network and time are simulated. The same fleet and seed give the
    same numbers, bit for bit.

    Examples:

        mottle simulate fleet.yaml

        mottle simulate fleet.yaml --strategies sync,async --set sync.batch_size=128 --seconds 600 --out runs/sim

        mottle simulate fleet.yaml --job job.yaml --target accuracy=0.95 --json
    """
    from mottle.simulate.compare import by_speed, chosen, limited, timing_task
    from mottle.simulate.fleetfile import read_fleet
    from mottle.simulate.outcome import outcome_of

    if seconds is not None and not 0 < seconds <= MOST_SECONDS:
        raise BadInputError(f"--seconds is above 0 and at most {MOST_SECONDS:,.0f}, got {seconds:g}")
    machines = read_fleet(fleet)
    notes: list[str] = []
    own: dict[str, dict[str, Any]] = {}
    if job is None:
        if target is not None:
            raise BadInputError("a target needs numbers that are learnt; give the job that learns them with --job")
        task, goal = timing_task(machines, seconds=seconds or DEFAULT_SECONDS), None
    else:
        task, metrics, own, notes = _job_task(job, machines)
        goal = None if target is None else _goal(target, metrics)
        task = limited(task, seconds=seconds, target=goal)
    specs, left_out = chosen(names, _options(settings or [], own), task)
    outcomes = []
    for name, spec in specs.items():
        say(f"simulating {name} ...")
        run = task.run(machines, spec, seed=seed, trace=out is not None and machines.num_workers <= MOST_TRACED)
        outcomes.append(outcome_of(run, name, goal))
        if out is not None:
            _draw(run, outcomes[-1], out)
    ranked = by_speed(outcomes)
    notes += [f"left out: {name}: {reason}" for name, reason in left_out.items()]
    data = {
        "fleet": str(fleet),
        "seed": machines.seed if seed is None else seed,
        "notes": notes,
        "strategies": [asdict(each) for each in ranked],
    }
    if out is not None:
        _finish(out, ranked, data)
        notes.append(f"wrote {out}/")
    text = "\n".join([*_table(ranked, machines), *(f"note: {note}" for note in notes)])
    return Answer(data, text, Code.OK if outcomes else Code.FAILED)


# --- what is trained ------------------------------------------------------------------------------------------------------------------


def _job_task(file: Path, machines: "Fleet") -> "tuple[Task, tuple[str, ...], dict[str, dict[str, Any]], list[str]]":
    """The job as a task, the metrics that it measures, its own strategy's options, and what of it is not simulated."""
    import torch

    from mottle.core.naming import parse
    from mottle.sdk import jobfile
    from mottle.sdk.simulating import task_of

    torch.set_num_threads(1)  # models that one simulates are small; their threads would wait for one another
    job = jobfile.read(file).trainer().job
    task = task_of(job, machines)
    metrics = tuple(f"test_{name}" for name in ("loss", *job.metrics)) if job.test is not None else ()
    hostile = any(group.attack is not None for group in job.groups) and all(group.attack is None for group in machines.workers)
    name, options = parse(job.strategy, "strategy")
    notes = ["the job's liars are not in this fleet: give a group of the fleet file their attack"] if hostile else []
    return task, metrics, {name: dict(options)}, notes


def _goal(target: str, metrics: Sequence[str]) -> tuple[str, float]:
    name, equals, text = target.partition("=")
    try:
        wanted = float(text)
    except ValueError:
        wanted = float("nan")
    if not equals or wanted != wanted:
        raise BadInputError(f"a target is METRIC=VALUE such as accuracy=0.95, got {target!r}")
    found = next((known for known in (name, f"test_{name}") if known in metrics), None)
    if found is None:
        raise BadInputError(f"the job does not measure {name!r}; it measures {', '.join(metrics) or 'nothing without test_data'}")
    if found.endswith("loss"):
        raise BadInputError("a target is reached from below, and a loss falls; name a metric that grows, such as accuracy")
    return found, wanted


def _options(settings: Sequence[str], own: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """`async.max_in_flight=2` ... by strategy, over what the job's own strategy has."""
    import yaml

    options = {name: dict(given) for name, given in own.items()}
    for setting in settings:
        path, equals, text = setting.partition("=")
        name, dot, option = path.partition(".")
        if not (equals and dot and name and option):
            raise BadInputError(f"--set takes STRATEGY.OPTION=VALUE such as fedbuff.buffer_size=4, got {setting!r}")
        try:
            options.setdefault(name, {})[option] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise BadInputError(f"--set {setting}: {text!r} is no YAML value") from None
    return options


# --- files ----------------------------------------------------------------------------------------------------------------------------


def _draw(run: "Simulation", outcome: "Outcome", out: Path) -> None:
    import json

    from mottle.simulate.perfetto import trace
    from mottle.simulate.picture import timeline_figure

    if not run.tally.spans:
        return
    out.mkdir(parents=True, exist_ok=True)
    timeline_figure(run, outcome.strategy).write_html(str(out / f"{outcome.strategy}.timeline.html"), include_plotlyjs=True)
    (out / f"{outcome.strategy}.trace.json").write_text(json.dumps(trace(run, outcome.strategy)), encoding="utf-8")


def _finish(out: Path, outcomes: "Sequence[Outcome]", data: dict[str, Any]) -> None:
    import json

    from mottle.simulate.picture import curves_figure

    out.mkdir(parents=True, exist_ok=True)
    (out / "simulation.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    measured = {metric for outcome in outcomes for metric in outcome.metrics}
    for metric in sorted(measured):
        curves_figure(outcomes, metric).write_html(str(out / f"{metric}.html"), include_plotlyjs=True)


# --- text -----------------------------------------------------------------------------------------------------------------------------


def _table(outcomes: "Sequence[Outcome]", machines: "Fleet") -> Iterator[str]:
    from mottle.observe.wording import bytes_size, count, duration, percent, rate, versions

    paid = any(outcome.cost for outcome in outcomes)
    aimed = any(outcome.target for outcome in outcomes)
    heads = ["strategy", "samples/s", "utilisation", "staleness", "versions", "bytes", "virtual time"]
    heads += ["time to target"] * aimed + [f"cost {machines.currency}".strip()] * paid
    rows = []
    for each in outcomes:
        staleness = "-" if each.staleness is None else versions(each.staleness)
        row = [each.strategy, rate(each.samples_per_s), percent(each.utilisation), staleness, count(each.versions)]
        row += [bytes_size(each.bytes_up + each.bytes_down), duration(each.seconds)]
        if aimed:
            row.append(_reached(each))
        if paid:
            spent = each.cost if each.target is None or each.target.cost is None else each.target.cost
            row.append(f"{spent:,.4g}")
        rows.append(row)
    yield from _aligned([heads, *rows])
    for each in outcomes:
        yield ""
        yield f"{each.strategy}: {each.ended} at {duration(each.seconds)}"
        yield from _aligned([["  group", "workers", "samples", "utilisation", "staleness", "up", "down"], *_groups(each)])


def _reached(outcome: "Outcome") -> str:
    from mottle.observe.wording import duration, metric

    target = outcome.target
    if target is None:
        return "-"
    if target.seconds is not None:
        return duration(target.seconds)
    return "never measured" if target.best is None else f"never, best {metric(target.metric, target.best)}"


def _groups(outcome: "Outcome") -> Iterator[list[str]]:
    """Workers of a group in one line: there may be thousands; each is in the JSON."""
    from mottle.observe.wording import bytes_size, count, percent, versions

    for name in dict.fromkeys(worker.group for worker in outcome.workers):
        workers = [worker for worker in outcome.workers if worker.group == name]
        used = [(worker.staleness, worker.updates["accepted"] + worker.updates["unselected"]) for worker in workers]
        total = sum(num for _, num in used)
        staleness = versions(sum((mean or 0.0) * num for mean, num in used) / total) if total else "-"
        shares = [worker.utilisation for worker in workers]
        low, high = percent(min(shares)), percent(max(shares))
        yield [
            f"  {name}",
            count(len(workers)),
            count(sum(worker.samples for worker in workers)),
            low if low == high else f"{low} to {high}",
            staleness,
            bytes_size(sum(worker.bytes_up for worker in workers)),
            bytes_size(sum(worker.bytes_down for worker in workers)),
        ]


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        first, *others = row
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        yield "  ".join([first.ljust(widths[0]), *cells]).rstrip()

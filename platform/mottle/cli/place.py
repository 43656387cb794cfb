"""`mottle place`: which device runs which op of a model."""

from pathlib import Path
from typing import Annotated

import typer

from mottle.cli.answers import Answer, BadInputError, Json


def _algorithms(incomplete: str) -> list[tuple[str, str]]:
    """For tab completion."""
    from mottle.placement import catalogue

    return [(name, what) for name, what in catalogue().items() if name.startswith(incomplete)]


def _coarsenings(incomplete: str) -> list[str]:
    """For tab completion."""
    from mottle.placement import COARSENINGS

    return [name for name in COARSENINGS if name.startswith(incomplete)]


def place(
    problem: Annotated[Path, typer.Argument(metavar="PROBLEM.json", help="Graph and devices, as pg1.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the plan here, as pg1.")] = None,
    algorithm: Annotated[str, typer.Option(metavar="NAME", help="A placer by name.", autocompletion=_algorithms)] = "auto",
    coarsen: Annotated[str | None, typer.Option(metavar="NAME", help="For the list placers.", autocompletion=_coarsenings)] = None,
    budget_s: Annotated[float, typer.Option("--budget", metavar="SECONDS", min=0, help="For auto: how long it may think.")] = 1.0,
    activations: Annotated[str, typer.Option(metavar="NAME", help="auto, keep, recompute or offload where memory is short.")] = "auto",
    explain: Annotated[bool, typer.Option("--explain", help="Say why the plan is as it is.")] = False,
    bounds: Annotated[bool, typer.Option("--bounds", help="Say how fast any plan can be.")] = False,
    picture: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the plan, as HTML.")] = None,
    trace: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a trace for Perfetto.")] = None,
    as_json: Json = False,
) -> Answer:
    """Place a model's operator graph on unequal devices.

    Examples:

        mottle place graph.json --out plan.json --explain

        mottle place graph.json --algorithm m-sct --coarsen guarded --json
    """
    from mottle.core.naming import suggestion
    from mottle.placement import COARSENINGS, explain_reductions, place_file

    rule = next((known for known in COARSENINGS if known == coarsen), None)
    if coarsen is not None and rule is None:
        raise BadInputError(f"unknown coarsening {coarsen!r}; {suggestion(coarsen, COARSENINGS)}")
    report = place_file(
        problem,
        out=out,
        algorithm=algorithm,
        coarsen=rule,
        budget_s=budget_s,
        activations=activations,  # type: ignore[arg-type]  # checked there
        with_explanation=explain,
        with_bounds=bounds,
        picture=picture,
        trace=trace,
    )
    plan = report.plan
    step_ns = plan.makespan * plan.problem.tick_ns
    files = [str(path) for path in (out, picture, trace) if path is not None]
    data = {
        "algorithm": plan.algorithm,
        "step_ns": step_ns,
        "devices_used": list(plan.devices_used),
        "peak_bytes": plan.simulation.peaks,
        "assignment": dict(plan.assignment),
        "reductions": [
            {"means": each.means, "segment": each.segment, "ops": list(each.ops), "ticks": each.ticks, "bytes": each.bytes}
            for each in plan.reductions
        ],
        "notes": list(plan.notes),
        "explanation": report.explanation,
        "bounds": report.bounds,
        "files": files,
    }
    used = f"{len(plan.devices_used)} of {len(plan.problem.devices)} devices"
    lines = [f"{plan.algorithm}: a step of {step_ns / 1e6:,.3f} ms on {used}", *explain_reductions(plan)]
    lines += [f"note: {note}" for note in plan.notes]
    lines += [text for text in (report.explanation, report.bounds) if text] + [f"wrote {file}" for file in files]
    return Answer(data, "\n".join(lines))

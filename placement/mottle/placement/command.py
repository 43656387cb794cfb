"""What `mottle place` does, as a function: read a problem, place it, write what was asked for. Prints nothing."""

from dataclasses import dataclass
from pathlib import Path

from mottle.placement.coarsen import Coarsening
from mottle.placement.entry import place
from mottle.placement.lower_bounds import bounds
from mottle.placement.perfetto import save_trace
from mottle.placement.pg1 import load_problem
from mottle.placement.picture import save_picture
from mottle.placement.plans import Plan, save_plan
from mottle.placement.reductions import Activations
from mottle.placement.report import explain, explain_bounds


@dataclass(frozen=True)
class PlaceReport:
    """The plan, and the texts that were asked for (empty otherwise)."""

    plan: Plan
    explanation: str
    bounds: str


def place_file(
    problem: str | Path,
    *,
    out: str | Path | None = None,
    algorithm: str = "auto",
    coarsen: Coarsening | None = None,
    budget_s: float | None = 1.0,
    activations: Activations = "auto",
    with_explanation: bool = False,
    with_bounds: bool = False,
    picture: str | Path | None = None,
    trace: str | Path | None = None,
) -> PlaceReport:
    """Place the problem of a pg1 file.

    Args:
        out: where the plan goes, as pg1 with `assignment` and `priority`.
        picture: where the Gantt chart goes, as HTML.
        trace: where the trace for Perfetto goes, as JSON.
    Raises:
        ProblemError, InfeasibleError, ConfigError: with messages meant for the user.
        OSError: a file cannot be read or written.
    """
    loaded = load_problem(problem)
    plan = place(loaded, algorithm, coarsen=coarsen, budget_s=budget_s, activations=activations)
    limits = bounds(loaded) if with_bounds or with_explanation else None
    if out is not None:
        save_plan(plan, out)
    if picture is not None:
        save_picture(plan, picture)
    if trace is not None:
        save_trace(plan, trace)
    return PlaceReport(
        plan,
        explain(plan, limits) if with_explanation else "",
        explain_bounds(limits) if with_bounds and limits is not None else "",
    )

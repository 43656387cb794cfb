"""A plan in words: what each device does, what was compared, how far from the bounds."""

from mottle.placement.lower_bounds import Bounds
from mottle.placement.plans import Plan
from mottle.placement.reductions import DONE, MEANS, Reduction


def explain(plan: Plan, bounds: Bounds | None = None) -> str:
    """A few tables as plain text. Times are in ticks.

    Args:
        bounds: of the same problem; adds the distance to the lower bound.
    """
    parts = [_headline(plan, bounds), _device_table(plan)]
    if plan.reductions:
        rows = [["to save memory", "what", "ops", "device", "bytes saved", "ticks more"]]
        rows += [[r.segment, DONE[r.means], str(len(r.ops)), _where(plan, r), str(r.bytes), str(r.ticks)] for r in plan.reductions]
        parts += [_table(rows), "\n".join(explain_reductions(plan))]
    if plan.candidates:
        rows = [["candidate", "makespan", "devices", "judged on"]]
        rows += [[c.name, "no room" if c.makespan is None else str(c.makespan), str(c.devices), c.judged_on] for c in plan.candidates]
        parts.append(_table(rows))
    if plan.notes:
        parts.append("\n".join(f"note: {note}" for note in plan.notes))
    return "\n\n".join(parts)


def explain_reductions(plan: Plan) -> list[str]:
    """What is recomputed or offloaded, with what it saves and costs; a line each, none where all is kept."""
    lines = []
    for means in MEANS:
        mine = [each for each in plan.reductions if each.means == means]
        if mine:
            ticks, size = sum(each.ticks for each in mine), sum(each.bytes for each in mine)
            names = ", ".join(each.segment for each in mine[:4]) + (f" and {len(mine) - 4} more" if len(mine) > 4 else "")
            lines.append(
                f"{DONE[means]} to save memory: {names}; {size} bytes do not wait on their devices, which work {ticks} ticks "
                f"({ticks * plan.problem.tick_ns / 1e6:.4g} ms) more for it"
            )
    return lines


def _where(plan: Plan, reduction: Reduction) -> str:
    return ", ".join(dict.fromkeys(plan.assignment[name] for name in reduction.ops))


def explain_bounds(bounds: Bounds) -> str:
    """The bounds as plain text."""
    rows = [
        ["bound", "ticks"],
        ["critical path", str(bounds.critical_path)],
        ["work", str(bounds.work)],
        ["SCT relaxation", str(bounds.sct) if bounds.sct is not None else f"none: {bounds.sct_reason}"],
        ["largest", str(bounds.makespan)],
        ["least devices", str(bounds.least_devices)],
    ]
    return "\n".join([_table(rows), *(f"memory: {fault}" for fault in bounds.memory_faults)])


def _headline(plan: Plan, bounds: Bounds | None) -> str:
    ticks = plan.makespan
    text = f"step time {ticks} ticks ({ticks * plan.problem.tick_ns / 1e6:.6g} ms) on {len(plan.devices_used)} devices, by {plan.algorithm}"
    if bounds is not None:
        text += f"; lower bound {bounds.makespan} ticks, at most {ticks / bounds.makespan:.3f} times the optimum"
    return text


def _device_table(plan: Plan) -> str:
    graph, trace = plan.problem.graph, plan.simulation.trace
    received = trace.transfers.dst.tolist()
    rows = [["device", "ops", "busy", "share of step", "copies in", f"peak ({graph.mem_mode})", "budget"]]
    for d, name in enumerate(graph.devices):
        mine = trace.device == d
        busy = int((trace.end - trace.start)[mine].sum())
        share = f"{busy / plan.makespan:.0%}"
        rows.append([name, str(int(mine.sum())), str(busy), share, str(received.count(d)), str(trace.peaks[d]), str(graph.mem[d])])
    return _table(rows)


def _table(rows: list[list[str]]) -> str:
    """Columns aligned: the first to the left, the rest to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if x == 0 else cell.rjust(width) for x, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )

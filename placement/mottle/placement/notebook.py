"""A plan as HTML for a notebook: a Gantt chart as inline SVG, its devices, and what it is held against. Needs nothing but a browser."""

from html import escape

from mottle.placement.entry import place
from mottle.placement.errors import InfeasibleError
from mottle.placement.lower_bounds import bounds
from mottle.placement.plans import COLOURS, TRANSFER_COLOUR, Plan
from mottle.placement.reductions import DONE, MEANS

_WIDTH, _ROW, _AXIS = 860, 34, 22
_LETTER, _LONGEST = 6.2, 34
"""Pixels of a letter of a device's name, about, and letters from which on its middle is left out."""
MOST_BARS = 2_000
"""Above so many ops, ops of a device that follow each other without a gap are drawn as one bar."""


def plan_html(plan: Plan) -> str:
    """Chart, devices, comparison."""
    style = "font:13px/1.5 system-ui,sans-serif;color:#222;background:#fff;padding:8px;max-width:1000px"
    used = f"{len(plan.devices_used)} of {len(plan.problem.devices)} devices"
    parts = [
        f"<b>{_ms(plan, plan.makespan)}</b> a step on {used}, by {escape(plan.algorithm)}",
        gantt_svg(plan),
        _device_table(plan),
        *([_reduction_table(plan)] if plan.reductions else []),
        _comparison(plan),
    ]
    if plan.notes:
        notes = "".join(f"<li>{escape(note)}</li>" for note in plan.notes)
        parts.append(f'<details style="margin-top:8px"><summary>how it was found</summary><ul style="margin:0">{notes}</ul></details>')
    return f'<div style="{style}">{"".join(parts)}</div>'


def gantt_svg(plan: Plan) -> str:
    """One row a device: ops as blocks, received copies as a thin line of grey below them."""
    graph, span = plan.problem.graph, max(1, plan.makespan)
    labels = [_shortened(name) for name in graph.devices]
    left = 12 + round(_LETTER * max(map(len, labels)))
    scale = (_WIDTH - left - 10) / span
    height = graph.num_devices * _ROW + _AXIS
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="Gantt chart of the plan" '
        f'style="display:block;width:100%;max-width:{_WIDTH}px;font:11px system-ui,sans-serif">'
    ]
    for d, label in enumerate(labels):
        y = d * _ROW
        parts.append(f'<rect x="{left}" y="{y + 4}" width="{span * scale:.1f}" height="{_ROW - 8}" fill="#f3f3f3"/>')
        parts.append(f'<text x="{left - 6}" y="{y + _ROW / 2 + 4}" text-anchor="end">{escape(label)}</text>')
        for start, end, title in _bars(plan, d):
            x, width = left + start * scale, max(0.4, (end - start) * scale)
            parts.append(
                f'<rect x="{x:.2f}" y="{y + 5}" width="{width:.2f}" height="{_ROW - 14}" fill="{COLOURS[d % len(COLOURS)]}" '
                f'stroke="#fff" stroke-width="{0.3 if width > 2 else 0}"><title>{escape(title)}: {_ms(plan, end - start)}</title></rect>'
            )
    rank = {name: d for d, name in enumerate(graph.devices)}
    for copy in plan.simulation.transfers:
        x, width = left + copy.start * scale, max(0.4, (copy.end - copy.start) * scale)
        title = f"{copy.tensor} from {copy.src}: {_ms(plan, copy.end - copy.start)}"
        parts.append(
            f'<rect x="{x:.2f}" y="{rank[copy.dst] * _ROW + _ROW - 8}" width="{width:.2f}" height="3" fill="{TRANSFER_COLOUR}">'
            f"<title>{escape(title)}</title></rect>"
        )
    base = graph.num_devices * _ROW + 14
    for share in (0, 0.5, 1):
        anchor = ("start", "middle", "end")[round(2 * share)]
        x = left + share * span * scale
        parts.append(f'<text x="{x:.1f}" y="{base}" text-anchor="{anchor}" fill="#666">{_ms(plan, round(share * span))}</text>')
    return "".join([*parts, "</svg>"])


def _shortened(name: str) -> str:
    """Names of devices on a cluster differ at both ends: host, and device on it."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST // 2]}…{name[1 - _LONGEST // 2 :]}"


def _bars(plan: Plan, d: int) -> list[tuple[int, int, str]]:
    """(start, end, what) in time order."""
    trace = plan.simulation.trace
    mine = [i for i, device in enumerate(trace.device.tolist()) if device == d]
    names = trace.graph.names
    bars = sorted((int(trace.start[i]), int(trace.end[i]), names[i]) for i in mine)
    if trace.graph.n <= MOST_BARS:
        return bars
    merged: list[tuple[int, int, list[str]]] = []
    for start, end, name in bars:
        if merged and merged[-1][1] == start:
            merged[-1] = (merged[-1][0], end, [*merged[-1][2][:1], name])
        else:
            merged.append((start, end, [name]))
    return [(start, end, " to ".join(ends)) for start, end, ends in merged]


def _device_table(plan: Plan) -> str:
    graph, trace = plan.problem.graph, plan.simulation.trace
    rows = [["device", "class", "ops", "busy", "memory", "of"]]
    for d, device in enumerate(plan.problem.devices):
        mine = trace.device == d
        busy = int((trace.end - trace.start)[mine].sum())
        share = f"{busy / max(1, plan.makespan):.0%}"
        rows.append([graph.devices[d], device.kind, str(int(mine.sum())), share, _bytes(trace.peaks[d]), _bytes(graph.mem[d])])
    return _table(rows, texts=2)


def _reduction_table(plan: Plan) -> str:
    """What is recomputed or offloaded, one row a device and means."""
    rows = [["to save memory", "on", "segments", "saved", "more work"]]
    for means in MEANS:
        for device in plan.devices_used:
            mine = [each for each in plan.reductions if each.means == means and plan.assignment[each.ops[0]] == device]
            if mine:
                saved, ticks = sum(each.bytes for each in mine), sum(each.ticks for each in mine)
                rows.append([DONE[means], device, str(len(mine)), _bytes(saved), _ms(plan, ticks)])
    return _table(rows, texts=2)


def _comparison(plan: Plan) -> str:
    """The same step on the best single device, cut by hand into equal shares, and as fast as no plan can be."""
    rows = [["against", "step", "this plan"]]
    for name, what in (("single", "best single device"), ("layer-split", "split by layers into equal shares")):
        try:
            ticks = place(plan.given, name).makespan
        except InfeasibleError:
            rows.append([what, "does not fit", ""])
        else:
            rows.append([what, _ms(plan, ticks), f"{ticks / plan.makespan:.2f} times as fast"])
    bound = bounds(plan.given).makespan
    rows.append(["lower bound", _ms(plan, bound), f"at most {plan.makespan / bound:.2f} times the optimum"])
    return _table(rows, texts=1)


def _table(rows: list[list[str]], *, texts: int) -> str:
    """Args: texts: columns of words, on the left; the others are figures."""

    def line(cells: list[str], tag: str) -> str:
        style = "padding:1px 16px 1px 0;text-align:{};border:0;background:none;color:inherit"
        sides = ("left" if x < texts else "right" for x in range(len(cells)))
        return "".join(f'<{tag} style="{style.format(side)}">{escape(cell)}</{tag}>' for side, cell in zip(sides, cells, strict=True))

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows[1:])
    return f'<table style="font:inherit;border-collapse:collapse;margin-top:8px"><tr>{line(rows[0], "th")}</tr>{body}</table>'


def _ms(plan: Plan, ticks: int) -> str:
    return f"{ticks * plan.problem.tick_ns / 1e6:,.4g} ms"


def _bytes(size: int) -> str:
    amount, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if amount < 999.5:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:,.0f} {unit}" if amount >= 100 else f"{amount:.3g} {unit}"

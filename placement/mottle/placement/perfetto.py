"""A plan as a trace for Perfetto (ui.perfetto.dev) or chrome://tracing: the Trace Event JSON format.

Devices are threads with their ops as slices; transfers are asynchronous slices, because they may overlap; memory is a counter a device.
"""

import json
from pathlib import Path
from typing import Any

from mottle.placement.memory import dynamic_timelines
from mottle.placement.plans import Plan

_PROCESS = 1


def trace_events(plan: Plan) -> list[dict[str, Any]]:
    """The events of one simulated step; timestamps in microseconds."""
    us = plan.problem.tick_ns / 1000
    graph, trace = plan.problem.graph, plan.simulation.trace
    events: list[dict[str, Any]] = [{"ph": "M", "pid": _PROCESS, "name": "process_name", "args": {"name": f"step by {plan.algorithm}"}}]
    for d, name in enumerate(graph.devices):
        events.append({"ph": "M", "pid": _PROCESS, "tid": d, "name": "thread_name", "args": {"name": name}})
        events.append({"ph": "M", "pid": _PROCESS, "tid": d, "name": "thread_sort_index", "args": {"sort_index": d}})
    for i, (d, start, end) in enumerate(zip(trace.device.tolist(), trace.start.tolist(), trace.end.tolist(), strict=True)):
        args = {
            "perm": int(graph.perm[i]),
            "out": int(graph.out[i]),
            "temp": int(graph.temp[i]),
            "group": graph.group_names[graph.group_of[i]],
        }
        slice_ = {"ph": "X", "pid": _PROCESS, "tid": d, "name": graph.names[i], "cat": "op"}
        events.append({**slice_, "ts": start * us, "dur": (end - start) * us, "args": args})
    for number, copy in enumerate(plan.simulation.transfers):
        common = {"pid": _PROCESS, "cat": f"{copy.src} to {copy.dst}", "name": f"{copy.tensor} to {copy.dst}", "id": number}
        events.append({"ph": "b", "ts": copy.start * us, **common, "args": {"producer": copy.producer}})
        events.append({"ph": "e", "ts": copy.end * us, **common})
    timelines = dynamic_timelines(graph, trace.device, trace.start, trace.end, trace.transfers)
    for name, line in zip(graph.devices, timelines, strict=True):
        for tick, level in zip(line.time.tolist(), line.level.tolist(), strict=True):
            events.append({"ph": "C", "pid": _PROCESS, "name": f"memory of {name}", "ts": tick * us, "args": {"bytes": level}})
    return events


def save_trace(plan: Plan, path: str | Path) -> None:
    """Write the trace as JSON."""
    Path(path).write_text(json.dumps({"traceEvents": trace_events(plan), "displayTimeUnit": "ms"}), encoding="utf-8")

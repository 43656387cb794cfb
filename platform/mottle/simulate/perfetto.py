"""A simulated run as a trace for Perfetto (ui.perfetto.dev) or chrome://tracing: the Trace Event JSON format.

Workers are threads with what they do as slices and the verdicts on their updates as instants; metrics are counters.
"""

from typing import Any

from mottle.simulate.simulation import Simulation

_PROCESS = 1


def trace(run: Simulation, title: str) -> dict[str, Any]:
    """The file's content; timestamps in microseconds of virtual time. `run` kept its spans (`trace=True`)."""
    tally = run.tally
    events: list[dict[str, Any]] = [{"ph": "M", "pid": _PROCESS, "name": "process_name", "args": {"name": title}}]
    for slot, worker in tally.workers.items():
        events.append({"ph": "M", "pid": _PROCESS, "tid": slot, "name": "thread_name", "args": {"name": worker.name}})
        events.append({"ph": "M", "pid": _PROCESS, "tid": slot, "name": "thread_sort_index", "args": {"sort_index": slot}})
    for slot, doing, start_ns, stop_ns, work_id in tally.spans:
        common = {"ph": "X", "pid": _PROCESS, "tid": slot, "name": doing, "cat": doing, "args": {"order": work_id}}
        events.append({**common, "ts": start_ns / 1000, "dur": (stop_ns - start_ns) / 1000})
    for slot, now_ns, verdict, reason, staleness, work_id, samples in tally.judged:
        common = {"ph": "i", "s": "t", "pid": _PROCESS, "tid": slot, "name": verdict, "cat": "verdict", "ts": now_ns / 1000}
        events.append({**common, "args": {"order": work_id, "reason": reason, "staleness": staleness, "samples": samples}})
    for now_ns, kind, text in tally.marks:
        events.append({"ph": "i", "s": "p", "pid": _PROCESS, "name": kind, "ts": now_ns / 1000, "args": {"text": text}})
    for point in tally.points:
        for name, value in point.metrics.items():
            events.append({"ph": "C", "pid": _PROCESS, "name": name, "ts": point.now_ns / 1000, "args": {"value": value}})
    return {"traceEvents": events, "displayTimeUnit": "ms"}

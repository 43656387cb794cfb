"""`mottle status`: how a run stands, from what its folder holds."""

import json
import math
import time
from typing import Annotated, Any

import typer

from mottle.cli.answers import Answer, Json


def status(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="The run's folder, or a URI.")],
    as_json: Json = False,
) -> Answer:
    """Say how a run stands: how it ended, or how far it had come when it last wrote, and whether it gives signs of life.

    It asks the folder and nobody else, so it works for a run on another machine, and for one that was killed. The state is `ended`,
    `failed`, `live` (a fresh heartbeat), `silent` (a stale one: killed or cut off) or `unknown` (none).

    Examples:

        mottle status runs/digits

        mottle status runs/digits --json
    """
    from mottle.observe import read_run
    from mottle.observe.heartbeat import HEARTBEAT_FILE
    from mottle.storage import Folder

    where = Folder.at(folder)
    try:
        run = read_run(where)
    except FileNotFoundError:
        if not where.has(HEARTBEAT_FILE):
            raise
        state, silent_s, words = _standing(where)
        data = {"state": state, "folder": folder, "silent_s": silent_s, "samples": 0}
        return Answer(data, f"{where.name}: {words}; nothing is trained yet")
    return _ended(folder, run) if run.result is not None else _unfinished(folder, run)


def _ended(folder: str, run: Any) -> Answer:
    from mottle.observe import result_to_json
    from mottle.observe.wording import count, duration, label, metric, ordered_metrics

    result = run.result
    end = "failed" if result.failed else "ended"
    lines = [f"{result.run}: {end} ({result.stopped}) after {duration(result.wall_s)}"]
    lines += [f"  {label(name):<16} {metric(name, value)}" for name, value in ordered_metrics(result.metrics)]
    lines += [f"  {'samples':<16} {count(result.samples)} in {count(result.versions)} versions, strategy {result.strategy}"]
    lines += [_updates_line({name: getattr(result.updates, name) for name in ("accepted", "unselected", "rejected", "discarded", "lost")})]
    for worker in result.workers:
        stay = f"from {duration(worker.joined_s)} to " + ("the end" if worker.left_s is None else duration(worker.left_s))
        why = f", {worker.left_reason}" if worker.left_reason else ""
        if worker.quarantines:
            why += f", {worker.quarantines} times in quarantine" + (f": {worker.quarantined_for}" if worker.quarantined_for else "")
        lines.append(f"  worker {worker.id:<9} {worker.device}, {count(worker.samples)} samples, {stay}{why}")
    lines += [f"  wrong: {problem}" for problem in result.problems()]
    data = {"state": end, "folder": folder, "problems": result.problems(), "result": json.loads(result_to_json(result))}
    return Answer(data, _printable(lines))


def _unfinished(folder: str, run: Any) -> Answer:
    from mottle.checkpoint.manifest import numbers
    from mottle.observe.wording import count, duration, label, metric, ordered_metrics
    from mottle.storage import Folder

    where = Folder.at(folder)
    spent = run.timeline[run.timeline["verdict"] != "discarded"]
    updates = {str(verdict): int(number) for verdict, number in run.timeline["verdict"].value_counts().items()}
    latest = run.metrics.groupby("name", sort=True).last()
    metrics = {str(name): float(value) if math.isfinite(value) else None for name, value in latest["value"].items()}
    state, silent_s, words = _standing(where)
    data = {
        "state": state,
        "folder": folder,
        "recorded_s": run.wall_s,
        "silent_s": silent_s,
        "samples": int(spent["samples"].sum()),
        "updates": updates,
        "metrics": metrics,
        "checkpoints": numbers(where),
        "kept_from_work": _kept_from_work(run),
    }
    lines = [
        f"{run.name}: {words}; its record reaches {duration(run.wall_s)} into the run",
        *(f"  {label(name):<16} {metric(name, value)}" for name, value in ordered_metrics(metrics)),
        f"  {'samples':<16} {count(data['samples'])}, judged so far",
        _updates_line(updates),
        f"  {'checkpoints':<16} {', '.join(map(str, data['checkpoints'])) or 'none'}",
        *(f"  {'kept from work':<16} {text}" for text in data["kept_from_work"]),
    ]
    return Answer(data, _printable(lines))


def _kept_from_work(run: Any) -> list[str]:
    """What was said last of each worker that is in quarantine or on probation."""
    last = {notice.worker: notice for notice in run.notices if notice.kind in ("quarantined", "probation", "readmitted", "left", "killed")}
    return [notice.text for notice in last.values() if notice.kind in ("quarantined", "probation")]


def _updates_line(updates: dict[str, int]) -> str:
    return f"  {'updates':<16} " + ", ".join(f"{number:,d} {verdict}" for verdict, number in updates.items())


def _printable(lines: list[str]) -> str:
    """Names and reasons may come from hosts that nobody trusts."""
    from mottle.observe.wording import clean

    return "\n".join(clean(line) for line in lines)


def _standing(where: Any) -> tuple[str, float | None, str]:
    """State, seconds since the last sign of life, and both in words; nothing is claimed that the folder does not show."""
    from mottle.observe.heartbeat import read_heartbeat
    from mottle.observe.wording import duration

    beat, now_s = read_heartbeat(where), time.time()
    if beat is None:
        return "unknown", None, "not ended, and without a heartbeat: killed, or written by another program"
    silent_s = beat.silent_s(now_s)
    if beat.fresh(now_s):
        return "live", silent_s, f"live, its last sign of life {duration(silent_s)} ago from {beat.host}"
    words = f"killed, or cut off from its folder: no sign of life for {duration(silent_s)}, the last one from {beat.host}"
    return "silent", silent_s, words

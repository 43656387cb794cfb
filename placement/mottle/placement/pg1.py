"""The problem file "pg1" (specification 1.7): a JSON object with ops, edges, devices, links, and optionally a placement.

Reading is lenient about what it can decide (integral floats count as integers, `perm` and `temp` default to 0, `Bps: null` is an
infinite bandwidth, unknown keys are ignored) and strict about everything else; a key that looks like a slip of a known one is an
error, because ignoring `"tmep"` would place the op with too little memory.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mottle.placement.errors import ProblemError
from mottle.placement.problem import Device, Edge, Link, Op, Problem, Segment
from mottle.placement.reductions import MEANS, Reduction
from mottle.placement.skeleton import integer_fault

_TOP_KEYS = frozenset(
    {"ops", "edges", "devices", "links", "tick_ns", "comm_mode", "mem_mode", "segments", "assignment", "priority", "reductions"}
)
_OP_KEYS = frozenset({"id", "time", "perm", "temp", "out", "keep", "group", "pin"})
_EDGE_KEYS = frozenset({"src", "dst", "bytes", "comm", "tensor"})
_DEVICE_KEYS = frozenset({"id", "class", "mem", "speed_pm"})
_LINK_KEYS = frozenset({"src", "dst", "lat", "Bps"})
_HOST_KEYS = frozenset({"class", "lat", "Bps"})
_REDUCTION_KEYS = frozenset({"means", "segment", "ops", "ticks", "bytes"})
_SEGMENT_KEYS = frozenset({"id", "ops"})

Priority = Sequence[str] | Mapping[str, float]


class ProblemFile(NamedTuple):
    """What a pg1 file holds."""

    problem: Problem
    assignment: dict[str, str] | None
    """op -> device, when the file carries a result."""
    priority: Priority | None
    reductions: tuple[Reduction, ...] = ()
    """What of the problem is there because activations are recomputed or offloaded."""


def load_problem(path: str | Path) -> Problem:
    """Read the problem of a pg1 file; see `load_file` for its placement.

    Raises:
        ProblemError: the file is no JSON object or the problem in it is malformed; every mistake is listed.
        OSError: the file cannot be read.
    """
    return load_file(path).problem


def load_file(path: str | Path) -> ProblemFile:
    """Read a pg1 file with the placement in it, if any."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=_unique_keys)
    except ProblemError as error:
        raise ProblemError([f"{path}: {line}" for line in error.problems]) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ProblemError([f"{path} is no JSON text: {error}"]) from error
    return parse_file(data)


def parse_file(data: Any) -> ProblemFile:
    """The pg1 object of a decoded JSON value."""
    reader = _Reader()
    problem = reader.problem(data)
    reductions = reader.reductions(data, problem)
    assignment, priority = data.get("assignment"), data.get("priority")
    faults = [] if assignment is None else placement_faults(problem, assignment, priority)
    if faults:
        raise ProblemError(faults)
    return ProblemFile(problem, assignment, priority, reductions)


def dump_problem(problem: Problem) -> dict[str, Any]:
    """The JSON object of a problem; `parse_file` of it gives an equal problem."""
    pairs = [{"src": src, "dst": dst, **_dump_link(link)} for (src, dst), link in sorted(problem.links.items())]
    hosts = [{"class": kind, **_dump_link(link)} for kind, link in sorted(problem.host_links.items())]
    segments = [{"id": segment.id, "ops": [list(pair) for pair in segment.passes]} for segment in problem.segments]
    return {
        "ops": [_dump_op(op) for op in problem.ops],
        "edges": [{key: value for key, value in edge._asdict().items() if value is not None} for edge in problem.edges],
        "devices": [{"id": d.id, "class": d.kind, "mem": d.mem, "speed_pm": d.speed_pm} for d in problem.devices],
        "links": {"default": _dump_link(problem.default_link), "pairs": pairs} | ({"hosts": hosts} if hosts else {}),
        "tick_ns": problem.tick_ns,
        "comm_mode": problem.comm_mode,
        "mem_mode": problem.mem_mode,
    } | ({"segments": segments} if segments else {})


def dump_reduction(reduction: Reduction) -> dict[str, Any]:
    """The JSON object of one entry of `reductions`."""
    return {
        "means": reduction.means,
        "segment": reduction.segment,
        "ops": [list(pair) for pair in reduction.passes],
        "ticks": reduction.ticks,
        "bytes": reduction.bytes,
    }


def save_problem(problem: Problem, path: str | Path) -> None:
    """Write a problem as pg1."""
    write_json(dump_problem(problem), path)


def write_json(data: Mapping[str, Any], path: str | Path) -> None:
    """One line per op, edge and device, so that two files can be compared line by line."""
    parts = []
    for key, value in data.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            body = ",\n".join("  " + json.dumps(item, ensure_ascii=False) for item in value)
            parts.append(f"{json.dumps(key)}: [\n{body}\n]")
        else:
            parts.append(f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
    Path(path).write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def placement_faults(problem: Problem, assignment: Any, priority: Any = None) -> list[str]:
    """Complaints about an assignment {op: device} and a priority ([op ids in order] or {op: number}) of a problem."""
    if not isinstance(assignment, Mapping):
        return [f"assignment must map op ids to device ids; got {type(assignment).__name__}"]
    devices = {d.id for d in problem.devices}
    ids = problem.skeleton.position
    faults = [f"assignment names the unknown op {name!r}" for name in assignment if name not in ids]
    faults += [f"assignment puts no device under op {name!r}" for name in ids if name not in assignment]
    faults += [f"assignment puts op {op!r} on the unknown device {d!r}" for op, d in assignment.items() if d not in devices]
    if priority is None:
        return faults
    if isinstance(priority, Mapping):
        faults += [f"priority of op {op!r} must be a finite number; got {p!r}" for op, p in priority.items() if not _is_number(p)]
    elif not isinstance(priority, Sequence) or isinstance(priority, str):
        return [*faults, f"priority must be a list of op ids or a map from op ids to numbers; got {type(priority).__name__}"]
    elif len(set(priority)) < len(priority):
        faults.append("priority lists an op twice: give each op one place in the order")
    faults += [f"priority names the unknown op {name!r}" for name in priority if name not in ids]
    listed = set(priority)
    return faults + [f"priority does not mention op {name!r}" for name in ids if name not in listed]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value - value == 0


def _dump_op(op: Op) -> dict[str, Any]:
    record = op._asdict()
    record["time"] = dict(op.time) if isinstance(op.time, Mapping) else op.time
    record["pin"] = None if op.pin is None else list(op.pin)
    record["keep"] = op.keep or None
    return {key: value for key, value in record.items() if value is not None}


def _dump_link(link: Link) -> dict[str, Any]:
    return {"lat": link.lat, "Bps": link.bytes_per_s}


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object that names a key twice (two priorities of one op, say) has no single meaning."""
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [key for key, _ in pairs]
        raise ProblemError([f"key {key!r} appears twice in one object" for key in record if names.count(key) > 1])
    return record


class _Reader:
    """Turns JSON values into objects and remembers every value of the wrong shape; values are judged by `Problem`."""

    def __init__(self) -> None:
        self.faults: list[str] = []

    def problem(self, data: Any) -> Problem:
        if not isinstance(data, dict):
            raise ProblemError([f"a pg1 file holds a JSON object; got {type(data).__name__}"])
        self._slips(data, _TOP_KEYS, "the file")
        self.faults += [f"the file lacks {key!r}" for key in ("ops", "devices") if key not in data]
        ops = tuple(self._op(i, record) for i, record in self._records(data, "ops"))
        edges = tuple(self._edge(i, record) for i, record in self._records(data, "edges"))
        devices = tuple(self._device(i, record) for i, record in self._records(data, "devices"))
        default, links, hosts = self._links(data.get("links", {}))
        segments = tuple(self._segment(i, record) for i, record in self._records(data, "segments"))
        if self.faults:
            raise ProblemError(self.faults)
        return Problem(
            ops=ops,
            edges=edges,
            devices=devices,
            default_link=default,
            links=links,
            tick_ns=_integral(data.get("tick_ns", 1)),
            comm_mode=data.get("comm_mode", "parallel"),
            mem_mode=data.get("mem_mode", "static"),
            segments=segments,
            host_links=hosts,
        )

    def _records(self, data: Mapping[str, Any], key: str) -> list[tuple[int, dict[str, Any]]]:
        value = data.get(key, [])
        if not isinstance(value, list):
            self.faults.append(f"{key!r} must be a list of objects; got {type(value).__name__}")
            return []
        wrong = [i for i, record in enumerate(value) if not isinstance(record, dict)]
        self.faults += [f"{key}[{i}] must be an object; got {type(value[i]).__name__}" for i in wrong]
        return [(i, record) for i, record in enumerate(value) if isinstance(record, dict)]

    def _op(self, i: int, record: dict[str, Any]) -> Op:
        self._slips(record, _OP_KEYS, f"ops[{i}]")
        time, pin, group, out = record.get("time"), record.get("pin"), record.get("group"), record.get("out")
        name = self._text(record, "id", f"ops[{i}]")
        if time is None:
            self.faults.append(f"op {name!r} lacks 'time': ticks, or a map from device class to ticks")
        if isinstance(time, dict):
            time = {kind: _integral(ticks) for kind, ticks in time.items()}
        if pin is not None and not (isinstance(pin, list) and all(isinstance(d, str) for d in pin)):
            self.faults.append(f"op {name!r}: pin must be a list of device ids; got {pin!r}")
        if group is not None and not isinstance(group, str):
            self.faults.append(f"op {name!r}: group must be a string; got {group!r}")
        keep = record.get("keep", False)
        if not isinstance(keep, bool):
            self.faults.append(f"op {name!r}: keep must be true or false; got {keep!r}")
        perm, temp = _integral(record.get("perm", 0)), _integral(record.get("temp", 0))
        return Op(name, _integral(time), perm, temp, _integral(out), keep, group, tuple(pin) if isinstance(pin, list) else None)

    def _edge(self, i: int, record: dict[str, Any]) -> Edge:
        where = f"edges[{i}]"
        self._slips(record, _EDGE_KEYS, where)
        tensor = record.get("tensor")
        if tensor is not None and not isinstance(tensor, str):
            self.faults.append(f"{where}: tensor must be a string; got {tensor!r}")
        src, dst = self._text(record, "src", where), self._text(record, "dst", where)
        return Edge(src, dst, _integral(record.get("bytes", 0)), _integral(record.get("comm")), tensor)

    def _device(self, i: int, record: dict[str, Any]) -> Device:
        where = f"devices[{i}]"
        self._slips(record, _DEVICE_KEYS, where)
        if "mem" not in record:
            self.faults.append(f"{where} lacks 'mem', its memory budget in bytes")
        name, kind = self._text(record, "id", where), self._text(record, "class", where)
        return Device(name, kind, _integral(record.get("mem", 0)), _integral(record.get("speed_pm", 1000)))

    def _segment(self, i: int, record: dict[str, Any]) -> Segment:
        where = f"segments[{i}]"
        self._slips(record, _SEGMENT_KEYS, where)
        return Segment(self._text(record, "id", where), self.passes(record.get("ops"), where))

    def reductions(self, data: Mapping[str, Any], problem: Problem) -> tuple[Reduction, ...]:
        """Those of a plan, whose problem they are part of."""
        found = []
        for i, record in self._records(data, "reductions"):
            where = f"reductions[{i}]"
            self._slips(record, _REDUCTION_KEYS, where)
            means = next((known for known in MEANS if known == record.get("means")), None)
            if means is None:
                self.faults.append(f"{where}: 'means' is one of {', '.join(MEANS)}; got {record.get('means')!r}")
            passes = self.passes(record.get("ops"), where)
            named = [name for pair in passes for name in pair if name is not None]
            self.faults += [f"{where} names the unknown op {name!r}" for name in named if name not in problem.skeleton.position]
            ticks, size = _integral(record.get("ticks", 0)), _integral(record.get("bytes", 0))
            self.faults += integer_fault(f"{where}: ticks", ticks) + integer_fault(f"{where}: bytes", size)
            found.append(Reduction(means or "recompute", self._text(record, "segment", where), passes, ticks, size))
        if self.faults:
            raise ProblemError(self.faults)
        return tuple(found)

    def passes(self, value: Any, where: str) -> tuple[tuple[str, str | None], ...]:
        """Pairs of a forward op and its backward op, null where it has none."""
        found: list[tuple[str, str | None]] = []
        for pair in value if isinstance(value, list) else [value]:
            match pair:
                case [str(forward), None | str() as backward]:
                    found.append((forward, backward))
                case _:
                    self.faults.append(f"{where}: 'ops' must be a list of pairs [forward op, backward op or null]; got {pair!r:.200}")
        return tuple(found)

    def _links(self, value: Any) -> tuple[Link, dict[tuple[str, str], Link], dict[str, Link]]:
        if not isinstance(value, dict):
            self.faults.append(f"'links' must be an object with 'default', 'pairs' and 'hosts'; got {type(value).__name__}")
            return Link(), {}, {}
        self._slips(value, frozenset({"default", "pairs", "hosts"}), "links")
        default = self._link(value.get("default", {}), "links.default")
        links: dict[tuple[str, str], Link] = {}
        for i, record in self._records(value, "pairs"):
            where = f"links.pairs[{i}]"
            pair = self._text(record, "src", where), self._text(record, "dst", where)
            if pair in links:
                self.faults.append(f"{where}: the pair {pair[0]!r} -> {pair[1]!r} is listed twice")
            links[pair] = self._link(record, where)
        hosts: dict[str, Link] = {}
        for i, record in self._records(value, "hosts"):
            where = f"links.hosts[{i}]"
            self._slips(record, _HOST_KEYS, where)
            hosts[self._text(record, "class", where)] = self._link(record, where)
        return default, links, hosts

    def _link(self, record: Any, where: str) -> Link:
        if not isinstance(record, dict):
            self.faults.append(f"{where} must be an object with 'lat' and 'Bps'; got {type(record).__name__}")
            return Link()
        self._slips(record, _LINK_KEYS, where)
        rate = record.get("Bps")
        return Link(_integral(record.get("lat", 0)), None if rate == float("inf") else _integral(rate))

    def _text(self, record: dict[str, Any], key: str, where: str) -> str:
        value = record.get(key)
        if not isinstance(value, str):
            self.faults.append(f"{where}: {key!r} must be a string; got {value!r}")
            return ""
        return value

    def _slips(self, record: dict[str, Any], known: frozenset[str], where: str) -> None:
        if record.keys() <= known:
            return
        for key in sorted(record.keys() - known):
            if close := difflib.get_close_matches(key, sorted(known - record.keys()), n=1, cutoff=0.75):
                self.faults.append(f"{where} has the unknown key {key!r}: did you mean {close[0]!r}?")


def _integral(value: Any) -> Any:
    """2.0 as 2: some writers have no integers. Anything else passes, to be judged by `Problem`."""
    return int(value) if isinstance(value, float) and value.is_integer() else value

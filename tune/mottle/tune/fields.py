"""Values for fields of a job file, by dotted key or as nested mappings: how one point of a search space becomes a job.

    applied(job, {"optimizer.lr": 0.01, "strategy": "async", "fleet": {"slow": {"count": 2}}})

What the space does not say, the job says: a mapping for a section (`until`, a group of the fleet) sets its keys one by one, and options
for the rule or optimizer that the job has already are set among those that it has. `optimizer.lr` is the option `lr` of whatever optimizer
there is; `optimizer.adam.lr` is that of Adam, and is left out of a job with another one, so that the options of several choices can be
searched side by side. Knows no Ray and changes nothing that it is given.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mottle import attacks, compression, strategies
from mottle.aggregation.decisions.registry import RULES
from mottle.core.naming import folded, suggestion
from mottle.optim.catalogue import ELEMENTWISE
from mottle.optim.schedule import CATALOGUE as SCHEDULES
from mottle.sdk.schema import Fault, JobFileError, KeyPath, dotted
from mottle.strategies import batch_policy

ORIGIN = "param_space"
"""Where values come from, as messages name it."""

NAMED: Mapping[str, frozenset[str]] = {
    "optimizer": frozenset(ELEMENTWISE),
    "lr_schedule": frozenset(SCHEDULES),
    "strategy": frozenset(strategies.catalogue()),
    "rule": frozenset(RULES),
    "batch_policy": frozenset(batch_policy.catalogue()),
    "codec": frozenset(compression.CATALOGUE),
    "attack": frozenset(entry.name for entry in attacks.catalogue()),
}
"""Fields that name one of several things, with the names that there are."""

REFERENCES = frozenset({"model", "loss", "train_data", "validation_data", "test_data", "collate_fn"})
"""Fields that name something in Python; their options are its arguments."""

GIVEN = {
    "out": "a trial's folder is given by Ray Tune",
    "loggers": "a sweep is logged by Ray Tune's callbacks",
    "checkpoint": "a trial's checkpoints follow Ray Tune's CheckpointConfig",
    "max_failures": "a trial's failures follow Ray Tune's FailureConfig",
}
"""Fields that are not searched, and why."""

SCALING = "scaling"
_SCALING_KEYS = ("min_workers", "max_workers", "num_workers")
DEFAULT_FLEET = {"name": "workers", "count": 2}
"""The fleet of a job file that has none."""


def applied(job: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The job with these values in the place of its own.

    Args:
        job: content of a job file.
        values: by dotted key; mappings may nest.
    Raises:
        JobFileError: keys that lead nowhere, all of them; whether the values are sound is for the job file's own checks to say.
    """
    tree = copy.deepcopy(dict(job))
    faults: list[Fault] = []
    for key, value in sorted(values.items(), key=lambda item: item[0].count(".")):  # a name comes before the options of that name
        try:
            _put(tree, key.split("."), plain(value), ())
        except _AstrayError as astray:
            faults.append(Fault(ORIGIN, key, str(astray), unknown=True))
    if faults:
        raise JobFileError(faults)
    return tree


def touched(values: Mapping[str, Any]) -> frozenset[str]:
    """The first steps of all keys: `{"optimizer.lr": 1}` touches `optimizer`."""
    return frozenset(key.split(".")[0] for key in values)


def leaves(values: Mapping[str, Any], at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value that is no mapping, with the keys on the way to it."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, (*at, str(key)))
        else:
            yield (*at, str(key)), value


def plain(value: Any) -> Any:
    """With lists, dicts and Python's own numbers in the place of tuples, mappings and numpy's, as a job file has them."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


class _AstrayError(Exception):
    """A key leads nowhere; the message says why."""


# --- sections -------------------------------------------------------------------------------------------------------------------------


def _put(node: Any, steps: Sequence[str], value: Any, at: KeyPath) -> None:
    """Set a value some steps inside a mapping or list of the job, which is changed."""
    if not at and steps[0] in GIVEN:
        raise _AstrayError(f"cannot be searched: {GIVEN[steps[0]]}")
    if not at and steps[0] == SCALING:
        _scale(node, steps[1:], value)
        return
    if not at and steps[0] == "fleet":
        node.setdefault("fleet", [dict(DEFAULT_FLEET)])
    place = _place(node, steps[0])
    path, rest = (*at, place), steps[1:]
    current = node.get(place) if isinstance(node, dict) else node[place]
    names = _names(path, current)
    if names is not None:
        node[place] = _named(current, rest, value, names)
    elif rest:
        node[place] = _opened(current, path)
        _put(node[place], rest, value, path)
    elif isinstance(value, dict) and (current is None or isinstance(current, dict | list)):
        node[place] = _opened(current, path)
        for key, each in value.items():
            _put(node[place], key.split("."), each, path)
    else:
        node[place] = value


def _place(node: Any, step: str) -> str | int:
    """The key or index that a step means; an item of a list goes by its number or its `name`."""
    if not isinstance(node, list):
        return step
    names = [item.get("name", DEFAULT_FLEET["name"]) if isinstance(item, dict) else None for item in node]
    if step in names:
        return names.index(step)
    if step.isdecimal() and int(step) < len(node):
        return int(step)
    raise _AstrayError(f"no item {step!r} in the list; {suggestion(step, [name for name in names if isinstance(name, str)])}")


def _opened(current: Any, path: KeyPath) -> Any:
    if current is None:
        return {}
    if not isinstance(current, dict | list):
        raise _AstrayError(f"{dotted(path)} has no keys of its own, it is {current!r}")
    return current


def _scale(job: dict[str, Any], steps: Sequence[str], value: Any) -> None:
    """`scaling.min_workers` and its like, the words of Ray's `ScalingConfig`, for a fleet of one group."""
    key = ".".join(steps) if steps else ""
    if isinstance(value, dict) and not steps:
        for name, each in value.items():
            _scale(job, [name], each)
        return
    if key not in _SCALING_KEYS:
        raise _AstrayError(f"scaling has no {key!r}; {suggestion(key, _SCALING_KEYS)}")
    fleet = job.setdefault("fleet", [dict(DEFAULT_FLEET)])
    if len(fleet) != 1:
        groups = ", ".join(str(group.get("name", DEFAULT_FLEET["name"])) for group in fleet)
        raise _AstrayError(f"the fleet has several groups ({groups}); name the group: fleet.NAME.count")
    count = fleet[0].get("count", 1)
    low, high = count if isinstance(count, list) else (count, None)
    match key:
        case "num_workers":
            low, high = value, None
        case "min_workers":
            low = value
        case _:
            high = value
    fleet[0]["count"] = low if high is None else [low, high]


# --- one of several things, with its options --------------------------------------------------------------------------------------------


def _names(path: KeyPath, current: Any) -> frozenset[str] | None:
    """The names that can stand at that path; empty for a name in Python; None where something else stands."""
    field = path[-1] if len(path) == 1 or (path[0] == "fleet" and path[-1] == "attack") else None
    if field in NAMED:
        return NAMED[str(field)]
    files = isinstance(current, dict) and "files" in current
    if (field in REFERENCES and not files) or (path[0] == "metrics" and len(path) == 2):
        return frozenset()
    return None


def _named(current: Any, steps: Sequence[str], value: Any, names: frozenset[str]) -> Any:
    """What stands there afterwards: a name, or a name with its options."""
    name, options = _parted(current)

    def same(given: str) -> bool:
        """Names in Python are compared as they are, the others as catalogues compare them."""
        return name is not None and (folded(given) == folded(name) if names else given == name)

    if steps:
        first, *rest = steps
        if same(first):
            return _with(str(name), options, rest, value) if rest else _named(current, (), {name: value}, names)
        if folded(first) in map(folded, names):
            return current  # an option of another one than this job's
        if name is None:
            raise _AstrayError(f"the job names nothing that could have an option {first!r}; search the name as well")
        return _with(name, options, steps, value)
    if isinstance(value, str):
        return current if same(value) else value
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((given, inner),) = value.items()
        if inner is None or isinstance(inner, dict):
            return {name: {**options, **(inner or {})}} if same(given) else value
    for key, each in value.items():
        current = _named(current, key.split("."), each, names)
    return current


def _with(name: str, options: dict[str, Any], steps: Sequence[str], value: Any) -> dict[str, Any]:
    """The name with one option, or a part of one, set."""
    changed = copy.deepcopy(options)
    inner = changed
    for step in steps[:-1]:
        within = inner.get(step)
        inner[step] = dict(within) if isinstance(within, dict) else {}
        inner = inner[step]
    inner[steps[-1]] = value
    return {name: changed}


def _parted(current: Any) -> tuple[str | None, dict[str, Any]]:
    if isinstance(current, dict) and len(current) == 1:
        ((name, options),) = current.items()
        return name, dict(options or {})
    return (current, {}) if isinstance(current, str) else (None, {})

"""Fleet files: a `Fleet` in YAML. Documented in `docs/simulator.md`.

Everything that is wrong with a file is reported at once, each with file, line and key; paths in a file are relative to it.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from functools import partial
from pathlib import Path
from typing import Any

from mottle.core.errors import ConfigError
from mottle.core.naming import parse, suggestion
from mottle.simulate.checked import FieldError
from mottle.simulate.faults import Fault
from mottle.simulate.fleet import Fleet, Messages, Servers, Validator, Workers, Workload
from mottle.simulate.speed import Lognormal, Trace
from mottle.simulate.tracefile import read_trace
from mottle.storage.document import Document, DocumentError, KeyPath, read_document
from mottle.storage.document import Fault as FileFault


def read_fleet(file: str | Path) -> Fleet:
    """Read and check a fleet file.

    Raises:
        DocumentError: everything that is wrong with it, or with a trace that it names.
    """
    path = Path(file)
    return _Reader(read_document(path, such_as="workers: and servers:"), path.parent).fleet()


class _Reader:
    """Builds the parts of a fleet, and gathers what is wrong on the way."""

    def __init__(self, document: Document, folder: Path) -> None:
        self._document = document
        self._folder = folder
        self._faults: list[FileFault] = []

    def fleet(self) -> Fleet:
        parts: dict[str, Callable[[Any, KeyPath], Any]] = {
            "workers": self._list(
                Workers,
                sample_s=self._compute_time,
                bandwidth_bytes_per_s=partial(self._link, "bandwidth_bytes_per_s"),
                latency_s=partial(self._link, "latency_s"),
            ),
            "servers": self._one(Servers),
            "validator": self._one(Validator),
            "messages": self._one(Messages, delay_s=lambda value, path: tuple(value) if isinstance(value, list) else value),
            "faults": self._list(Fault),
            "workload": self._one(Workload),
        }
        fleet = self._build(Fleet, self._document.data, (), parts)
        if self._faults:
            raise DocumentError(sorted(self._faults, key=lambda fault: fault.line))
        assert isinstance(fleet, Fleet)
        return fleet

    def _one(self, cls: type[Any], **parts: Callable[[Any, KeyPath], Any]) -> Callable[[Any, KeyPath], Any]:
        return lambda value, path: self._build(cls, value, path, parts)

    def _list(self, cls: type[Any], **parts: Callable[[Any, KeyPath], Any]) -> Callable[[Any, KeyPath], Any]:
        def build(value: Any, path: KeyPath) -> Any:
            if not isinstance(value, list):
                return self._wrong(path, f"wanted a list, got {value!r}")
            built = [self._build(cls, item, (*path, index), parts) for index, item in enumerate(value)]
            return None if None in built else tuple(built)

        return build

    def _build(self, cls: type[Any], value: Any, path: KeyPath, parts: Mapping[str, Callable[[Any, KeyPath], Any]]) -> Any:
        """The dataclass, or None where something is wrong, which is noted then."""
        if not isinstance(value, dict):
            return self._wrong(path, f"wanted keys such as {', '.join(sorted(_known(cls)))}, got {value!r}")
        num_faults = len(self._faults)
        known = _known(cls)
        for key in value:
            if key not in known:
                self._wrong((*path, key), f"unknown key {key!r}; {suggestion(str(key), known)}")
        for name, each in known.items():
            if name not in value and each.default is MISSING and each.default_factory is MISSING:
                self._wrong((*path, name), "is needed; there is no default")
        options = {key: parts[key](each, (*path, key)) if key in parts else each for key, each in value.items()}
        if len(self._faults) > num_faults:
            return None
        try:
            return cls(**options)
        except FieldError as error:
            for name, message in error.wrong:
                self._wrong((*path, *_steps(name)), message)
        return None

    def _compute_time(self, value: Any, path: KeyPath) -> Any:
        if not isinstance(value, dict):
            return value
        try:
            name, options = parse(value, "compute time")
        except ConfigError as error:
            return self._wrong(path, str(error))
        if name == "lognormal":
            return self._build(Lognormal, options, (*path, name), {})
        if name == "calibrated":
            return self._calibrated(options, (*path, name))
        if name != "trace":
            return self._wrong(path, f"unknown compute time {name!r}; {suggestion(name, ('lognormal', 'trace', 'calibrated'))}")
        file = options.get("file")
        if set(options) != {"file"} or not isinstance(file, str):
            return self._wrong((*path, name), f"wanted {{file: speeds.csv}}, got {options!r}")
        try:
            return read_trace(self._folder / file)
        except DocumentError as error:
            self._faults += error.faults
            return None

    def _calibrated(self, options: Mapping[str, Any], path: KeyPath) -> Any:
        """Seconds a sample of a device that `mottle calibrate` measured."""
        if not {"file", "device"} <= set(options) <= {"file", "device", "model"}:
            return self._wrong(path, f"wanted {{file: calibration.json, device: cpu}}, and model: where it holds several, got {options!r}")
        try:
            models = json.loads((self._folder / str(options["file"])).read_text(encoding="utf-8"))["devices"]
            found = models[options["device"]]
            return float(found[options.get("model", next(iter(found)) if len(found) == 1 else None)]["best_sample_s"])
        except OSError as error:
            return self._wrong((*path, "file"), f"{options['file']} cannot be read: {error}")
        except (KeyError, TypeError, ValueError, StopIteration) as error:
            text = f"{options['file']} has no calibration of one model on {options['device']!r}: nothing under {error}"
            return self._wrong(path, f"{text}; run `mottle calibrate` there, or say which model:")

    def _link(self, what: str, value: Any, path: KeyPath) -> Any:
        """A number, or what `mottle calibrate --links` timed for a device."""
        if not isinstance(value, dict):
            return value
        options = value.get("calibrated")
        if set(value) != {"calibrated"} or not isinstance(options, dict) or set(options) != {"file", "device"}:
            return self._wrong(path, f"wanted a number, or {{calibrated: {{file: calibration.json, device: cpu}}}}, got {value!r}")
        try:
            return float(json.loads((self._folder / str(options["file"])).read_text(encoding="utf-8"))["links"][options["device"]][what])
        except OSError as error:
            return self._wrong(path, f"{options['file']} cannot be read: {error}")
        except (KeyError, TypeError, ValueError) as error:
            text = f"{options['file']} has no link of {options['device']!r}: nothing under {error}"
            return self._wrong(path, f"{text}; run `mottle calibrate --links ADDRESS` in that cluster")

    def _wrong(self, path: KeyPath, message: str) -> None:
        self._faults.append(self._document.fault(path, message))


def _known(cls: type[Any]) -> dict[str, "Field[Any]"]:
    return {each.name: each for each in fields(cls)}


def _steps(name: str) -> KeyPath:
    """`faults.3` as a path."""
    return tuple(int(step) if step.isdecimal() else step for step in name.split("."))


def fleet_yaml(fleet: Fleet, *, note: str = "") -> str:
    """The fleet as a file that `read_fleet` reads; without what has its default value.

    Args:
        note: put on top as a comment.
    Raises:
        ValueError: it has traces, which live in files of their own.
    """
    import yaml

    head = "".join(f"# {line}\n" for line in note.splitlines())
    return head + yaml.safe_dump(_plain(fleet), sort_keys=False, width=120, allow_unicode=True)


def _plain(value: Any) -> Any:
    if isinstance(value, Trace):
        raise ValueError("a trace is written as a CSV file and named in the fleet file")
    if isinstance(value, Lognormal):
        return {"lognormal": {"median_s": value.median_s, "sigma": value.sigma}}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if hasattr(value, "__dataclass_fields__"):
        pairs = ((each, getattr(value, each.name)) for each in fields(value))
        return {each.name: _plain(held) for each, held in pairs if not _is_default(each, held)}
    return value


def _is_default(each: "Field[Any]", held: Any) -> bool:
    return bool(held == (each.default if each.default_factory is MISSING else each.default_factory()))

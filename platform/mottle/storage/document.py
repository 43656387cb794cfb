"""A YAML file as plain data that still knows the line of every key, with values set over it from the command line.

Read with PyYAML's safe loader and three changes: a key given twice is an error, floats may be written as YAML 1.2 has them (`1e-3`, which
PyYAML takes for a string), and a file that refers to itself is refused. What the keys mean is its readers' business: job files, fleet
files.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mottle.core.errors import ConfigError

Step = str | int
KeyPath = tuple[Step, ...]


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a file that a user wrote."""

    where: str
    """`job.yaml:12`, or the `--set` that brought the value."""
    key: str
    """Dotted path; empty for the file as a whole."""
    message: str
    line: int = 0
    """In the file; 0 for what comes from elsewhere."""
    unknown: bool = False
    """Whether it is a name that there is not, rather than a value that cannot be."""

    def __str__(self) -> str:
        return f"{self.where}: {self.key}: {self.message}" if self.key else f"{self.where}: {self.message}"


class DocumentError(ConfigError):
    """A file that cannot be used; `faults` lists everything that was found."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(map(str, faults)))

    def __reduce__(self) -> tuple[type["DocumentError"], tuple[tuple[Fault, ...]]]:
        return type(self), (self.faults,)  # pickle would give the constructor the message


class _Loader(yaml.SafeLoader):
    """A safe loader whose float form can be changed without changing PyYAML's own."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


@dataclass
class Document:
    """A mapping from a YAML file.

    Attributes:
        name: of the file, as messages give it.
        data: the mapping, plain.
    """

    name: str
    data: dict[str, Any]
    _root: yaml.Node | None = None
    _set: dict[KeyPath, str] = field(default_factory=dict)

    def fault(self, path: KeyPath, message: str, *, unknown: bool = False) -> Fault:
        """Something wrong with the value at that path; its place is a line of the file, or the `--set` that gave it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self._set:
                return Fault(self._set[path[:length]], dotted(path), message, unknown=unknown)
        if self._root is None:
            return Fault(self.name, dotted(path), message, unknown=unknown)
        line = _line(self._root, path)
        return Fault(f"{self.name}:{line}", dotted(path), message, line, unknown)

    def set(self, assignment: str) -> None:
        """Set one value: `until.epochs=2`, `fleet.0.count=3`, or `fleet.slow.count=3` for the list's item of that name.

        The value is read as YAML. Missing mappings on the way are made; a name without options (`strategy: sync`) takes options.

        Raises:
            DocumentError: not of that form, or the path leads through a list that has no such item or through a plain value.
        """
        origin = f"--set {assignment}"
        dotted, equals, text = assignment.partition("=")
        if not equals or not all(dotted.split(".")):
            raise DocumentError([Fault(origin, "", "wanted KEY=VALUE or KEY.SUBKEY=VALUE")])
        try:
            value = _construct(_compose(text, origin), origin)
        except DocumentError as error:
            raise DocumentError([Fault(origin, dotted, fault.message) for fault in error.faults]) from None
        *parents, last = dotted.split(".")
        inner: Any = self.data
        path: list[Step] = []
        for number, step in enumerate(parents):
            place = _place(inner, step, origin)
            path.append(place)
            following = parents[number + 1] if number + 1 < len(parents) else last
            inner = _opened(inner, place, following, origin)
        place = _place(inner, last, origin)
        inner[place] = value
        self._set[(*path, place)] = origin


def read_document(path: Path, *, such_as: str) -> Document:
    """The document in a file.

    Args:
        such_as: keys that it might have, for the message: "model: and loss:".
    Raises:
        DocumentError: no such file, not YAML, not a mapping, or a key given twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not UTF-8 text ({error.reason})"
        raise DocumentError([Fault(str(path), "", f"cannot be read: {reason}")]) from error
    root = _compose(text, str(path))
    data = _construct(root, str(path))
    if not isinstance(data, dict):
        raise DocumentError([Fault(str(path), "", f"wanted a mapping of keys such as {such_as}, got {type(data).__name__}")])
    return Document(str(path), data, root)


# --- YAML -----------------------------------------------------------------------------------------------------------------------------


def _compose(text: str, name: str) -> yaml.Node | None:
    try:
        root: yaml.Node | None = yaml.compose(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f":{error.problem_mark.line + 1}"
        raise DocumentError([Fault(f"{name}{line}", "", f"not YAML: {error.problem or error}")]) from error
    except yaml.YAMLError as error:
        raise DocumentError([Fault(name, "", f"not YAML: {error}")]) from error
    return root


def _construct(root: yaml.Node | None, name: str) -> Any:
    if root is None:
        return None
    faults: list[Fault] = []
    _check(root, name, (), [], faults, set())
    if faults:
        raise DocumentError(faults)
    loader = _Loader("")
    try:
        return loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f":{error.problem_mark.line + 1}"
        raise DocumentError([Fault(f"{name}{line}", "", f"not YAML: {error.problem}")]) from error
    finally:
        loader.dispose()


def _check(node: yaml.Node, name: str, path: KeyPath, above: list[yaml.Node], faults: list[Fault], seen: set[int]) -> None:
    """Keys given twice, keys that are no text, and files that contain themselves; aliases are looked at once."""
    if any(node is each for each in above):
        faults.append(Fault(f"{name}:{_number(node)}", dotted(path), "an alias here contains itself"))
        return
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _check(item, name, (*path, index), [*above, node], faults, seen)
    if isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                _check(value, name, path, [*above, node], faults, seen)
                continue
            step = str(key.value)
            if key.tag != "tag:yaml.org,2002:str":
                faults.append(Fault(f"{name}:{_number(key)}", dotted((*path, step)), "keys are text; put this one in quotes"))
            elif step in first:
                faults.append(Fault(f"{name}:{_number(key)}", dotted((*path, step)), f"given twice, first in line {first[step]}"))
            first.setdefault(step, _number(key))
            _check(value, name, (*path, step), [*above, node], faults, seen)


def dotted(path: KeyPath) -> str:
    """`fleet.0.count`."""
    return ".".join(map(str, path))


def _number(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _line(root: yaml.Node, path: KeyPath) -> int:
    """Line of the key at that path, or of the last key on the way that the file has."""
    node, line = root, _number(root)
    for step in path:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(step)), None)
            if found is None:
                break
            line, node = _number(found[0]), found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = _number(node)
        else:
            break
    return line


# --- setting --------------------------------------------------------------------------------------------------------------------------


def _place(inner: Any, step: str, origin: str) -> Step:
    """The key or index that a step of a dotted path means."""
    if not isinstance(inner, list):
        return step
    names = [item.get("name") if isinstance(item, dict) else None for item in inner]
    if step in names:
        return names.index(step)
    if step.isdecimal() and int(step) < len(inner):
        return int(step)
    known = ", ".join([*map(str, range(len(inner))), *(name for name in names if isinstance(name, str))])
    raise DocumentError([Fault(origin, step, f"no such item in the list; known: {known or 'none, it is empty'}")])


def _opened(inner: Any, place: Step, following: str, origin: str) -> Any:
    """What lies at that place, made a container if it can be one; a copy, for an alias may have it elsewhere too."""
    value = inner.get(place) if isinstance(inner, dict) else inner[place]
    if value is None:
        value = {}
    elif value == following and isinstance(value, str):
        value = {value: {}}
    elif not isinstance(value, dict | list):
        raise DocumentError([Fault(origin, str(place), f"has no keys of its own, it is {value!r}")])
    inner[place] = value.copy()
    return inner[place]

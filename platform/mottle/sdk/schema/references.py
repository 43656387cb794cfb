"""`module:attribute`: how a job file names what can only be written in Python. Modules are looked for in the job file's folder first.

The folder stays on `sys.path`, because workers find the modules where this process finds them. A module of the same name that was loaded
from elsewhere is an error and never taken for the one that was meant.
"""

import importlib
import sys
import traceback
from collections.abc import Mapping
from functools import partial, reduce
from pathlib import Path
from types import ModuleType
from typing import Any

from mottle.core.errors import ConfigError
from mottle.core.naming import suggestion


def resolve(reference: Any, folder: Path, objects: Mapping[str, Any] | None = None) -> Any:
    """What a reference of a job file means: the attribute, or a partial of it where arguments are given.

    Args:
        reference: `"model:Net"` or `{"model:Net": {"width": 64}}`.
        folder: of the job file.
        objects: what is at hand under such a name and need not be imported.
    Raises:
        ConfigError: no such module or attribute (with the nearest name), or the module fails while it is imported.
    """
    target, arguments = (reference, None) if isinstance(reference, str) else next(iter(reference.items()))
    found = objects[target] if objects and target in objects else _attribute(target, folder)
    if not arguments:
        return found
    if not callable(found):
        raise ConfigError(f"{target} takes no arguments, for it is no function or class but {type(found).__name__}")
    return partial(found, **arguments)


def _attribute(target: str, folder: Path) -> Any:
    module_name, _, attribute = target.partition(":")
    module = _imported(module_name, folder)
    try:
        return reduce(getattr, attribute.split("."), module)
    except AttributeError:
        known = [name for name in vars(module) if not name.startswith("_")]
        raise ConfigError(f"module {module_name!r} ({module.__file__}) has no {attribute!r}; {suggestion(attribute, known)}") from None


def _imported(name: str, folder: Path) -> ModuleType:
    if sys.path[:1] != [str(folder)]:
        sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    beside = _beside(name, folder)
    loaded = sys.modules.get(name)
    if loaded is not None and beside is not None and Path(loaded.__file__ or "built in").resolve() != beside:
        raise ConfigError(f"module {name!r} means {beside}, but another one is loaded ({loaded.__file__ or 'built in'}); rename yours")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            here = [path.stem for path in folder.glob("*.py")]
            raise ConfigError(f"there is no module {name!r} in {folder} or on the Python path; {suggestion(name, here)}") from error
        raise ConfigError(f"module {name!r} needs {error.name}, which is not installed") from error
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigError(
            f"module {name!r} failed while it was imported: {type(error).__name__}: {error} ({frame.filename}:{frame.lineno})"
        ) from error


def _beside(name: str, folder: Path) -> Path | None:
    """The file in the job's folder that the name means."""
    stem = folder.joinpath(*name.split("."))
    candidates = (stem.with_name(f"{stem.name}.py"), stem / "__init__.py")
    return next((path.resolve() for path in candidates if path.is_file()), None)

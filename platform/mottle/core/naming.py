"""How a job names one of several things: `"adam"`, or `{"adam": {"lr": 0.001}}`, with the nearest name where it is misspelt.

Every seam (rule, strategy, codec, optimizer, engine, attack) is named in this one form, so that their messages read alike.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from difflib import get_close_matches
from typing import Any, TypeVar

from mottle.core.errors import ConfigError, UnknownNameError

Spec = str | Mapping[str, Mapping[str, object] | None]
"""A name, or one name with its options; `None` (an empty value in a job file) is no options."""

T = TypeVar("T")


def parse(spec: object, what: str) -> tuple[str, dict[str, object]]:
    """Split a `Spec` into its name and its options.

    Args:
        spec: see `Spec`; job files put anything here, so it is checked.
        what: the seam, for the message: "optimizer".
    Raises:
        ConfigError: not of that form.
    """
    if isinstance(spec, str):
        return spec, {}
    if isinstance(spec, Mapping) and len(spec) == 1:
        ((name, options),) = spec.items()
        if isinstance(name, str) and (options is None or isinstance(options, Mapping)):
            return name, dict(options or {})
    raise ConfigError(f"{what} is named as {{name: {{option: value}}}} or by the name alone, got {spec!r}")


def folded(name: str) -> str:
    """The form in which names are compared: `AdamW`, `adam_w` and `ADAM-W` are one name."""
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")


def suggestion(name: str, known: Iterable[str]) -> str:
    """End of an error message: the nearest known name where there is one, then all of them in order."""
    known = sorted(known)
    by_folded = {folded(each): each for each in known}
    close = get_close_matches(folded(name), by_folded, n=1, cutoff=0.6)
    hint = f"did you mean {by_folded[close[0]]!r}? " if close else ""
    return f"{hint}known: {', '.join(known)}"


def lookup(name: str, catalogue: Mapping[str, T], what: str) -> T:
    """The entry of that name, whatever its case, underscores and hyphens.

    Raises:
        UnknownNameError: there is none; names the nearest.
    """
    by_folded = {folded(key): value for key, value in catalogue.items()}
    try:
        return by_folded[folded(name)]
    except KeyError:
        raise UnknownNameError(f"unknown {what} {name!r}; {suggestion(name, catalogue)}") from None


def configured(config: Callable[..., T], options: Mapping[str, object], what: str) -> T:
    """Build the config dataclass from its options.

    Raises:
        ConfigError: an option it does not have (names the nearest), one missing that has no default, or a value that it refuses.
    """
    known = {each.name: each for each in fields(config) if each.init}  # type: ignore[arg-type]  # a dataclass, which Callable does not say
    for option in options:
        if option not in known:
            raise UnknownNameError(f"{what} has no option {option!r}; {suggestion(str(option), known) if known else 'it has none'}")
    required = [name for name, each in known.items() if each.default is MISSING and each.default_factory is MISSING]
    missing = [name for name in required if name not in options]
    if missing:
        raise ConfigError(f"{what} needs {', '.join(missing)}; there is no default")
    try:
        return config(**options)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{what}: {error}") from error


def construct(spec: object, catalogue: Mapping[str, type[Any]], what: str) -> Any:
    """Build the config dataclass that a spec names, with the options as its fields.

    Raises:
        ConfigError: not a spec, an unknown name, or what `configured` raises.
    """
    name, options = parse(spec, what)
    return configured(lookup(name, catalogue, what), options, f"{what} {name!r}")

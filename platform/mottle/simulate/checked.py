"""Dataclass fields that are numbers with bounds, checked all at once.

    latency_s: float = number(default=0.0, least=0, most=3600)

A dataclass calls `check(self)` in its `__post_init__`; what is wrong comes as one `FieldError` that still knows which field is meant, so
that the reader of a file can say the line of each.
"""

import math
from collections.abc import Sequence
from dataclasses import MISSING, field, fields
from typing import Any

from mottle.core.errors import ConfigError


class FieldError(ConfigError):
    """Fields with values that cannot be; `wrong` lists (field, what is wrong)."""

    def __init__(self, wrong: Sequence[tuple[str, str]]) -> None:
        self.wrong = tuple(wrong)
        super().__init__("; ".join(f"{name} {message}" for name, message in wrong))


def number(
    *,
    default: Any = MISSING,
    least: float | None = None,
    above: float | None = None,
    most: float,
    whole: bool = False,
    optional: bool = False,
) -> Any:
    """A dataclass field for a number in [least, most], or in (above, most].

    Args:
        whole: an integer; otherwise an integer or a float that is finite.
        optional: None is a value too.
    """
    low = f"at least {least:,}" if least is not None else f"above {above:,}"
    wanted = f"wanted {'an integer' if whole else 'a number'} {low} and at most {most:,}{', or none' if optional else ''}"
    bounds = (-math.inf if least is None else least, -math.inf if above is None else above, most)
    return field(default=default, metadata={"wanted": wanted, "bounds": bounds, "whole": whole, "optional": optional})


def check(instance: Any, more: Sequence[tuple[str, str]] = ()) -> None:
    """Check every `number` of a dataclass.

    Args:
        more: (field, what is wrong) that the dataclass found by itself.
    Raises:
        FieldError: at least one is out of its bounds, or `more` is not empty.
    """
    wrong = [(each.name, message) for each in fields(instance) if (message := _fault(each.metadata, getattr(instance, each.name)))]
    if wrong or more:
        raise FieldError([*wrong, *more])


def _fault(metadata: Any, value: Any) -> str:
    if "bounds" not in metadata or (value is None and metadata["optional"]):
        return ""
    least, above, most = metadata["bounds"]
    kind_fits = type(value) is int or (type(value) is float and not metadata["whole"])
    if kind_fits and least <= value <= most and value > above:  # a NaN is not
        return ""
    return f"{metadata['wanted']}, got {value!r}"

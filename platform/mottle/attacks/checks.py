"""Checks of configuration values. Each returns the complaints as sentences, so that an attack can report all its mistakes at once."""

import math
from collections.abc import Collection


def number(name: str, value: object, *, least: float | None = None, above: float | None = None, most: float | None = None) -> list[str]:
    """Complaints about a value that should be a finite real number within the bounds (`above` is exclusive)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return [f"{name} must be a finite number, got {value!r}"]
    if least is not None and value < least:
        return [f"{name} must be at least {least:g}, got {value!r}"]
    if above is not None and value <= above:
        return [f"{name} must be greater than {above:g}, got {value!r}"]
    if most is not None and value > most:
        return [f"{name} must be at most {most:g}, got {value!r}"]
    return []


def whole(name: str, value: object, *, least: int) -> list[str]:
    """Complaints about a value that should be an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        return [f"{name} must be an integer, got {value!r}"]
    return [f"{name} must be at least {least}, got {value!r}"] if value < least else []


def choice(name: str, value: object, allowed: Collection[object]) -> list[str]:
    """Complaints about a value that should be one of `allowed`."""
    if value in allowed and not isinstance(value, bool):
        return []
    return [f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}"]


def flag(name: str, value: object) -> list[str]:
    """Complaints about a value that should be true or false."""
    return [] if isinstance(value, bool) else [f"{name} must be true or false, got {value!r}"]

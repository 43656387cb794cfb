"""All attacks by name, and how to build one from its job file form."""

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields
from types import MappingProxyType
from typing import Any, cast

from mottle.attacks.alie import Alie
from mottle.attacks.base import Attack, Stage
from mottle.attacks.bit_flip import BitFlip
from mottle.attacks.count_inflation import CountInflation
from mottle.attacks.gambler import Gambler
from mottle.attacks.gaussian import Gaussian
from mottle.attacks.honest_mean import InnerProductManipulation, Omniscient, Zero, ZeroSum
from mottle.attacks.label_flip import LabelFlip
from mottle.attacks.malformed import Malformed
from mottle.attacks.mimic import Mimic
from mottle.attacks.min_max import MinMax, MinSum
from mottle.attacks.non_finite import NonFinite
from mottle.attacks.optimised import Optimised
from mottle.attacks.sign_flip import SignFlip
from mottle.attacks.stale_replay import StaleReplay
from mottle.attacks.sybil import Sybil
from mottle.attacks.view import Knowledge
from mottle.attacks.wrapper import Honest
from mottle.core import naming
from mottle.core.naming import configured, lookup, parse

Spec = naming.Spec | Attack
"""`"ipm"`, `{"ipm": {"epsilon": 0.5}}`, or an attack already built, a user's own included."""

CLASSES: Mapping[str, type[Attack]] = MappingProxyType(
    {
        cls.name: cls
        for cls in (
            Honest, Gaussian, SignFlip, Omniscient, BitFlip, LabelFlip, Gambler, Alie, InnerProductManipulation, Mimic, MinMax, MinSum,
            Zero, ZeroSum, NonFinite, Malformed, StaleReplay, Sybil, Optimised, CountInflation,
        )
    }
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What the catalogue says about an attack."""

    name: str
    summary: str
    """First line of its documentation."""
    citation: str
    stage: Stage
    """Which seam it acts on."""
    knowledge: Knowledge
    """What it needs to know with its default parameters."""
    deterministic: bool
    passes_gate: str
    parameters: Mapping[str, tuple[str, Any]]
    """Type and default of every parameter."""


def catalogue() -> dict[str, Entry]:
    """Every attack of the library by its name in job files."""
    return {name: _entry(cls) for name, cls in CLASSES.items()}


def build(spec: Spec) -> Attack:
    """An attack from its job file form; attacks inside attacks are built too.

    Raises:
        ConfigError: no such attack or parameter (with the nearest name), or a value out of range.

    Example:
        >>> build({"ipm": {"epsilon": 0.5}}).spec()
        {'ipm': {'start': 0, 'message_probability': 1.0, 'epsilon': 0.5}}
    """
    if isinstance(spec, Attack):
        return spec
    name, options = parse(spec, "attack")
    cls = lookup(name, CLASSES, "attack")
    carried = {"attack": build(cast(Spec, options["attack"]))} if options.get("attack") is not None else {}
    return configured(cls, {**options, **carried}, f"attack {cls.name}")


def _entry(cls: type[Attack]) -> Entry:
    default = cls()
    return Entry(
        name=cls.name,
        summary=(cls.__doc__ or "").strip().splitlines()[0],
        citation=cls.citation,
        stage=cls.stage,
        knowledge=default.knowledge,
        deterministic=default.deterministic,
        passes_gate=cls.passes_gate,
        parameters={field.name: (_type_name(field), _default(field)) for field in fields(cls)},
    )


def _type_name(field: "Field[Any]") -> str:
    return (
        field.type
        if isinstance(field.type, str)
        else getattr(field.type, "__name__", "")
        if isinstance(field.type, type)
        else str(field.type)
    )


def _default(field: "Field[Any]") -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()

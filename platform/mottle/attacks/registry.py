"""All attacks by name, and how to build one from its job file form."""

import ast
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from textwrap import dedent
from types import MappingProxyType
from typing import cast, get_args

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
class Parameter:
    """One parameter of an attack."""

    name: str
    type: str
    doc: str
    default: object


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What the catalogue says about an attack; the facts are those of its default parameters."""

    name: str
    summary: str
    """First line of its documentation."""
    citation: str
    stage: Stage
    """Which seam it acts on."""
    knowledge: Knowledge
    deterministic: bool
    passes_gate: str
    parameters: tuple[Parameter, ...]


def catalogue() -> tuple[Entry, ...]:
    """All attacks with their parameters, knowledge and sources."""
    return tuple(_entry(cls) for cls in CLASSES.values())


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
    docs = _field_docs(cls)
    return Entry(
        name=cls.name,
        summary=(cls.__doc__ or "").strip().splitlines()[0],
        citation=cls.citation,
        stage=cls.stage,
        knowledge=default.knowledge,
        deterministic=default.deterministic,
        passes_gate=cls.passes_gate,
        parameters=tuple(
            Parameter(name=each.name, type=_type_name(each.type), doc=docs.get(each.name, ""), default=getattr(default, each.name))
            for each in fields(cls)
        ),
    )


def _type_name(kind: object) -> str:
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind).replace("typing.", "")


def _field_docs(cls: type[Attack]) -> dict[str, str]:
    """The docstrings behind the fields, read from the source so that they are written once."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__[: cls.__mro__.index(Attack) + 1]):
        (definition,) = ast.parse(dedent(inspect.getsource(base))).body
        assert isinstance(definition, ast.ClassDef)
        for field, doc in pairwise(definition.body):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(doc, ast.Expr):
                docs[field.target.id] = " ".join(str(ast.literal_eval(doc.value)).split())
    return docs

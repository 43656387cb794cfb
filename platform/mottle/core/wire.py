"""Events and states as JSON: the form in which the log keeps them.

A dataclass becomes `{"type": name, field: value, ...}`, a tuple a list. The exact sums of `mottle.core.exactsum` end in long runs of zero
bits, so a large integer becomes `{"int": hex, "shift": zeros}`. Reading builds dataclasses of the protocol only: a log cannot name
anything else.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_args

from mottle.core import protocol
from mottle.core.errors import ProtocolError
from mottle.core.protocol import Event, Lease, Part, ReplicaId, Samples, Version

_LARGE = 1 << 53  # what a JSON reader with floating-point numbers keeps exactly
_NAMED: dict[str, Any] = {each.__name__: each for each in (*get_args(Event), Lease, Part, Samples)}
_TUPLES: dict[str, Any] = {"replica": ReplicaId, "version": Version, "base": Version}


def encode(value: Any) -> Any:
    """JSON types that `decode` turns back into an equal value."""
    if is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__name__, **{each.name: encode(getattr(value, each.name)) for each in fields(value)}}
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= _LARGE:
        shift = (value & -value).bit_length() - 1
        return {"int": hex(value >> shift), "shift": shift}
    return value


def decode(value: Any, *, name: str = "") -> Any:
    """Inverse of `encode` for events.

    Raises:
        ProtocolError: a type that is not of the protocol.
    """
    if isinstance(value, list):
        items = [decode(item) for item in value]
        return _TUPLES[name](*items) if name in _TUPLES else tuple(items)
    if not isinstance(value, dict):
        return value
    if value.keys() == {"int", "shift"}:
        return int(value["int"], 16) << value["shift"]
    if "type" not in value:
        return {key: decode(item, name=key) for key, item in value.items()}
    kind = _NAMED.get(value["type"])
    if kind is None:
        raise ProtocolError(f"the log names {value['type']!r}, which is no event of protocol {protocol.__name__}")
    return kind(**{key: decode(item, name=key) for key, item in value.items() if key != "type"})

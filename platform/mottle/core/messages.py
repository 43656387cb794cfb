"""How a message between the machines is declared.

Messages never change once they are made, and type checkers hold everybody to that. At run time nothing does: a frozen dataclass sets every
field through `object.__setattr__`, which makes a message of ten fields five times as dear, and an update takes thirty of them.
"""

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def message(cls: type[T]) -> type[T]:
    """Class decorator: a dataclass with slots, equality and a hash of its fields, which nobody may assign to."""
    return dataclass(slots=True, unsafe_hash=True)(cls)

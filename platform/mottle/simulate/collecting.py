"""Python's collector of cycles while a run goes on: seldom, because a run makes hardly any and a large fleet is long to look through."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

FEWEST = 100_000
"""Containers that are made and not freed between two collections of the young ones; 700 is Python's own."""


@contextmanager
def rare_collections() -> Iterator[None]:
    """Within, collections of cycles are rare; one that is switched off, or rarer already, stays so."""
    young, middle, old = gc.get_threshold()
    if young:
        gc.set_threshold(max(young, FEWEST), middle, old)
    try:
        yield
    finally:
        gc.set_threshold(young, middle, old)

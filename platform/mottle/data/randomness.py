"""Reproducible augmentation: the process's global generators, seeded for one sample and put back.

Transforms draw from Python's `random`, `numpy.random` and torch's CPU generator. Seeding these by (run seed, epoch,
position) makes a sample the same on whichever worker, in whichever batch it is loaded. What no seed reaches: generators that a
dataset makes for itself from the operating system (`numpy.random.default_rng()` without a seed), and CUDA generators.

The generators belong to the whole process, and samples are loaded by a background thread while a model computes. So
whoever draws from them in another thread (dropout on the CPU) holds `GLOBAL_RANDOMNESS` meanwhile; otherwise the two would
change each other's numbers. Nobody holds it while waiting for a batch: the thread that loads the batch may need it.
"""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
import torch

GLOBAL_RANDOMNESS: Final = threading.RLock()
"""Held by the thread that may draw from the process's global generators."""

NUMPY_WORD: Final = 0x6E70  # any number: it only has to be there


def seed_globals(seed: int) -> None:
    """Seed all three with `seed` (0 <= seed < 2^63), within `preserved_globals`. Cost: 13 microseconds."""
    random.seed(seed)
    # Python and numpy seed the same Mersenne Twister in the same way: without a third word both would draw the same numbers.
    np.random.seed([seed & 0xFFFF_FFFF, seed >> 32, NUMPY_WORD])
    # Not torch.manual_seed: it also seeds every accelerator, which costs 80 microseconds and would not be put back.
    torch.default_generator.manual_seed(seed)


@contextmanager
def preserved_globals() -> Iterator[None]:
    """Hold `GLOBAL_RANDOMNESS` and put all three generators back on the way out. Cost: 80 microseconds, nearly all of it numpy's state."""
    with GLOBAL_RANDOMNESS:
        python_state, numpy_state = random.getstate(), np.random.get_state()
        torch_state = torch.default_generator.get_state()
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
            torch.default_generator.set_state(torch_state)


@contextmanager
def seeded_globals(seed: int) -> Iterator[None]:
    """All three seeded with `seed` inside, and put back on the way out."""
    with preserved_globals():
        seed_globals(seed)
        yield

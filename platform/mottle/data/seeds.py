"""One run seed, many independent streams.

A stream is named by what it is for ("order/rows", "sample", ...) and by where it stands (epoch, window, position), and
its seed is a hash of these names. So nothing depends on who asks first, on how many machines there are, or on the
version of a random library: only SHA-256 and Philox's raw output are used, and both are fixed by their definitions.
"""

import hashlib

import numpy as np
import numpy.typing as npt


def derive_seed(run_seed: int, purpose: str, *place: int, bits: int = 63) -> int:
    """First `bits` bits of SHA-256 over "run_seed|purpose|place|...".

    Args:
        run_seed: the seed of the run, any integer.
        purpose: what the stream is for; distinct purposes give unrelated streams.
        place: where in the run, for example epoch and position.
        bits: 1 to 256; 63 fits a signed 64-bit integer, which every library takes.
    Raises:
        ValueError: a purpose with the separator "|", or bits out of range.
    Example:
        >>> derive_seed(0, "sample", 1, 5) == derive_seed(0, "sample", 1, 5)
        True
    """
    if "|" in purpose:
        raise ValueError(f"a purpose must not contain the separator '|', got {purpose!r}; use '/' for parts of a name")
    if not 1 <= bits <= 256:
        raise ValueError(f"bits must be 1 to 256, got {bits}")
    text = "|".join([str(int(run_seed)), purpose, *(str(int(part)) for part in place)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big") >> (256 - bits)


def permutation(size: int, run_seed: int, purpose: str, *place: int) -> npt.NDArray[np.int64]:
    """A uniformly random permutation of range(size), shape (size,), that is the same on every machine.

    `numpy.random.Generator.permutation` may change between numpy versions; the raw 64-bit words of a bit generator may
    not. So the words of Philox become sort keys. Two equal keys (chance below size^2 / 2^65) keep their order.
    Cost: one sort of `size` 64-bit keys, about 0.15 s for a million rows.
    """
    generator = np.random.Philox(key=derive_seed(run_seed, purpose, *place, bits=128))
    return np.argsort(generator.random_raw(size), kind="stable").astype(np.int64, copy=False)


def draw_rows(num_rows: int, num_samples: int, seed: int, purpose: str, number: int) -> npt.NDArray[np.int64]:
    """Up to `num_samples` of the rows [0, num_rows) without replacement; the same draw by the same seed, purpose and number.

    Not the same with every version of numpy, unlike what is above: a draw serves one step and is no part of the data order.
    """
    generator = np.random.default_rng(derive_seed(seed, purpose, number))
    return generator.choice(num_rows, size=min(num_samples, num_rows), replace=False)

"""Sums of float64 values without any rounding, as Python integers in units of 2**-1074.

Every finite float64 is a whole multiple of the smallest positive one, 2**-1074, so a sum of them is an integer of at most a few thousand
bits. Integers add exactly and in any order: partial sums of parameter shards, threads or blocks give one and the same total wherever the
parameters are cut, and a decision taken on totals does not depend on the cut either. Rounding happens once, in `to_float`.

A sum too large for float64 counts as infinite: +-`INFINITE`, which no finite addend can bring back into range. NaN is no number and raises.

Related: Kulisch's long accumulator; here the accumulator is Python's own integer, and `exact_sum` only groups the addends.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

UNIT_EXPONENT = -1074
"""Every finite float64 is a multiple of 2**UNIT_EXPONENT."""

INFINITE = 1 << 4096
"""Stands for +infinity. Any number of finite float64 (below 2**2098 units each) leaves it far outside the range of float64."""

_DIGIT_BITS = 32
_DIGIT_MASK = np.uint64((1 << _DIGIT_BITS) - 1)
_NUM_DIGITS = 68
"""32-bit digits that hold the 2098 bits of the largest float64, and one to spare for the three digits that one addend touches."""


def exact_sum(values: npt.ArrayLike) -> int:
    """Sum of all values, exactly, in units of 2**-1074.

    Args:
        values: any shape, float64 or exactly convertible; empty gives 0.
    Returns:
        The sum; at least `INFINITE` in magnitude where +-infinity is among the values.
    Raises:
        ValueError: NaN, or infinities of both signs.
    """
    (total,) = exact_sums(np.asarray(values, dtype=np.float64).reshape(-1, 1))
    return total


def exact_sums(values_BK: npt.ArrayLike) -> tuple[int, ...]:
    """`exact_sum` of every column: B addends to each of K sums. Cost about 0.1 microseconds an addend.

    Args:
        values_BK: shape (B, K), float64; B below 2**30.
    Raises:
        ValueError: not two-dimensional, NaN, or infinities of both signs in one column.
    """
    values_BK = np.asarray(values_BK, dtype=np.float64)
    if values_BK.ndim != 2:
        raise ValueError(f"exact_sums wants an array of shape (addends, sums), got shape {values_BK.shape}")
    infinite_BK = np.isinf(values_BK)
    if np.isnan(values_BK).any():
        raise ValueError("exact_sums got NaN, which has no sum; drop the row it comes from first")
    digits_KL = _digits(np.where(infinite_BK, 0.0, values_BK))
    infinities_K = _infinities(values_BK, infinite_BK) if infinite_BK.any() else [0] * values_BK.shape[1]
    return tuple(total + infinite for total, infinite in zip(from_digits(digits_KL), infinities_K, strict=True))


def _infinities(values_BK: npt.NDArray[np.float64], infinite_BK: npt.NDArray[np.bool_]) -> list[int]:
    up_BK, down_BK = infinite_BK & (values_BK > 0), infinite_BK & (values_BK < 0)
    signs = [(bool(up.any()), bool(down.any())) for up, down in zip(up_BK.T, down_BK.T, strict=True)]
    if (True, True) in signs:
        raise ValueError("exact_sums got +inf and -inf in one sum, which has no value")
    return [INFINITE * (up - down) for up, down in signs]


def _digits(values_BK: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Sums of K columns as signed 32-bit digits (in 64-bit words, carries not yet done), lowest first; shape (K, _NUM_DIGITS)."""
    num_addends, num_sums = values_BK.shape
    assert num_addends < 1 << 30, "a 64-bit word takes 2**30 addends of 33 bits"
    fraction_BK, exponent_BK = np.frexp(values_BK)
    mantissa_BK = np.ldexp(fraction_BK, 53).astype(np.int64)
    shift_BK = exponent_BK.astype(np.int64) - 53 - UNIT_EXPONENT
    # A subnormal comes out of frexp normalised: its mantissa ends in the zeros by which its exponent is too small.
    magnitude_BK = np.abs(mantissa_BK).astype(np.uint64) >> np.maximum(-shift_BK, 0).astype(np.uint64)
    shift_BK = np.maximum(shift_BK, 0)
    bits_BK = (shift_BK % _DIGIT_BITS).astype(np.uint64)
    low_BK = (magnitude_BK & _DIGIT_MASK) << bits_BK
    high_BK = (magnitude_BK >> np.uint64(_DIGIT_BITS)) << bits_BK
    parts = (low_BK & _DIGIT_MASK, (low_BK >> np.uint64(_DIGIT_BITS)) + (high_BK & _DIGIT_MASK), high_BK >> np.uint64(_DIGIT_BITS))
    digits = np.zeros(num_sums * _NUM_DIGITS, dtype=np.int64)
    place_BK = np.arange(num_sums) * _NUM_DIGITS + shift_BK // _DIGIT_BITS
    sign_BK = np.sign(mantissa_BK)
    for offset, part_BK in enumerate(parts):
        np.add.at(digits, (place_BK + offset).ravel(), (part_BK.astype(np.int64) * sign_BK).ravel())
    return digits.reshape(num_sums, _NUM_DIGITS)


def from_digits(digits_KL: npt.NDArray[np.int64]) -> tuple[int, ...]:
    """Integers from signed base-2**32 digits in 64-bit words, lowest first, carries not yet done; shape (K, L).

    The form in which compiled kernels hand over their exact sums.
    """
    used = np.flatnonzero(digits_KL.any(axis=0))
    if not len(used):
        return (0,) * len(digits_KL)
    lowest = int(used[0])
    words_KL = np.array(digits_KL[:, lowest : used[-1] + 1], dtype=np.int64)
    carry_K = np.zeros(len(words_KL), dtype=np.int64)
    for place in range(words_KL.shape[1]):
        word_K = words_KL[:, place] + carry_K
        carry_K = word_K >> _DIGIT_BITS
        words_KL[:, place] = word_K - (carry_K << _DIGIT_BITS)
    top = 1 << (_DIGIT_BITS * words_KL.shape[1])
    rows = words_KL.astype("<u4")
    zeros = _DIGIT_BITS * lowest
    return tuple((int.from_bytes(row.tobytes(), "little") + int(carry) * top) << zeros for row, carry in zip(rows, carry_K, strict=True))


def add(sums: Iterable[int]) -> int:
    """Total of partial sums; the same for every order and grouping."""
    return sum(sums)


def to_float(total: int) -> float:
    """The float64 nearest to the sum (ties to even); +-inf where it is out of range."""
    try:
        return total / (1 << -UNIT_EXPONENT)
    except OverflowError:
        return float("inf") if total > 0 else float("-inf")

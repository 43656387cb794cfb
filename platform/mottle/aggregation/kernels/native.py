"""Compiled kernels for rows in main memory: calls into C++.

Statistics have one compiled form and wait for it on first use, because plain torch rounds them differently and a round must not be decided
by which of the two was at hand. Programs on columns give the same bits both ways, so they are compiled in the background meanwhile.

Letters: N rows, P points, C columns, K sums.
"""

import ctypes
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mottle.aggregation.decisions.base import Floats
from mottle.aggregation.kernels import toolchain
from mottle.aggregation.kernels.emit import cpp_source
from mottle.aggregation.kernels.programs import Program
from mottle.core.exactsum import INFINITE, from_digits

NUM_DIGITS = 68
Library = ctypes.CDLL
Function = ctypes.c_void_p

_C_TYPES = {torch.float32: "float", torch.float64: "double"}
_SUFFIX = {torch.float32: "float32", torch.float64: "float64"}


def statistics_library() -> ctypes.CDLL | None:
    """The kernels for sums over coordinates; waits until they are compiled. None without a compiler."""
    return toolchain.wait(toolchain.source("statistics.cpp"), contract=True)


def prepare() -> None:
    """Start to compile what every rule may need."""
    toolchain.request(toolchain.source("statistics.cpp"), contract=True)
    toolchain.request(toolchain.source("apply.cpp"))


def apply_library() -> ctypes.CDLL | None:
    """The kernels that combine and mix rows, if they are there already."""
    return toolchain.request(toolchain.source("apply.cpp"))


def columns_function(program: Program, dtype: torch.dtype) -> Function | None:
    """Address of the compiled program; None while it is not there (or never will be)."""
    if program.presorted:
        return None
    text = cpp_source(program, _C_TYPES[dtype])
    library = toolchain.request(text)
    return None if library is None else ctypes.cast(library.columns, ctypes.c_void_p)


def addresses(vectors: Sequence[Tensor | None]) -> ctypes.Array[ctypes.c_void_p]:
    """Pointers to the first values; null for None. The vectors must outlive their use."""
    return (ctypes.c_void_p * len(vectors))(*(None if vector is None else vector.data_ptr() for vector in vectors))


@dataclass(frozen=True, eq=False)
class Tally:
    """Exact sums in the making, one set of digits a thread: integers add in any order."""

    num_rows: int
    num_sums: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "_own", threading.local())
        object.__setattr__(self, "_all", [])

    def buffers(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """Digits, overflow flags and bad rows of the calling thread."""
        own, everything = self.__dict__["_own"], self.__dict__["_all"]
        if not hasattr(own, "buffers"):
            own.buffers = (
                np.zeros((self.num_sums, NUM_DIGITS), np.int64),
                np.zeros(self.num_sums, np.uint8),
                np.zeros(self.num_rows, np.uint8),
            )
            everything.append(own.buffers)
        buffers: tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8], npt.NDArray[np.uint8]] = own.buffers
        return buffers

    def totals(self) -> tuple[tuple[int, ...], npt.NDArray[np.bool_]]:
        """The sums, `INFINITE` where a block overflowed; and which rows are finite."""
        everything = self.__dict__["_all"]
        if not everything:
            return (0,) * self.num_sums, np.ones(self.num_rows, dtype=bool)
        digits = sum(each[0] for each in everything)
        infinite = np.any([each[1] for each in everything], axis=0)
        bad = np.any([each[2] for each in everything], axis=0)
        sums = from_digits(digits)
        return tuple(total + INFINITE * int(flag) for total, flag in zip(sums, infinite, strict=True)), ~bad


def _pointer(array: npt.NDArray[np.generic]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def add_distances(library: ctypes.CDLL, block: Sequence[Tensor], start: int, stop: int, tally: Tally) -> None:
    """Add squared distances of all pairs i < j over columns [start, stop) of the vectors."""
    _call(library, "distances", block[0].dtype, tally, addresses(block), _int(len(block)), _int(start), _int(stop))


def add_gram(
    library: ctypes.CDLL,
    points: Sequence[Tensor | None],
    num_rows: int,
    median: ctypes.c_void_p | None,
    origin: Tensor | None,
    start: int,
    stop: int,
    tally: Tally,
) -> None:
    """Add inner products of all pairs i <= j of points about the rows' median, or about an origin; None is zero."""
    assert points[0] is not None
    at = None if origin is None else ctypes.c_void_p(origin.data_ptr())
    counts = (_int(len(points)), _int(num_rows), median, at, _int(start), _int(stop))
    _call(library, "gram", points[0].dtype, tally, addresses(points), *counts)


def add_dots(library: ctypes.CDLL, block: Sequence[Tensor], reference: Tensor | None, start: int, stop: int, tally: Tally) -> None:
    """Add inner products of each vector with the reference, or with itself."""
    at = None if reference is None else ctypes.c_void_p(reference.data_ptr())
    _call(library, "dots", block[0].dtype, tally, addresses(block), _int(len(block)), at, _int(start), _int(stop))


def _call(library: ctypes.CDLL, name: str, dtype: torch.dtype, tally: Tally, *arguments: object) -> None:
    digits, infinite, bad = tally.buffers()
    function = getattr(library, f"{name}_{_SUFFIX[dtype]}")
    function(*arguments, _pointer(digits), _pointer(infinite), _pointer(bad))


def _int(value: int) -> ctypes.c_int64:
    return ctypes.c_int64(value)


def mark_bad(library: ctypes.CDLL, block: Sequence[Tensor], start: int, stop: int, bad: npt.NDArray[np.uint8]) -> None:
    """Set the flags of rows with NaN or infinity in [start, stop)."""
    function = getattr(library, f"finite_{_SUFFIX[block[0].dtype]}")
    function(addresses(block), _int(len(block)), _int(start), _int(stop), _pointer(bad))


def combine(library: ctypes.CDLL, block: Sequence[Tensor], weights: Floats, divisor: float, start: int, stop: int, out: Tensor) -> None:
    """out = sum of weights[i] * row i over the divisor, for columns [start, stop); see `eager.combine`."""
    function = getattr(library, f"combine_{_SUFFIX[out.dtype]}")
    into = ctypes.c_void_p(out.data_ptr())
    function(addresses(block), _int(len(block)), _pointer(weights), ctypes.c_double(divisor), _int(start), _int(stop), into)


def run_columns(
    function: ctypes.c_void_p, block: Sequence[Tensor], weights: Floats | None, start: int, stop: int, out: Tensor
) -> tuple[bool, bool]:
    """out = the program on columns [start, stop); returns whether all rows were finite, and whether nothing overflowed."""
    call = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p])(
        function.value or 0
    )
    own_weights = None if weights is None else np.ascontiguousarray(weights, dtype=_numpy_dtype(out))
    at = None if own_weights is None else _pointer(own_weights)
    flags: int = call(addresses(block), start, stop, ctypes.c_void_p(out.data_ptr()), at)
    return not flags & 1, not flags & 2


def _numpy_dtype(like: Tensor) -> npt.DTypeLike:
    return np.float64 if like.dtype == torch.float64 else np.float32


@dataclass(frozen=True, eq=False)
class Mixture:
    """A mixing matrix in the form that the kernel reads."""

    offset: npt.NDArray[np.int64]
    index: npt.NDArray[np.int64]
    factor: npt.NDArray[np.generic]
    divisor: npt.NDArray[np.generic]

    @classmethod
    def of(cls, mixing_MN: Floats, dtype: npt.DTypeLike) -> "Mixture":
        mixed, index = np.nonzero(mixing_MN)
        offset = np.searchsorted(mixed, np.arange(len(mixing_MN) + 1))
        return cls(
            offset.astype(np.int64), index.astype(np.int64), mixing_MN[mixed, index].astype(dtype), mixing_MN.sum(axis=1).astype(dtype)
        )


def run_mixed_columns(
    library: ctypes.CDLL,
    function: ctypes.c_void_p,
    block: Sequence[Tensor],
    mixing_MN: Floats,
    weights: Floats | None,
    start: int,
    stop: int,
    out: Tensor,
) -> tuple[bool, bool]:
    """`run_columns` on mixtures of the rows."""
    dtype = _numpy_dtype(out)
    mixture = Mixture.of(mixing_MN, dtype)
    own_weights = None if weights is None else np.ascontiguousarray(weights, dtype=dtype)
    flags: int = getattr(library, f"mix_{_SUFFIX[out.dtype]}")(
        addresses(block),
        _int(len(block)),
        _int(len(mixing_MN)),
        _pointer(mixture.offset),
        _pointer(mixture.index),
        _pointer(mixture.factor),
        _pointer(mixture.divisor),
        ctypes.c_int(bool((mixture.factor == 1).all())),
        function,
        None if own_weights is None else _pointer(own_weights),
        _int(start),
        _int(stop),
        ctypes.c_void_p(out.data_ptr()),
    )
    return not flags & 1, not flags & 2

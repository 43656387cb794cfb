"""Reading what lies in the memory of another process on the same host: one copy, where the object store needs two.

Linux's `process_vm_readv(2)`, as MPI libraries use it between processes of a node. The kernel lets a process read another one of the same
user; where Yama stands in the way the other one has to allow it, which `Shelf` does. Processes of different containers do not see each
other: one asks first (`can_read`), and sends through the object store where the answer is no.

What is shown may not change before it was read. A sender that gives up takes its mark away, and a reader that does not find the mark
after it has read throws away what it has: it never takes half of one vector and half of the next.
"""

import ctypes
import errno
import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Row = npt.NDArray[np.uint8]

_PR_SET_PTRACER = 0x59616D61
_PR_SET_PTRACER_ANY = -1
_MOST_SPANS = 1024
"""Pieces that the kernel reads in one call (IOV_MAX)."""
_MARK = np.dtype(np.uint64)


class Shown(NamedTuple):
    """Bytes that lie in the memory of a process, in order.

    Attributes:
        node: Ray's id of its host.
        spans: (address, bytes) of each piece.
        mark_at: address of its mark.
        mark: what stands there as long as the bytes may be read.
    """

    node: str
    pid: int
    spans: tuple[tuple[int, int], ...]
    mark_at: int
    mark: int

    @property
    def num_bytes(self) -> int:
        return sum(length for _, length in self.spans)


class Shelf:
    """What this process shows to others; any thread.

    Args:
        node: Ray's id of this host.
    """

    _marks = itertools.count(int.from_bytes(os.urandom(6), "little"))
    """No two processes that ever had the same number have the same ones."""

    def __init__(self, node: str) -> None:
        self._node = node
        libc = _libc()
        if libc is not None:  # without Yama there is nothing to allow, and the call fails
            libc.prctl(_PR_SET_PTRACER, ctypes.c_ulong(_PR_SET_PTRACER_ANY & (2**64 - 1)), 0, 0, 0)

    @contextmanager
    def show(self, rows: Sequence[Row]) -> Iterator[Shown]:
        """Let others read these rows until the block is left; nobody may write into them meanwhile."""
        mark = np.array([next(self._marks)], _MARK)
        spans = tuple((row.ctypes.data, row.nbytes) for row in rows)
        try:
            yield Shown(self._node, os.getpid(), spans, mark.ctypes.data, int(mark[0]))
        finally:
            mark[0] = 0


def check(shown: Shown, most: int) -> None:
    """What others send may claim anything: raise ValueError unless it is a list of pieces of at most so many bytes together."""
    numbers = [shown.pid, shown.mark_at, shown.mark, *(number for span in shown.spans for number in span)]
    if not all(type(number) is int and number >= 0 for number in numbers) or shown.num_bytes > most:
        raise ValueError(f"at most {most} bytes can be read from a sender's memory, and from no negative address: {shown!s:.200}")


def can_read(shown: Shown, node: str) -> bool:
    """Whether this process, on that host by Ray's account, may read what another one shows."""
    if shown.node != node:
        return False
    try:
        read(shown, np.empty(shown.num_bytes, np.uint8))
    except OSError:
        return False
    return True


def read(shown: Shown, out: Row) -> None:
    """Copy all of it into `out`, shape (shown.num_bytes,).

    Raises:
        OSError: it cannot be read, or no longer may.
    """
    done = 0
    for first in range(0, len(shown.spans), _MOST_SPANS):
        spans = shown.spans[first : first + _MOST_SPANS]
        length = sum(each for _, each in spans)
        _read(shown.pid, spans, out[done : done + length])
        done += length
    mark = np.zeros(1, _MARK)
    _read(shown.pid, [(shown.mark_at, mark.nbytes)], mark.view(np.uint8))
    if int(mark[0]) != shown.mark:
        raise OSError(errno.ESTALE, f"process {shown.pid} no longer shows what it was to be read from it")


class _Span(ctypes.Structure):
    _fields_ = (("address", ctypes.c_void_p), ("length", ctypes.c_size_t))


@cache
def _libc() -> Any:
    """The C library; None where it does not have the call (anything but Linux)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "process_vm_readv"):
        return None
    libc.process_vm_readv.restype = ctypes.c_ssize_t
    spans, count = ctypes.POINTER(_Span), ctypes.c_ulong
    libc.process_vm_readv.argtypes = [ctypes.c_int, spans, count, spans, count, ctypes.c_ulong]
    return libc


def _read(pid: int, spans: Sequence[tuple[int, int]], out: Row) -> None:
    """All bytes of at most `_MOST_SPANS` pieces; the kernel stops at 2 GiB, and between pieces where one cannot be read."""
    libc = _libc()
    if libc is None:
        raise OSError(errno.ENOSYS, "this system has no process_vm_readv")
    done = 0
    while done < len(out):
        remote = (_Span * len(spans))(*(_Span(address, length) for address, length in spans))
        got = libc.process_vm_readv(pid, _Span(out.ctypes.data + done, len(out) - done), 1, remote, len(spans), 0)
        if got <= 0:
            code = ctypes.get_errno()
            raise OSError(code, f"cannot read the memory of process {pid}: {os.strerror(code)}")
        done += got
        spans = list(_behind(spans, got))


def _behind(spans: Sequence[tuple[int, int]], num_bytes: int) -> Iterator[tuple[int, int]]:
    """What is left of the pieces after so many bytes."""
    for address, length in spans:
        taken = min(length, num_bytes)
        num_bytes -= taken
        if taken < length:
            yield address + taken, length - taken

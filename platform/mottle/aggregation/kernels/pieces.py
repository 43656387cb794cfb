"""Work on ranges of columns, cut into pieces for as many threads as torch uses.

Threads take pieces from one heap, so they end together; which thread takes which piece never matters to the result. They are torch's own
where a compiler is at hand to reach them.
"""

import ctypes
import threading
from collections.abc import Callable
from itertools import pairwise

import torch

from mottle.aggregation.kernels import toolchain
from mottle.core.layout import BLOCK

PIECE = 32 * BLOCK
"""Columns at a time for compiled kernels: long enough to forget the call, short enough that threads end together."""


def in_pieces(stop: int, size: int, work: Callable[[int, int], None]) -> None:
    """Call work(start, stop) for the pieces of [0, stop), on several threads if there are several; the first error is raised.

    Args:
        size: columns of a piece; the last one may be shorter.
    """
    pieces = list(pairwise([*range(0, stop, size), stop]))[::-1]
    errors: list[BaseException] = []

    def take() -> None:
        while not errors:
            try:
                piece = pieces.pop()
            except IndexError:
                return
            try:
                work(*piece)
            except BaseException as error:
                errors.append(error)

    _together(min(torch.get_num_threads(), len(pieces)), take)
    if errors:
        raise errors[0]


def _together(size: int, work: Callable[[], None]) -> None:
    """Call work() on so many threads, this one among them; it may raise nothing."""
    library = toolchain.request(toolchain.source("team.cpp"), threads=True) if size > 1 else None
    if library is not None:
        library.team(size, ctypes.CFUNCTYPE(None)(work))
        return
    others = [threading.Thread(target=work) for _ in range(size - 1)]
    for thread in others:
        thread.start()
    work()
    for thread in others:
        thread.join()

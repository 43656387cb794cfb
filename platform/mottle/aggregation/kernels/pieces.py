"""Work on ranges of columns, cut into pieces for as many threads as torch uses.

Threads take pieces from one heap, so they end together; which thread takes which piece never matters to the result.
"""

import threading
from collections.abc import Callable
from itertools import pairwise

import torch

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

    threads = [threading.Thread(target=take) for _ in range(min(torch.get_num_threads(), len(pieces)) - 1)]
    for thread in threads:
        thread.start()
    take()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]

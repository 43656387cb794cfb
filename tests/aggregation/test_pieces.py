"""Pieces of columns on several threads: torch's own where a compiler is at hand, others without."""

import threading
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch

from mottle.aggregation.kernels import native, toolchain
from mottle.aggregation.kernels.pieces import in_pieces


@pytest.fixture(params=["torch's threads", "threads beside them"])
def two_threads(request: pytest.FixtureRequest) -> Iterator[None]:
    own = request.param == "torch's threads"
    if own and native.statistics_library() is None:
        pytest.skip(f"no compiler: {toolchain.problem()}")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with nullcontext() if own else toolchain.disabled():
        in_pieces(2, 1, lambda start, stop: None)  # asks for the library
        toolchain.settle()
        yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_two_threads_take_every_piece_once() -> None:
    taken: list[tuple[int, int]] = []
    both = threading.Barrier(2)

    def work(start: int, stop: int) -> None:
        if start < 20:
            both.wait(timeout=60)  # the first two pieces are under way at the same time
        taken.append((start, stop))

    in_pieces(95, 10, work)
    assert sorted(taken) == [*((start, start + 10) for start in range(0, 90, 10)), (90, 95)]


@pytest.mark.usefixtures("two_threads")
def test_the_first_error_is_raised_and_ends_the_work() -> None:
    started = []

    def work(start: int, stop: int) -> None:
        started.append(start)
        raise ValueError(f"no {start}")

    with pytest.raises(ValueError, match="no "):
        in_pieces(1000, 1, work)
    assert len(started) <= 2

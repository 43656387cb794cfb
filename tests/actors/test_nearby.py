"""Reading the memory of another process on the same host."""

import multiprocessing
from collections.abc import Iterator
from multiprocessing.connection import Connection

import numpy as np
import pytest

from mottle.actors import nearby
from mottle.actors.nearby import Shelf, Shown

NODE = "this host"


@pytest.fixture
def shelf() -> Shelf:
    return Shelf(NODE)


def rows(*lengths: int) -> list[nearby.Row]:
    return [np.random.default_rng(length).integers(0, 256, length, dtype=np.uint8) for length in lengths]


def show(theirs: Connection) -> None:
    """In a process of its own: until it is told to stop."""
    with Shelf(NODE).show(rows(100_000, 1, 300_000)) as shown:
        theirs.send(shown)
        theirs.recv()


@pytest.fixture
def neighbour() -> Iterator[tuple[Shown, multiprocessing.Process]]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=show, args=(theirs,))
    process.start()
    yield ours.recv(), process
    process.kill()
    process.join()


def test_rows_of_another_process_come_in_order(neighbour: tuple[Shown, multiprocessing.Process]) -> None:
    shown, process = neighbour
    assert shown.pid == process.pid
    assert nearby.can_read(shown, NODE)
    out = np.empty(shown.num_bytes, np.uint8)
    nearby.read(shown, out)
    assert np.array_equal(out, np.concatenate(rows(100_000, 1, 300_000)))


def test_nothing_is_read_from_a_process_that_died(neighbour: tuple[Shown, multiprocessing.Process]) -> None:
    shown, process = neighbour
    process.kill()
    process.join()
    assert not nearby.can_read(shown, NODE)
    with pytest.raises(OSError, match="cannot read the memory of process"):
        nearby.read(shown, np.empty(shown.num_bytes, np.uint8))


def test_what_is_shown_no_longer_is_not_taken_though_it_can_be_read(shelf: Shelf) -> None:
    vector = rows(5000)
    with shelf.show(vector) as shown:
        assert nearby.can_read(shown, NODE)
    with shelf.show(vector) as again, pytest.raises(OSError, match="no longer shows"):
        nearby.read(shown._replace(mark_at=again.mark_at), np.empty(5000, np.uint8))


def test_memory_that_is_not_there_and_another_host_are_not_read(shelf: Shelf) -> None:
    with shelf.show(rows(5000)) as shown:
        assert not nearby.can_read(shown._replace(spans=((8, 5000),)), NODE)
        assert not nearby.can_read(shown, "another host")


def test_more_rows_than_the_kernel_takes_at_once(shelf: Shelf) -> None:
    vectors = rows(*range(2500))
    with shelf.show(vectors) as shown:
        out = np.empty(shown.num_bytes, np.uint8)
        nearby.read(shown, out)
    assert np.array_equal(out, np.concatenate(vectors))


@pytest.mark.parametrize(
    "claimed",
    [{"spans": ((1, 101),)}, {"spans": ((1, 60), (1, 60))}, {"spans": ((-1, 5),)}, {"spans": (("1", 5),)}, {"pid": 1.0}, {"mark": None}],
)
def test_claims_of_too_many_bytes_or_of_anything_but_addresses_are_refused(shelf: Shelf, claimed: dict[str, object]) -> None:
    with shelf.show(rows(100)) as shown:
        nearby.check(shown, 100)
        with pytest.raises(ValueError, match="at most 100 bytes"):
            nearby.check(shown._replace(**claimed), 100)  # type: ignore[arg-type]  # a liar's

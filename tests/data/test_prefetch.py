"""The background loader: order, bound, errors, and no thread left behind."""

import gc
import threading
from collections.abc import Iterator

import pytest

from mottle.data import DataError, Loader, Positions, Prefetcher, build


def threads() -> int:
    return sum(thread.name == "mottle-prefetch" for thread in threading.enumerate())


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    yield
    assert threads() == 0


class Gate:
    """A load that waits until it is let through, and writes down what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.started = threading.Event()
        self.open = threading.Event()

    def __call__(self, key: int) -> str:
        self.asked.append(key)
        self.started.set()
        assert self.open.wait(10)
        return f"value {key}"


def test_batches_are_loaded_in_the_background_and_taken_in_any_order() -> None:
    loader = Loader(build(list(range(20))), seed=0)
    with Prefetcher(loader.load) as prefetcher:
        first, second = Positions(0, 0, 5), Positions(0, 5, 9)
        assert prefetcher.request(first)
        assert prefetcher.request(second)
        assert prefetcher.request(first), "asked for twice is asked for once"
        assert prefetcher.take(second).tolist() == loader.load(second).tolist()
        assert prefetcher.take(first).tolist() == loader.load(first).tolist()


def test_the_shelf_is_bounded_and_what_is_waited_for_goes_first() -> None:
    gate = Gate()
    with Prefetcher(gate, depth=3) as prefetcher:
        assert [prefetcher.request(key) for key in (1, 2, 3, 4)] == [True, True, True, False]
        assert gate.started.wait(10)
        taken: list[str] = []
        taker = threading.Thread(target=lambda: taken.append(prefetcher.take(3)))
        taker.start()
        while prefetcher._shelf._futures.keys() != {1, 2}:
            pass  # the taker is about to take; nothing to wait on but this
        gate.open.set()
        taker.join()
        assert taken == ["value 3"]
        assert prefetcher.take(9) == "value 9", "what was never requested is loaded all the same"
        prefetcher.take(2)
        assert gate.asked[:2] == [1, 3]


def test_what_is_given_back_is_not_loaded() -> None:
    gate = Gate()
    with Prefetcher(gate, depth=3) as prefetcher:
        prefetcher.request(1)
        assert gate.started.wait(10)
        prefetcher.request(2)
        prefetcher.discard(2)
        prefetcher.discard(1)
        prefetcher.discard(7)
        gate.open.set()
        assert prefetcher.take(3) == "value 3"
        assert gate.asked == [1, 3]


def test_an_error_of_the_load_comes_out_with_its_place_and_the_next_range_still_loads() -> None:
    loader = Loader(build([1, 2, "three"]), seed=0, shuffle=False)
    with Prefetcher(loader.load) as prefetcher:
        prefetcher.request(Positions(4, 0, 3))
        with pytest.raises(DataError, match="cannot be collated") as caught:
            prefetcher.take(Positions(4, 0, 3))
        assert caught.value.__notes__ == ["while loading positions [0, 3) of epoch 4"]
        assert prefetcher.take(Positions(4, 0, 2)).tolist() == [1, 2]


def test_closing_wakes_who_waits_and_refuses_the_rest() -> None:
    gate = Gate()
    prefetcher = Prefetcher(gate, depth=3)
    prefetcher.request(1)
    assert gate.started.wait(10)
    caught: list[BaseException] = []

    def take() -> None:
        try:
            prefetcher.take(2)
        except RuntimeError as error:
            caught.append(error)

    taker = threading.Thread(target=take)
    taker.start()
    while not prefetcher._shelf._waiting and taker.is_alive():
        pass  # the taker is about to wait
    with pytest.raises(TimeoutError, match="loading 1 did not end within 0 s"):
        prefetcher.close(timeout_s=0)
    taker.join()
    assert "was closed, 2 will not be loaded" in str(caught[0])
    gate.open.set()
    prefetcher.close()
    for call in (prefetcher.request, prefetcher.take):
        with pytest.raises(RuntimeError, match="is closed"):
            call(5)


def test_a_prefetcher_that_is_forgotten_ends_its_thread() -> None:
    prefetcher = Prefetcher(Gate())
    thread = prefetcher._thread
    del prefetcher
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_a_depth_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="got 0"):
        Prefetcher(Gate(), depth=0)

"""Laws of the data order: a permutation every epoch, read by window, the same on every machine."""

import doctest
import hashlib
import importlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mottle.data.order
from mottle.data import Order, derive_seed, synthetic_blocks
from mottle.data.seeds import permutation

blocks = st.lists(st.integers(0, 30), max_size=12)


@given(sizes=blocks, seed=st.integers(), epoch=st.integers(0, 5), window=st.integers(1, 15), shuffle=st.booleans())
def test_the_positions_of_every_epoch_are_a_permutation_of_all_rows(
    sizes: list[int], seed: int, epoch: int, window: int, shuffle: bool
) -> None:
    order = Order(sizes, seed, epoch, window, shuffle=shuffle)
    assert order.num_positions == sum(sizes)
    assert sorted(order.rows(0, order.num_positions).tolist()) == list(range(sum(sizes)))


@given(sizes=blocks, seed=st.integers(0, 99), window=st.integers(1, 5), data=st.data())
def test_a_range_is_the_same_however_it_is_cut_and_in_whatever_order_it_is_asked(
    sizes: list[int], seed: int, window: int, data: st.DataObject
) -> None:
    whole = Order(sizes, seed, 0, window).rows(0, sum(sizes))
    order = Order(sizes, seed, 0, window)
    for _ in range(4):
        start = data.draw(st.integers(0, sum(sizes)))
        stop = data.draw(st.integers(start, sum(sizes)))
        assert order.rows(start, stop).tolist() == whole[start:stop].tolist()


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=20), seed=st.integers(0, 99), window=st.integers(1, 5))
def test_a_window_of_positions_lies_in_as_many_blocks_as_the_window_has(sizes: list[int], seed: int, window: int) -> None:
    rows = Order(sizes, seed, 0, window).rows(0, sum(sizes))
    block_at = np.repeat(np.arange(len(sizes)), sizes)[rows].tolist()
    windows: list[set[int]] = [set()]
    for block in block_at:
        if len(windows[-1] | {block}) > window:
            windows.append(set())
        windows[-1].add(block)
    assert len(windows) == -(-len(sizes) // window)
    assert sum(len(found) for found in windows) == len(sizes), "each block is read in one window only"


def test_without_shuffling_positions_are_rows() -> None:
    assert Order([3, 0, 4], seed=1, epoch=2, window_blocks=1, shuffle=False).rows(2, 6).tolist() == [2, 3, 4, 5]


def test_epochs_and_seeds_give_different_orders() -> None:
    orders = {tuple(Order([10] * 5, seed, epoch, 2).rows(0, 50).tolist()) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_a_window_of_all_blocks_is_a_uniform_shuffle() -> None:
    """Where row 0 lands over 4000 seeds, in 20 cells: chi-square with 19 degrees of freedom, 43.8 is its 0.1 % point."""
    places = [int(np.flatnonzero(Order([5] * 4, seed, 0, 4).rows(0, 20) == 0)[0]) for seed in range(4000)]
    counts = np.bincount(places, minlength=20)
    assert ((counts - 200) ** 2 / 200).sum() < 43.8


def test_a_short_range_of_a_billion_rows_touches_one_window(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = synthetic_blocks(1_000_000_000)
    sorted_sizes: list[int] = []
    monkeypatch.setattr(mottle.data.order, "permutation", lambda size, *place: (sorted_sizes.append(size), permutation(size, *place))[1])
    order = Order(sizes, 0, 0, 4)
    rows = order.rows(500_000_000, 500_000_064)
    assert sorted_sizes == [sizes.size, 4 * 4096]
    assert order.blocks(500_000_000, 500_000_064).size <= 4
    order.rows(500_000_064, 500_000_128)
    assert len(sorted_sizes) == 2, "the neighbouring range finds the window at hand"
    assert np.unique(rows).size == 64


def test_the_order_is_pinned_for_every_machine_and_version() -> None:
    """Recorded once: a change here changes the data order of every resumed run."""
    assert derive_seed(7, "sample", 1, 42) == int.from_bytes(hashlib.sha256(b"7|sample|1|42").digest()[:8], "big") >> 1
    assert Order([4, 4, 3], seed=7, epoch=1, window_blocks=2).rows(0, 11).tolist() == [5, 10, 8, 9, 6, 7, 4, 3, 0, 1, 2]


def test_another_process_computes_the_same_order() -> None:
    code = "from mottle.data import Order; print(Order([9, 9, 9], 3, 1, 2).rows(0, 27).tolist())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(Order([9, 9, 9], 3, 1, 2).rows(0, 27).tolist())


@settings(max_examples=30)
@given(num_rows=st.integers(0, 500), block_rows=st.integers(1, 100))
def test_synthetic_blocks_cover_all_rows(num_rows: int, block_rows: int) -> None:
    sizes = synthetic_blocks(num_rows, block_rows)
    assert int(sizes.sum()) == num_rows
    assert (sizes[:-1] == block_rows).all()
    assert (sizes > 0).all()


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="got -2 at block 1"):
        Order([3, -2], 0, 0, 1)
    with pytest.raises(ValueError, match="window_blocks=0"):
        Order([3], 0, 0, 0)
    with pytest.raises(ValueError, match=r"got \[2, 4\)"):
        Order([3], 0, 0, 1).rows(2, 4)
    with pytest.raises(ValueError, match="separator"):
        derive_seed(0, "a|b")


@pytest.mark.parametrize("module", ["mottle.data.order", "mottle.data.seeds"])
def test_the_examples_of_the_docstrings_run(module: str) -> None:
    assert doctest.testmod(importlib.import_module(module)).failed == 0

"""Overlap between trusted and test data: found by indices, by files, by contents."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import Subset, TensorDataset, random_split

from mottle.data import MapSource, OverlapError, assert_disjoint, build


def data(num_rows: int, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.rand(num_rows, 3, generator=generator), torch.randint(9, (num_rows,), generator=generator))


def test_parts_of_a_random_split_are_disjoint_and_so_is_other_data() -> None:
    a, b = random_split(data(50), [20, 30])
    assert_disjoint(build(a), build(b))
    assert_disjoint(build(data(50)), build(data(50, seed=1)))


def test_equal_rows_at_different_indices_of_one_dataset_are_the_users_own_split() -> None:
    whole = TensorDataset(torch.zeros(10, 2))
    assert_disjoint(build(Subset(whole, range(5))), build(Subset(whole, range(5, 10))))


@pytest.mark.parametrize("indices", [[4, 5], [5, -6]])
def test_shared_indices_are_named_also_through_nested_subsets(indices: list[int]) -> None:
    whole = data(10)
    nested = Subset(Subset(whole, [2, 3, 4]), [2])
    with pytest.raises(OverlapError, match=r"validation_data and test_data must be disjoint, .* share 1 indices, such as \[4\]"):
        assert_disjoint(build(nested), build(Subset(whole, indices)))


def test_one_dataset_twice_is_an_overlap() -> None:
    whole = data(10)
    with pytest.raises(OverlapError, match="share 10 indices"):
        assert_disjoint(build(whole), build(whole))


def test_copies_are_found_by_their_contents() -> None:
    x, y = data(200).tensors
    copy = TensorDataset(x[150:].clone(), y[150:].clone())
    with pytest.raises(
        OverlapError, match=r"50 rows of trusted are equal .* rows \[0, 1, 2, 3\] of trusted \(50 of 50 rows with 200 of 200"
    ):
        assert_disjoint(build(copy), build(lambda: data(200)), names=("trusted", "test"))


def test_a_large_copy_in_another_order_is_found_by_a_sample() -> None:
    x, y = data(5000).tensors
    order = torch.randperm(5000, generator=torch.Generator().manual_seed(0))
    with pytest.raises(OverlapError, match="1000 of 5000 rows with 1000 of 5000"):
        assert_disjoint(build(TensorDataset(x, y)), build(TensorDataset(x[order], y[order])), max_rows=1000)


def test_a_few_equal_rows_pass_for_chance() -> None:
    x, y = data(200, seed=1).tensors
    a, b = data(200).tensors
    x[7], y[7] = a[50], b[50]
    assert_disjoint(build(TensorDataset(a, b)), build(TensorDataset(x, y)))
    with pytest.raises(OverlapError, match="1 rows of"):
        assert_disjoint(build(TensorDataset(a, b)), build(TensorDataset(x, y)), max_share=0)


def test_content_is_more_than_bytes() -> None:
    def one(value: Any) -> Any:
        return MapSource([value], collate_fn=lambda samples: samples[0])

    values = [
        torch.zeros(4),
        torch.zeros(2, 2),
        torch.zeros(2, dtype=torch.float64),
        np.zeros(4),
        {"a": 0},
        {"b": 0},
        [0],
        [0, 0],
        "0",
        0,
        b"0",
    ]
    for index, value in enumerate(values):
        with pytest.raises(OverlapError):
            assert_disjoint(one(value), one(value))
        for other in values[index + 1 :]:
            assert_disjoint(one(value), one(other))


def test_a_shared_file_and_a_copied_file_are_found(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1), ("copy of a", 0)):
        values = np.random.default_rng(seed).random(30)
        pq.write_table(pa.table({"x": values}), tmp_path / f"{name}.parquet")
    a, b, copy = (str(tmp_path / f"{name}.parquet") for name in ("a", "b", "copy of a"))
    assert_disjoint(build(a), build(b))
    with pytest.raises(OverlapError, match=r"share 1 files or blocks, such as .*a.parquet"):
        assert_disjoint(build([a, b]), build(tmp_path / "a.parquet"))
    with pytest.raises(OverlapError, match="30 rows of"):
        assert_disjoint(build(copy), build([b, a]))

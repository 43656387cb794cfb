"""A Ray Dataset on a real local Ray: its blocks are the blocks, read by reference in another process."""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import ray
import ray.data
import torch

from mottle.data import DataError, Loader, OverlapError, Positions, RaySource, assert_disjoint, build

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


@pytest.fixture(scope="module")
def dataset(local_ray: None) -> Any:
    ray.data.DataContext.get_current().enable_progress_bars = False
    images = np.arange(20 * 6, dtype=np.float32).reshape(20, 2, 3)
    blocks = [
        pa.table({"row": rows, "name": [f"row {row}" for row in rows], "image": pa.FixedShapeTensorArray.from_numpy_ndarray(images[rows])})
        for rows in np.split(np.arange(20), [8, 13])
    ]
    return ray.data.from_arrow(blocks)


def test_an_epoch_is_read_by_another_process_block_by_block(dataset: Any) -> None:
    source = build(dataset)
    assert (source.num_rows, source.block_sizes.tolist()) == (20, [8, 5, 7])
    loader = Loader(source, seed=0, window_blocks=1)

    @ray.remote
    def read(loader: Loader) -> tuple[list[Any], int]:
        batches = [loader.load(Positions(0, start, start + 5)) for start in range(0, 20, 5)]
        return batches, len(loader.source._tables)  # type: ignore[attr-defined]  # a RaySource

    batches, held = ray.get(read.remote(loader))
    rows = torch.cat([batch["row"] for batch in batches])
    assert sorted(rows.tolist()) == list(range(20))
    assert [name for batch in batches for name in batch["name"]] == [f"row {row}" for row in rows.tolist()]
    assert torch.equal(torch.cat([batch["image"] for batch in batches]), torch.arange(120.0).reshape(20, 2, 3)[rows])
    assert held <= 4


def test_blocks_beyond_the_cache_are_let_go(dataset: Any) -> None:
    source = RaySource.of(dataset, cache_blocks=1)
    assert source.fetch(np.array([19, 0, 9]))["row"].tolist() == [19, 0, 9]
    assert (source.window_blocks, len(source._tables)) == (1, 1)


def test_rays_own_tensor_columns_and_a_collate_fn() -> None:
    images = ray.data.from_numpy(np.arange(24, dtype=np.float32).reshape(4, 2, 3))
    assert build(images).fetch(np.array([3, 0]))["data"].tolist() == np.arange(24.0).reshape(4, 2, 3)[[3, 0]].tolist()
    stacked = build(images, lambda rows: torch.stack([row["data"] for row in rows])).fetch(np.array([1]))
    assert stacked.shape == (1, 2, 3)


def test_pandas_blocks_are_read_too() -> None:
    source = build(ray.data.from_pandas([pd.DataFrame({"x": [1.5, 2.5], "s": ["a", "b"]}), pd.DataFrame({"x": [3.5], "s": ["c"]})]))
    assert source.block_sizes.tolist() == [2, 1]
    batch = source.fetch(np.array([2, 0]))
    assert (batch["x"].tolist(), batch["s"]) == ([3.5, 1.5], ["c", "a"])


def test_a_batch_may_be_written_to_without_changing_the_object_store(dataset: Any) -> None:
    source = build(dataset)
    source.fetch(np.array([2]))["image"].zero_()
    assert source.fetch(np.array([2]))["image"].flatten().tolist() == [12, 13, 14, 15, 16, 17]


def test_an_empty_ray_dataset_is_refused() -> None:
    with pytest.raises(DataError, match="empty Ray Dataset"):
        build(ray.data.range(4).filter(expr="id > 9"))


def test_one_ray_dataset_twice_is_an_overlap(dataset: Any) -> None:
    materialised = dataset.materialize()
    with pytest.raises(OverlapError, match="share 3 files or blocks"):
        assert_disjoint(build(materialised), build(materialised))

"""Map-style datasets and factories: fetching, collating, seeded transforms, and what is refused."""

import pickle
import random
import threading
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from mottle.data import GLOBAL_RANDOMNESS, DataError, Loader, MapSource, Positions, build, seeded_globals

BUILT: list[int] = []


class Augmented(Dataset[dict[str, Any]]):
    """Draws from all three global generators in `__getitem__`."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"row": index, "draws": torch.tensor([random.random(), np.random.rand(), float(torch.rand(()))], dtype=torch.float64)}


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


class NoLength:
    def __getitem__(self, index: int) -> int:
        return index


class Batched(Dataset[int]):
    """Reads rows together; one row fewer than asked for if told so."""

    def __init__(self, drop: int = 0) -> None:
        self.drop = drop
        self.calls: list[Any] = []

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> int:
        self.calls.append(index)
        return index

    def __getitems__(self, indices: list[int]) -> list[int]:
        self.calls.append(indices)
        return indices[self.drop :]


def squares() -> TensorDataset:
    BUILT.append(1)
    return TensorDataset(torch.arange(10), torch.arange(10) ** 2)


def ids(*rows: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array(rows, dtype=np.int64)


def test_tuple_batches_come_in_the_order_of_the_rows() -> None:
    source = build(squares())
    x, y = source.fetch(ids(3, 1, 3))
    assert (source.num_rows, source.block_sizes.tolist()) == (10, [10])
    assert x.tolist() == [3, 1, 3]
    assert y.tolist() == [9, 1, 9]


def test_dict_batches_lists_of_samples_and_a_collate_fn_of_ones_own() -> None:
    assert build(Augmented()).fetch(ids(5, 2))["row"].tolist() == [5, 2]
    numbers, letters = build([(1, "a"), (2, "b")]).fetch(ids(1, 0))
    assert (numbers.tolist(), letters) == ([2, 1], ("b", "a"))
    assert build([1.0, 2.0, 4.0], collate_fn=sum).fetch(ids(0, 2)) == 5.0


def test_a_factory_is_called_once_where_the_data_is_read_and_its_dataset_does_not_travel() -> None:
    BUILT.clear()
    source = build(squares)
    assert BUILT == []
    assert source.num_rows == 10
    source.fetch(ids(1))
    assert len(BUILT) == 1
    shipped = pickle.dumps(source)
    assert len(shipped) < 400
    there = pickle.loads(shipped)
    assert there.num_rows == 10
    assert len(BUILT) == 1, "the length travels, so nothing is built to know it"
    assert there.fetch(ids(4))[1].tolist() == [16]
    assert len(BUILT) == 2


def test_a_factory_that_gives_other_data_elsewhere_is_found_out() -> None:
    with pytest.raises(DataError, match="11 rows were announced, 10 are here"):
        MapSource(factory=squares, num_rows=11).fetch(ids(0))


@pytest.mark.parametrize("cut", [(0, 12), (0, 5, 12), (0, 1, 2, 7, 12)])
def test_a_sample_is_augmented_alike_however_the_range_is_cut_and_whatever_was_drawn_before(cut: tuple[int, ...]) -> None:
    whole = Loader(build(Augmented()), seed=3).load(Positions(0, 0, 12))
    torch.rand(len(cut))
    loader = Loader(build(Augmented()), seed=3)
    pieces = [loader.load(Positions(0, start, stop)) for start, stop in pairwise(cut)]
    assert torch.equal(torch.cat([piece["row"] for piece in pieces]), whole["row"])
    assert torch.equal(torch.cat([piece["draws"] for piece in pieces]), whole["draws"])


def test_another_epoch_seed_or_position_augments_otherwise() -> None:
    draws = [Loader(build(Augmented()), seed=s).load(Positions(e, 0, 12))["draws"] for s in (0, 1) for e in (0, 1)]
    assert torch.cat(draws).unique().numel() == 4 * 12 * 3


def test_the_global_generators_are_put_back_even_after_an_error() -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(3).tolist()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    build(Augmented()).fetch(ids(1, 2), [4, 5])
    with suppress(KeyError), seeded_globals(9):
        raise KeyError(random.random())
    assert (random.random(), np.random.rand(), torch.rand(3).tolist()) == expected


def test_a_seeded_sample_waits_for_the_thread_that_draws() -> None:
    loaded = threading.Event()

    def load() -> None:
        build(Augmented()).fetch(ids(1), [4])
        loaded.set()

    with GLOBAL_RANDOMNESS:
        thread = threading.Thread(target=load)
        thread.start()
        assert not loaded.wait(0.05)
    thread.join()
    assert loaded.is_set()


def test_a_collate_fn_that_draws_is_seeded_too() -> None:
    def mix(samples: list[int]) -> float:
        return random.random()

    loader = Loader(build(list(range(8)), collate_fn=mix), seed=0)
    assert loader.load(Positions(0, 0, 4)) == loader.load(Positions(0, 0, 4)) != loader.load(Positions(0, 4, 8))


def test_rows_are_read_one_by_one_under_seeds_and_together_without() -> None:
    dataset = Batched()
    build(dataset).fetch(ids(4, 2), [0, 1])
    build(dataset).fetch(ids(4, 2))
    assert dataset.calls == [4, 2, [4, 2]]
    with pytest.raises(DataError, match="gave 1 samples for 2 indices"):
        build(Batched(drop=1)).fetch(ids(4, 2))


def test_stored_values_are_read_without_seeding(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr("mottle.data.mapstyle.seed_globals", seeded.append)
    for dataset in (squares(), Subset(squares(), [1, 2]), [1, 2], torch.arange(3)):
        build(dataset).fetch(ids(0, 1), [4, 5])
    assert seeded == []
    build(Subset(Augmented(), [1, 2])).fetch(ids(0, 1), [4, 5])
    assert seeded == [4, 5]


def test_running_out_of_memory_is_not_blamed_on_the_data() -> None:
    def collate(samples: list[int]) -> None:
        raise MemoryError

    class Huge(Dataset[int]):
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> int:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    with pytest.raises(MemoryError):
        build([1], collate_fn=collate).fetch(ids(0))
    with pytest.raises(RuntimeError, match="can't allocate") as caught:
        build(Huge()).fetch(ids(0), [1])
    assert caught.type is RuntimeError


def test_a_source_is_taken_as_it_is_and_collates_by_itself() -> None:
    source = build(squares())
    assert build(source) is source
    with pytest.raises(DataError, match="collate_fn must be None"):
        build(source, collate_fn=list)


def test_subsets_are_datasets() -> None:
    assert build(Subset(squares(), [7, 8])).fetch(ids(1), [0])[0].tolist() == [8]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Stream(), "use a map-style dataset"),
        (iter([1, 2]), "can only be iterated"),
        (DataLoader(squares()), "pass its .dataset"),
        (NoLength(), "without __len__"),
        ({"a": 1}, "a list of samples"),
        (pa.table({"x": [1]}), "write it to a Parquet file"),
        (pd.DataFrame({"x": [1]}), "write it to a Parquet file"),
        ([], "empty list"),
        (TensorDataset(torch.zeros(0, 3)), "empty TensorDataset"),
        (3, "can only be iterated"),
    ],
)
def test_data_that_cannot_be_trained_on_says_what_to_use(data: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        build(data)


def test_a_factory_of_a_stream_is_refused_when_it_is_built() -> None:
    with pytest.raises(DataError, match="use a map-style dataset"):
        build(Stream).num_rows  # noqa: B018  # the property builds


@pytest.mark.parametrize("rows", [[10], [-1], [], [[1]], [0.5]])
def test_rows_that_are_not_there_are_named(rows: list[Any]) -> None:
    with pytest.raises(DataError, match="row"):
        build(squares()).fetch(np.array(rows))


def test_samples_that_cannot_be_collated_are_shown_without_their_contents() -> None:
    with pytest.raises(DataError, match=r"rows 0, 1 .* the first is \{'x': Tensor torch.float32 \(2,\)\}"):
        build([{"x": torch.zeros(2)}, {"x": torch.zeros(3)}]).fetch(ids(0, 1))


def test_a_row_that_cannot_be_read_is_named() -> None:
    class Broken(Dataset[int]):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> int:
            raise OSError("disk on fire")

    with pytest.raises(DataError, match=r"row 2 of .*Broken cannot be read: OSError: disk on fire"):
        build(Broken()).fetch(ids(2), [0])


def test_evaluation_goes_through_the_rows_as_they_are_stored() -> None:
    loader = Loader(build(squares()), seed=0, shuffle=False)
    assert loader.load(Positions(5, 2, 6))[0].tolist() == [2, 3, 4, 5]
    assert loader.num_positions == 10


def test_an_epoch_through_a_loader_uses_every_row_once() -> None:
    loader = pickle.loads(pickle.dumps(Loader(build(squares()), seed=0)))
    rows = torch.cat([loader.load(Positions(2, start, min(start + 3, 10)))[0] for start in range(0, 10, 3)])
    assert sorted(rows.tolist()) == list(range(10))

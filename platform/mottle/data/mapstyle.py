"""Map-style datasets: anything with `__getitem__(int)` and `__len__`, given as it is or as a factory.

A factory is called where the data is read, once a process, so that a large dataset is never shipped: only the function is.
Blocks are synthetic (any row is as cheap as any other), they only keep the order lazy.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset, default_collate

from mottle.data.errors import DataError
from mottle.data.order import IntArray, synthetic_blocks
from mottle.data.randomness import preserved_globals, seed_globals
from mottle.data.source import Batch, CollateFn, checked_rows, collate, is_out_of_memory, name_of, random_access_window

SEEDED_TOGETHER: Final = 16
"""Samples read before the global generators are put back: shares that cost, yet soon lets go of the lock for the model's thread."""


class MapSource:
    """Rows of a map-style dataset.

    Args:
        dataset: with `__len__` and `__getitem__`; travels by value, so prefer a factory for one that holds much memory.
        factory: called without arguments at first use in each process, instead of `dataset`; must be picklable by whatever
            carries the source (Ray takes lambdas and closures, plain pickle takes names of modules).
        collate_fn: list of samples -> batch.
        num_rows: length known beforehand, so that nothing need be built to know it; checked when the dataset is built.
    Raises:
        DataError: an iterable or empty dataset, no length, or a factory that needs arguments or gives a different length here.
    """

    def __init__(
        self,
        dataset: Any = None,
        *,
        factory: Callable[[], Any] | None = None,
        collate_fn: CollateFn = default_collate,
        num_rows: int | None = None,
    ) -> None:
        if (dataset is None) == (factory is None):
            raise ValueError("needs either a dataset or a factory of one")
        self.factory = factory
        self.collate_fn = collate_fn
        self._dataset = dataset
        self._num_rows = num_rows
        if dataset is not None:
            self._num_rows = self._checked_length(dataset)

    @property
    def dataset(self) -> Any:
        """The dataset of this process; built now if there is only a factory so far."""
        if self._dataset is None:
            assert self.factory is not None
            dataset = self.factory()
            self._num_rows = self._checked_length(dataset)
            self._dataset = dataset
        return self._dataset

    @property
    def num_rows(self) -> int:
        """Length of the dataset; builds it if the source was made from a factory and no length is known."""
        if self._num_rows is None:
            self._num_rows = len(self.dataset)
        return self._num_rows

    @property
    def block_sizes(self) -> IntArray:
        """Synthetic blocks."""
        return synthetic_blocks(self.num_rows)

    @property
    def window_blocks(self) -> int:
        """About a million rows: a full shuffle for smaller data."""
        return random_access_window(self.block_sizes)

    def fetch(self, rows: IntArray, sample_seeds: Sequence[int] | None = None) -> Batch:
        """See `Source.fetch`. With seeds each row is read by its own `__getitem__`, seeded; without, by `__getitems__` where there is one.

        `__getitems__` reads several rows with one stream of random numbers, so a row would depend on its neighbours. Where rows are plain
        stored values seeds change nothing and are passed over.
        """
        rows_N = checked_rows(rows, self.num_rows)
        if sample_seeds is not None and not draws_nothing(self.dataset):
            samples = self._seeded_samples(rows_N.tolist(), sample_seeds)
        elif callable(getattr(self.dataset, "__getitems__", None)):
            samples = self._read(rows_N.tolist(), self.dataset.__getitems__)
            if len(samples) != rows_N.size:
                raise DataError(
                    f"{name_of(self.dataset)}.__getitems__ gave {len(samples)} samples for {rows_N.size} indices; return one each"
                )
        else:
            samples = [self._read(row, self.dataset.__getitem__) for row in rows_N.tolist()]
        return collate(samples, rows_N, self.collate_fn, sample_seeds)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ if self.factory is None else self.__dict__ | {"_dataset": None}

    def _seeded_samples(self, rows: list[int], seeds: Sequence[int]) -> list[Any]:
        samples = []
        pairs = list(zip(rows, seeds, strict=True))
        for start in range(0, len(pairs), SEEDED_TOGETHER):
            with preserved_globals():
                for row, seed in pairs[start : start + SEEDED_TOGETHER]:
                    seed_globals(seed)
                    samples.append(self._read(row, self.dataset.__getitem__))
        return samples

    def _read(self, index: Any, read: Callable[[Any], Any]) -> Any:
        try:
            return read(index)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            what = f"row {index}" if isinstance(index, int) else f"rows {index[:4]}..."
            raise DataError(f"{what} of {name_of(self.dataset)} cannot be read: {type(error).__name__}: {error}") from error

    def _checked_length(self, dataset: Any) -> int:
        refuse_unless_map_style(dataset)
        length = len(dataset)
        if length == 0:
            raise DataError(f"needs at least one row, got an empty {name_of(dataset)}; check its path, split or filter")
        if self._num_rows is not None and length != self._num_rows:
            raise DataError(
                f"the factory {name_of(self.factory)} must give the same dataset in every process: {self._num_rows} rows were "
                f"announced, {length} are here; check that all machines see the same files"
            )
        return length


def draws_nothing(dataset: Any) -> bool:
    """Whether reading rows surely runs no code but torch's and numpy's: stored tensors, sequences of samples, or views of these.

    Exact types only, for a subclass may do anything. Saves 20 microseconds a sample, often more than reading one takes.
    """
    if type(dataset) is Subset:
        return draws_nothing(dataset.dataset)
    return type(dataset) in (TensorDataset, list, tuple, torch.Tensor, np.ndarray)


def refuse_unless_map_style(dataset: Any) -> None:
    """Raise a `DataError` that says what to use instead, unless `dataset` is map-style with a length."""
    if isinstance(dataset, DataLoader):
        raise DataError("needs a dataset, got a DataLoader; pass its .dataset and its .collate_fn, batches are cut to leases here")
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        raise DataError(
            f"needs rows that can be read by number, got {name_of(dataset)}, which can only be iterated; use a map-style dataset "
            "(__getitem__ and __len__), Parquet or Arrow files, or a Ray Dataset (ray.data.from_torch and others)"
        )
    if not hasattr(dataset, "__len__"):
        raise DataError(f"needs a dataset of known length, got {name_of(dataset)} without __len__; add one")
    if type(dataset).__module__.split(".")[0] in ("pandas", "pyarrow"):  # their [i] is a column
        raise DataError(
            f"needs rows that can be read by number, got a {name_of(dataset)} in memory; write it to a Parquet file and pass its path"
        )
    if isinstance(dataset, dict | str | bytes):
        raise DataError(f"needs a dataset of samples by number, got {name_of(dataset)}; a list of samples or a TensorDataset will do")

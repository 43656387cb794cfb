"""From what a user calls training data to a `Source`."""

from os import PathLike
from typing import Any

from torch.utils.data import DataLoader, Dataset, default_collate

from mottle.data.arrow_files import ArrowFiles
from mottle.data.errors import DataError
from mottle.data.mapstyle import MapSource
from mottle.data.ray_blocks import RaySource, is_ray_dataset
from mottle.data.source import CollateFn, Source, name_of


def build(train_data: Any, collate_fn: CollateFn | None = None) -> Source:
    """The source of `train_data`, ready to be pickled to workers.

    Args:
        train_data: one of
            - a map-style `torch.utils.data.Dataset`, or any sequence of samples;
            - a factory of one: called without arguments in each process that reads (its length is found out at first need);
            - Parquet or Arrow IPC files: a path, directory, glob or URI, a list of these, or `ArrowFiles` with options;
            - a Ray Dataset, materialised now, once;
            - a `Source`, taken as it is: one of your own, or one of ours with options (`RaySource.of(dataset, cache_blocks=8)`).
        collate_fn: list of samples -> batch. None: `torch.utils.data.default_collate` for datasets; for files and Ray Datasets a dict of
            columns (see `mottle.data.columns`).
    Raises:
        DataError: data that is empty, only iterable, of an unknown kind, or not there; a `Source` with a `collate_fn`.
    """
    if is_ray_dataset(train_data):
        return RaySource.of(train_data, collate_fn)
    if isinstance(train_data, ArrowFiles):
        return train_data.build(collate_fn)
    if _is_paths(train_data):
        return ArrowFiles(paths=train_data).build(collate_fn)
    if _is_source(train_data):
        if collate_fn is not None:
            raise DataError(f"a {name_of(train_data)} collates by itself, so collate_fn must be None; give it to the source")
        source: Source = train_data
        return source
    if callable(train_data) and not isinstance(train_data, Dataset | DataLoader):
        return MapSource(factory=train_data, collate_fn=collate_fn or default_collate)
    return MapSource(train_data, collate_fn=collate_fn or default_collate)


def _is_paths(value: Any) -> bool:
    if isinstance(value, str | PathLike):
        return True
    return isinstance(value, list | tuple) and len(value) > 0 and all(isinstance(item, str | PathLike) for item in value)


def _is_source(value: Any) -> bool:
    return all(hasattr(value, name) for name in ("num_rows", "block_sizes", "window_blocks", "fetch"))

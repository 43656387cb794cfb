"""Arrow columns to batches: a dict of one tensor or list per column.

| column | in the batch |
| --- | --- |
| bool, integers, floats | tensor (n,) of the same dtype |
| fixed-size lists of these, nested or not | tensor (n, k, ...) |
| `arrow.fixed_shape_tensor` | tensor (n, *shape) |
| lists of varying length of these | list of n tensors (k_i,) |
| everything else (strings, bytes, times, structs, ...) | list of n Python values; None where null |

Tensors own their memory: what Arrow hands out is read-only and may be a mapped file. A null in a numeric column has no value
as a tensor and is an error.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from mottle.data.errors import DataError
from mottle.data.order import IntArray
from mottle.data.source import Batch, CollateFn, collate

ColumnBatch = dict[str, Any]


def table_to_batch(table: pa.Table) -> ColumnBatch:
    """One entry per column, in the table's order.

    Raises:
        DataError: a null where a number is needed.
    """
    return {name: column_to_batch(name, table.column(name)) for name in table.column_names}


def column_to_batch(name: str, column: pa.ChunkedArray) -> Any:
    """What the table on top says of one column; `name` is for messages."""
    return _to_batch_column(name, pa.concat_arrays(column.chunks) if column.num_chunks != 1 else column.chunk(0))


def array_to_column(array: np.ndarray[Any, Any]) -> Any:
    """A column that came as a numpy array: a tensor if its dtype is numeric, else a list, with arrays in it made tensors."""
    if array.dtype.kind in "biuf":
        return _own_tensor(array)
    return [_own_tensor(item) if isinstance(item, np.ndarray) and item.dtype.kind in "biuf" else item for item in array.tolist()]


def merge(parts: list[ColumnBatch], places: list[IntArray]) -> ColumnBatch:
    """Lay the rows of `parts` together: row j of part i becomes row places[i][j]. Places are a permutation of all rows.

    A column becomes a tensor if it is one, of the same dtype and row shape, in every part; else a list.
    """
    order = np.argsort(np.concatenate(places))
    return {name: _merge_column([part[name] for part in parts], order) for name in parts[0]}


def _merge_column(columns: list[Any], order: IntArray) -> Any:
    if len({(column.dtype, column.shape[1:]) if isinstance(column, torch.Tensor) else None for column in columns} | {None}) == 2:
        return torch.cat(columns)[torch.from_numpy(order)]
    items = [item for column in columns for item in column]
    return [items[index] for index in order.tolist()]


def collate_columns(batch: ColumnBatch, rows_N: IntArray, collate_fn: CollateFn | None, sample_seeds: Sequence[int] | None) -> Batch:
    """The batch itself without a `collate_fn`; else what that makes of the rows as dicts (their tensors are views of the columns)."""
    if collate_fn is None:
        return batch
    samples = [{name: column[row] for name, column in batch.items()} for row in range(rows_N.size)]
    return collate(samples, rows_N, collate_fn, sample_seeds)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _to_batch_column(name: str, array: pa.Array) -> Any:
    kind = array.type
    if _is_number(kind):
        return _own_tensor(_without_nulls(name, array).to_numpy(zero_copy_only=False))
    if isinstance(kind, pa.FixedShapeTensorType):
        return _own_tensor(_without_nulls(name, array).to_numpy_ndarray())
    if pa.types.is_fixed_size_list(kind) and _is_number(_innermost(kind)):
        return _fixed_size_tensor(name, array)
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and _is_number(kind.value_type):
        return _ragged_tensors(name, array)
    return array.to_pylist()


def _innermost(kind: pa.DataType) -> pa.DataType:
    while pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    return kind


def _fixed_size_tensor(name: str, array: pa.Array) -> torch.Tensor:
    shape = [len(array)]
    while pa.types.is_fixed_size_list(array.type):
        shape.append(array.type.list_size)
        array = _without_nulls(name, array).flatten()
    return _own_tensor(_without_nulls(name, array).to_numpy(zero_copy_only=False)).reshape(shape)


def _ragged_tensors(name: str, array: pa.Array) -> list[torch.Tensor]:
    values = _own_tensor(_without_nulls(name, _without_nulls(name, array).flatten()).to_numpy(zero_copy_only=False))
    ends = np.cumsum(array.value_lengths().to_numpy(zero_copy_only=False)).tolist()
    return [values[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _own_tensor(array: np.ndarray[Any, Any]) -> torch.Tensor:
    return torch.from_numpy(np.array(array, order="C", copy=True))


def _without_nulls(name: str, array: pa.Array) -> pa.Array:
    if array.null_count:
        raise DataError(
            f"column {name!r} has {array.null_count} nulls among {len(array)} values of a batch, and {array.type} has no tensor for them; "
            "fill or drop these rows, or leave the column out with columns=[...]"
        )
    return array

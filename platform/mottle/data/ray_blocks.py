"""A Ray Dataset as a source: materialised once, its blocks are the blocks.

Blocks stay in Ray's object store and are read by reference, a few at a time, so the data may be larger than the memory of any
worker. The process that builds the source owns the blocks and they live as long as it does: build it in the process that
outlives the run (the coordinator's, for a detached run). A source with references travels by Ray, in the arguments of
tasks and actors, not by plain pickle.

Ray is imported at first use: who trains on files need not load it here.
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from mottle.data.columns import ColumnBatch, array_to_column, collate_columns, column_to_batch, merge
from mottle.data.errors import DataError
from mottle.data.lru import Lru
from mottle.data.order import IntArray
from mottle.data.source import Batch, CollateFn, checked_rows, split_by_block

if TYPE_CHECKING:
    import ray
    import ray.data


def is_ray_dataset(value: Any) -> bool:
    """Whether `value` is a Ray Dataset, found out without importing Ray."""
    return any(kind.__name__ == "Dataset" and kind.__module__.startswith("ray.data") for kind in type(value).__mro__)


class RaySource:
    """Rows of a materialised Ray Dataset.

    Args:
        blocks: references to Arrow tables with the same columns.
        block_rows: rows of each.
        cache_blocks: blocks held at a time, and so mixed in the shuffle. A held block stays in this node's object store.
        collate_fn: gets a list of rows as dicts; None: the columns become the batch, see `mottle.data.columns`.
    """

    def __init__(
        self, blocks: Sequence["ray.ObjectRef[pa.Table]"], block_rows: Sequence[int], *, cache_blocks: int, collate_fn: CollateFn | None
    ) -> None:
        self.blocks = tuple(blocks)
        self.block_sizes: IntArray = np.asarray(block_rows, dtype=np.int64)
        self.num_rows = int(self.block_sizes.sum())
        self.window_blocks = cache_blocks
        self.collate_fn = collate_fn
        self._block_ends_B = np.cumsum(self.block_sizes)
        self._tables: Lru[int, pa.Table] = Lru(cache_blocks)

    @classmethod
    def of(cls, dataset: "ray.data.Dataset", collate_fn: CollateFn | None = None, *, cache_blocks: int = 4) -> "RaySource":
        """Materialise `dataset` and count the rows of its blocks.

        Raises:
            DataError: a dataset without rows.
        """
        import ray

        blocks = dataset.materialize().to_arrow_refs()
        count: Any = ray.remote(num_cpus=0)(lambda table: table.num_rows)
        block_rows = ray.get([count.remote(block) for block in blocks])
        if not sum(block_rows):
            raise DataError("needs at least one row, got an empty Ray Dataset; check its source and filters")
        return cls(blocks, block_rows, cache_blocks=cache_blocks, collate_fn=collate_fn)

    def fetch(self, rows: IntArray, sample_seeds: Sequence[int] | None = None) -> Batch:
        """See `Source.fetch`; reading draws no random numbers, so seeds only reach `collate_fn`."""
        rows_N = checked_rows(rows, self.num_rows)
        parts, places = [], []
        for block, place, in_block in split_by_block(rows_N, self._block_ends_B):
            parts.append(_take(self._tables.get(block, partial(self._read, block)), in_block))
            places.append(place)
        return collate_columns(merge(parts, places), rows_N, self.collate_fn, sample_seeds)

    def _read(self, block: int) -> pa.Table:
        import ray

        try:
            return ray.get(self.blocks[block])
        except ray.exceptions.ObjectLostError as error:
            raise DataError(
                f"block {block} of the Ray Dataset is gone ({type(error).__name__}): the process that built this source, or a node with "
                "the only copy, ended; keep that process alive or train on files"
            ) from error


def _take(table: pa.Table, in_block: IntArray) -> ColumnBatch:
    """Rows of one block. Ray's own column types (tensors, Python objects) are known to Ray alone, so they go through numpy."""
    from ray.data.block import BlockAccessor

    taken = BlockAccessor.for_block(BlockAccessor.for_block(table).take(pa.array(in_block)))
    arrow = taken.to_arrow()
    return {
        field.name: array_to_column(taken.to_numpy([field.name])[field.name])
        if isinstance(field.type, pa.ExtensionType)
        else column_to_batch(field.name, arrow.column(field.name))
        for field in arrow.schema
    }

"""Parquet and Arrow IPC files as a source: a row group or a record batch is a block.

Arrow files on a local disk are memory-mapped and used where they lie; everything else is decoded block by block, and a few
decoded blocks are kept. Only paths and block sizes travel to another process.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from mottle.data.columns import collate_columns, merge, table_to_batch
from mottle.data.errors import DataError
from mottle.data.files import ArrowBlocks, DataFile, PathInput, describe, locate, open_arrow, open_parquet
from mottle.data.lru import Lru
from mottle.data.order import IntArray
from mottle.data.source import Batch, CollateFn, checked_rows, random_access_window, split_by_block

OPEN_FILES: Final = 64  # far below the usual limit of 1024 descriptors a process


@dataclass(frozen=True, kw_only=True)
class ArrowFiles:
    """Which files to train on; a bare path or list of paths stands for one with the other fields as they are here."""

    paths: PathInput | Sequence[PathInput]
    """Files, directories, globs or URIs."""
    filesystem: pafs.FileSystem | None = None
    """Where the paths lie; None: the local disk, or what a URI says."""
    columns: tuple[str, ...] | None = None
    """Columns to read; None: all."""
    cache_blocks: int = 4
    """Decoded blocks (row groups) that each worker keeps, and so mixes in the shuffle; its memory grows with it. A worker decodes every
    block of the windows it works in: row groups of some 10 to 50 MB suit both, pyarrow's default of a million rows rarely does."""

    def __post_init__(self) -> None:
        if self.cache_blocks < 1:
            raise ValueError(f"cache_blocks must be at least 1, got {self.cache_blocks}")

    def build(self, collate_fn: CollateFn | None = None) -> "FileSource":
        """Find the files and read their footers.

        Raises:
            DataError: as of `locate` and `describe`, no rows at all, or a column that is not there.
        """
        filesystem, paths = locate(self.paths, self.filesystem)
        files = describe(filesystem, paths)
        missing = sorted(set(self.columns or ()) - set(files[0].schema.names))
        if missing:
            raise DataError(f"no column {', '.join(missing)} in {files[0].path}; it has {', '.join(files[0].schema.names)}")
        return FileSource(filesystem, files, columns=self.columns, cache_blocks=self.cache_blocks, collate_fn=collate_fn)


class FileSource:
    """Rows of Parquet and Arrow IPC files with the same columns.

    Args:
        filesystem: where they lie; must be picklable, as those of `pyarrow.fs` are.
        files: at least one, with at least one row in all.
        columns: to read, in this order; None: all.
        cache_blocks: decoded blocks kept.
        collate_fn: gets a list of rows as dicts; None: the columns become the batch, see `mottle.data.columns`.
    """

    def __init__(
        self,
        filesystem: pafs.FileSystem,
        files: Sequence[DataFile],
        *,
        columns: tuple[str, ...] | None,
        cache_blocks: int,
        collate_fn: CollateFn | None,
    ) -> None:
        self.filesystem = filesystem
        self.files = tuple(files)
        self.columns = columns
        self.collate_fn = collate_fn
        self.block_sizes: IntArray = np.array([rows for file in self.files for rows in file.block_rows], dtype=np.int64)
        self.num_rows = int(self.block_sizes.sum())
        if not self.num_rows:
            raise DataError(f"needs at least one row, got {len(self.files)} files without any, such as {self.files[0].path}")
        everything_mapped = all(file.mapped for file in self.files)
        self.window_blocks = random_access_window(self.block_sizes) if everything_mapped else cache_blocks
        self._block_ends_B = np.cumsum(self.block_sizes)
        self._first_block = np.cumsum([0, *(len(file.block_rows) for file in self.files)])
        self._opened: Lru[int, pq.ParquetFile | ArrowBlocks] = Lru(OPEN_FILES)
        self._blocks: Lru[int, pa.Table] = Lru(self.window_blocks)  # mapped ones are views and cost nothing

    def fetch(self, rows: IntArray, sample_seeds: Sequence[int] | None = None) -> Batch:
        """See `Source.fetch`; reading draws no random numbers, so seeds only reach `collate_fn`."""
        rows_N = checked_rows(rows, self.num_rows)
        parts, places = [], []
        for block, place, in_block in split_by_block(rows_N, self._block_ends_B):
            parts.append(table_to_batch(self._blocks.get(block, partial(self._read, block)).take(pa.array(in_block))))
            places.append(place)
        return collate_columns(merge(parts, places), rows_N, self.collate_fn, sample_seeds)

    def _read(self, block: int) -> pa.Table:
        index = int(np.searchsorted(self._first_block, block, side="right")) - 1
        file, in_file = self.files[index], block - int(self._first_block[index])
        opened = self._opened.get(index, lambda: self._open(file))
        names = None if self.columns is None else list(self.columns)
        try:
            if isinstance(opened, ArrowBlocks):
                table = pa.Table.from_batches([opened.batch(in_file)])
                return table if names is None else table.select(names)
            read = opened.read_row_group(in_file, columns=names).combine_chunks()
        except MemoryError:  # an ArrowException too, but the data is not to blame
            raise
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"block {in_file} of {file.path} cannot be read: {error}; the file may be damaged") from error
        return read if names is None else read.select(names)  # Parquet gives columns in the file's order

    def _open(self, file: DataFile) -> pq.ParquetFile | ArrowBlocks:
        try:
            if file.kind == "parquet":
                opened = open_parquet(self.filesystem, file.path)
                rows = tuple(opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups))
            else:
                opened = ArrowBlocks(open_arrow(self.filesystem, file.path), file.kind)
                rows = opened.num_rows()
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file.path} cannot be opened on this machine: {error}; every worker needs the same files") from error
        if rows != file.block_rows:
            raise DataError(
                f"{file.path} changed since the run began: it had {sum(file.block_rows)} rows in {len(file.block_rows)} blocks, "
                f"now {sum(rows)} in {len(rows)}; write new data to new files"
            )
        return opened

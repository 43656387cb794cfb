"""A table that grows on storage that cannot append.

Rows gather in memory; `flush` writes them as the next numbered Arrow IPC file, `NAME/00000.arrow`, `NAME/00001.arrow`
and so on; `compact` joins all of them into `NAME.parquet` and removes the folder. A run that was killed is read from
its segments, and a resumed one goes on with the next number: the parquet file records how many segments it holds, so
a crash between writing it and removing them counts no row twice.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from mottle.storage.folder import Folder

FORMAT = 1
_FORMAT_KEY = b"mottle.format"
_NEXT_KEY = b"mottle.next_segment"
_ROWS_PER_GROUP = 65_536  # parquet's readers skip and decode by group; many tiny groups would defeat both


class RecordDamagedError(ValueError):
    """A file of a run's record cannot be read, and rows after it exist; leaving it out would show a false story."""


class SegmentedTable:
    """The writing side of one table. `append` may be called by one thread while another flushes.

    Args:
        folder: the run's folder.
        name: stem of the segment folder and of the parquet file.
        schema: columns of every row.
    """

    def __init__(self, folder: Folder, name: str, schema: pa.Schema) -> None:
        self._folder, self._name, self._schema = folder, name, schema
        self._rows: list[Sequence[Any]] = []
        whole = _readable_segments(folder, name)
        self._next = max(_compacted_until(folder, name), whole[-1] + 1 if whole else 0)

    @property
    def num_pending(self) -> int:
        """Rows that only this process holds."""
        return len(self._rows)

    def append(self, row: Sequence[Any]) -> None:
        """Takes one row, in the order of the schema; touches no storage."""
        self._rows.append(row)

    def flush(self) -> None:
        """Writes the pending rows as one segment. On OSError they stay pending, and the next call tries again."""
        if not (num_rows := len(self._rows)):
            return
        columns = zip(*self._rows[:num_rows], strict=True)
        batch = pa.record_batch(
            [pa.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)],
            schema=self._schema.with_metadata({_FORMAT_KEY: str(FORMAT).encode()}),
        )
        with (
            self._folder.child(self._name).writing(_segment_name(self._next)) as stream,
            pa.ipc.new_file(stream, batch.schema) as writer,
        ):
            writer.write_batch(batch)
        self._next += 1
        del self._rows[:num_rows]  # one operation, so a row appended meanwhile is kept

    def compact(self, keep: Callable[[pa.Table], pa.Table] | None = None) -> None:
        """Flushes, then joins everything written so far into one parquet file.

        Args:
            keep: passes on the rows that stay, for going back to a checkpoint; None keeps all.
        """
        self.flush()
        metadata = {_FORMAT_KEY: str(FORMAT).encode(), _NEXT_KEY: str(self._next).encode()}
        with (
            self._folder.writing(f"{self._name}.parquet") as stream,
            pq.ParquetWriter(stream, self._schema.with_metadata(metadata), compression="zstd") as writer,
        ):
            for table in _groups(iter_tables(self._folder, self._name)):
                writer.write_table((keep(table) if keep else table).replace_schema_metadata(metadata))
        self._folder.child(self._name).remove_all()


def iter_tables(folder: Folder, name: str) -> Iterator[pa.Table]:
    """Every row written so far, in order and in pieces: the parquet file first, then the segments that came after it.

    A last segment that a dying machine left torn is skipped with a warning.

    Raises:
        RecordDamagedError: a file before the last one cannot be read, or comes from a newer format.
    """
    yield from _parquet_groups(folder, name)
    numbers = [number for number in _segment_numbers(folder, name) if number >= _compacted_until(folder, name)]
    for number in numbers:
        try:
            table = _read_segment(folder.child(name), number)
        except pa.ArrowInvalid as error:
            if number != numbers[-1]:
                raise RecordDamagedError(
                    f"{folder.path}/{name}/{_segment_name(number)} cannot be read and later segments exist: {error}. "
                    "Restore that file, or delete it to accept the gap."
                ) from error
            warnings.warn(f"{folder.path}/{name}/{_segment_name(number)} is torn; its rows are left out", RuntimeWarning, stacklevel=2)
            continue
        yield table


def read_table(folder: Folder, name: str, schema: pa.Schema) -> pa.Table:
    """All rows as one table; empty when nothing was written."""
    tables = [table.replace_schema_metadata(None) for table in iter_tables(folder, name)]
    return pa.concat_tables(tables) if tables else schema.empty_table()


def _segment_name(number: int) -> str:
    return f"{number:05d}.arrow"


def _segment_numbers(folder: Folder, name: str) -> list[int]:
    stems = [file.removesuffix(".arrow") for file in folder.child(name).names() if file.endswith(".arrow")]
    return sorted(int(stem) for stem in stems if stem.isdecimal())


def _readable_segments(folder: Folder, name: str) -> list[int]:
    """Numbers of the segments, less a torn last one, whose number is then used again."""
    numbers = _segment_numbers(folder, name)
    if numbers:
        try:
            _read_segment(folder.child(name), numbers[-1])
        except pa.ArrowInvalid:
            numbers.pop()
    return numbers


def _read_segment(folder: Folder, number: int) -> pa.Table:
    with folder.open(_segment_name(number)) as source, pa.ipc.open_file(source) as reader:
        _check_format(f"{folder.path}/{_segment_name(number)}", reader.schema)
        return reader.read_all()


def _parquet_groups(folder: Folder, name: str) -> Iterator[pa.Table]:
    if folder.has(f"{name}.parquet"):
        with folder.open(f"{name}.parquet") as source:
            file = pq.ParquetFile(source)
            _check_format(f"{folder.path}/{name}.parquet", file.schema_arrow)
            for group in range(file.num_row_groups):
                yield file.read_row_group(group)


def _compacted_until(folder: Folder, name: str) -> int:
    """Number of the first segment that the parquet file does not hold."""
    if not folder.has(f"{name}.parquet"):
        return 0
    with folder.open(f"{name}.parquet") as source:
        return int((pq.read_schema(source).metadata or {}).get(_NEXT_KEY, b"0"))


def _check_format(path: str, schema: pa.Schema) -> None:
    found = (schema.metadata or {}).get(_FORMAT_KEY, b"none").decode()
    if found != str(FORMAT):
        raise RecordDamagedError(
            f"{path} has record format {found}; this Mottle reads format {FORMAT}. Read it with the version that wrote it."
        )


def _groups(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of at least a row group, but for the last."""
    held: list[pa.Table] = []
    num_rows = 0
    for table in tables:
        held.append(table.replace_schema_metadata(None))
        num_rows += table.num_rows
        if num_rows >= _ROWS_PER_GROUP:
            yield pa.concat_tables(held)
            held, num_rows = [], 0
    if held:
        yield pa.concat_tables(held)

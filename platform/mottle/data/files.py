"""Finding data files, telling their kind, and listing their blocks without reading their rows.

A path may be a file, a directory (searched to the bottom, hidden names and names that start with "_" left out), a glob, or a
URI of any `pyarrow.fs` filesystem. Files are taken in the order of their paths, so that every process numbers the rows alike; a
list keeps its own order. The names of directories ("year=2024") are not turned into columns.
"""

import fnmatch
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

from mottle.data.errors import DataError

PathInput = str | PathLike[str]
Kind = Literal["parquet", "arrow file", "arrow stream"]

DATA_SUFFIXES = (".parquet", ".pq", ".arrow", ".feather", ".ipc", ".arrows")
FOOTER_THREADS = 8  # footers of remote files are read side by side: each costs a round trip or two


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """One file as it was when the run began."""

    path: str
    """Within its filesystem."""
    kind: Kind
    block_rows: tuple[int, ...]
    """Rows of each row group (Parquet) or record batch (Arrow)."""
    mapped: bool
    """Whether its blocks are used where they lie, in a memory map, without decoding."""
    schema: pa.Schema
    """Of all its columns, without metadata."""


def locate(paths: PathInput | Sequence[PathInput], filesystem: pafs.FileSystem | None) -> tuple[pafs.FileSystem, list[str]]:
    """The filesystem and the files that `paths` name.

    Raises:
        DataError: no path, nothing found, a missing file, one that comes twice, or paths on more than one filesystem.
    """
    given = [fspath(path) for path in ([paths] if isinstance(paths, str | PathLike) else paths)]
    if not given:
        raise DataError("needs at least one path, got an empty list")
    resolved = [(filesystem, path) if filesystem is not None else _from_uri(path) for path in given]
    filesystems = [found for found, _ in resolved]
    if any(found != filesystems[0] for found in filesystems[1:]):
        raise DataError(f"needs all paths on one filesystem, got {sorted({found.type_name for found in filesystems})}; copy them to one")
    files = [file for found, path in resolved for file in _expand(found, path)]
    twice = sorted({file for file in files if files.count(file) > 1}) if len(set(files)) < len(files) else []
    if twice:
        raise DataError(f"needs each file once, for every row is used once an epoch; {twice[0]} comes {files.count(twice[0])} times")
    return filesystems[0], files


def describe(filesystem: pafs.FileSystem, paths: Sequence[str]) -> list[DataFile]:
    """Kind, blocks and schema of each file; reads footers only (an Arrow stream has none and is read through once).

    Raises:
        DataError: an unknown or broken file, or files whose columns differ.
    """
    with ThreadPoolExecutor(min(FOOTER_THREADS, len(paths))) as pool:
        files = list(pool.map(lambda path: _describe_one(filesystem, path), paths))
    first = files[0]
    for file in files[1:]:
        if not file.schema.equals(first.schema):
            raise DataError(
                f"needs the same columns in every file, but {file.path} has {_columns(file.schema)} and {first.path} has "
                f"{_columns(first.schema)}; pass only files that are alike"
            )
    return files


def open_arrow(filesystem: pafs.FileSystem, path: str) -> pa.Buffer | pa.NativeFile:
    """The whole file as a memory map if it is local; otherwise a handle that reads what is asked for."""
    if isinstance(filesystem, pafs.LocalFileSystem):
        with pa.memory_map(path) as mapped:  # the buffer keeps the map alive, not the handle
            return mapped.read_buffer()
    return filesystem.open_input_file(path)


def open_parquet(filesystem: pafs.FileSystem, path: str) -> pq.ParquetFile:
    """The Parquet file, mapped if it is local, with its reads gathered into few requests otherwise."""
    if isinstance(filesystem, pafs.LocalFileSystem):
        return pq.ParquetFile(path, memory_map=True)
    return pq.ParquetFile(filesystem.open_input_file(path), pre_buffer=True)


def _from_uri(path: str) -> tuple[pafs.FileSystem, str]:
    if "://" not in path:
        return pafs.LocalFileSystem(), str(Path(path).expanduser().absolute())
    try:
        found: tuple[pafs.FileSystem, str] = pafs.FileSystem.from_uri(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"no filesystem for {path}: {error}; pass filesystem= (any pyarrow.fs) and a path in it") from error
    return found


def _expand(filesystem: pafs.FileSystem, path: str) -> list[str]:
    if _is_glob(path) and filesystem.get_file_info(path).type == pafs.FileType.NotFound:
        pattern = PurePosixPath(path)
        depth = next(index for index, part in enumerate(pattern.parts) if _is_glob(part))
        base = str(PurePosixPath(*pattern.parts[:depth])) if depth else ""
        deep = depth + 1 < len(pattern.parts) or pattern.name == "**"
        found = [file for file in _files_under(filesystem, base, recursive=deep) if _glob_matches(file, pattern)]
        return _some(found, f"no file matches {path}; check the pattern ('*' stays within one directory, '**' does not)")
    info = filesystem.get_file_info(path)
    if info.type == pafs.FileType.NotFound:
        raise DataError(f"no file or directory {path} on the {filesystem.type_name} filesystem of this machine; check the path")
    if info.type == pafs.FileType.File:
        return [path]
    found = [file for file in _files_under(filesystem, path, recursive=True) if file.lower().endswith(DATA_SUFFIXES)]
    return _some(found, f"no data file in directory {path}; needs names that end in {', '.join(DATA_SUFFIXES)}, or give a glob")


def _is_glob(text: str) -> bool:
    return any(sign in text for sign in "*?[")


def _some(found: list[str], otherwise: str) -> list[str]:
    if not found:
        raise DataError(otherwise)
    return found


def _files_under(filesystem: pafs.FileSystem, base: str, *, recursive: bool) -> list[str]:
    skip = len(PurePosixPath(base).parts)
    infos = filesystem.get_file_info(pafs.FileSelector(base, recursive=recursive, allow_not_found=True))
    files = [info.path for info in infos if info.type == pafs.FileType.File]
    return sorted(file for file in files if not any(part[0] in "._" for part in PurePosixPath(file).parts[skip:]))


def _glob_matches(file: str, pattern: PurePosixPath) -> bool:
    """Part by part, so that "*" stays within a directory; "**" stands for any number of directories."""

    def match(parts: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
        if not wanted:
            return not parts
        if wanted[0] == "**":
            return match(parts, wanted[1:]) or (bool(parts) and match(parts[1:], wanted))
        return bool(parts) and fnmatch.fnmatchcase(parts[0], wanted[0]) and match(parts[1:], wanted[1:])

    return match(PurePosixPath(file).parts, pattern.parts)


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema)


def _describe_one(filesystem: pafs.FileSystem, path: str) -> DataFile:
    kind = _sniff(filesystem, path)
    try:
        details = _describe_parquet(filesystem, path) if kind == "parquet" else _describe_arrow(filesystem, path, kind)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} begins like a {kind} but cannot be read: {error}; it may be cut off, write it again") from error
    return DataFile(path=path, kind=kind, **details)


def _sniff(filesystem: pafs.FileSystem, path: str) -> Kind:
    with filesystem.open_input_file(path) as file:
        head = file.read(8)
    if head[:4] == b"PAR1":
        return "parquet"
    if head[:6] == b"ARROW1":
        return "arrow file"
    if head[:4] == b"\xff\xff\xff\xff":  # the continuation marker that opens every message of a stream
        return "arrow stream"
    raise DataError(
        f"{path} is neither Parquet nor Arrow IPC (it begins with {head!r}); convert it, for example with pyarrow.csv and "
        "pyarrow.parquet.write_table, or read it with ray.data.read_csv and others and pass the Ray Dataset"
    )


def _describe_parquet(filesystem: pafs.FileSystem, path: str) -> dict[str, Any]:
    with open_parquet(filesystem, path) as file:
        rows = tuple(file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))
        return {"block_rows": rows, "mapped": False, "schema": file.schema_arrow.remove_metadata()}


def _describe_arrow(filesystem: pafs.FileSystem, path: str, kind: Kind) -> dict[str, Any]:
    where = open_arrow(filesystem, path)
    blocks = ArrowBlocks(where, kind)
    mapped = isinstance(where, pa.Buffer) and blocks.lie_in(where)
    if kind == "arrow stream" and not mapped:
        raise DataError(
            f"{path} is a compressed or remote Arrow stream, whose blocks cannot be read one by one; write it in the file format "
            "(pyarrow.ipc.new_file) or as Parquet"
        )
    return {"block_rows": blocks.num_rows(), "mapped": mapped, "schema": blocks.schema.remove_metadata()}


class ArrowBlocks:
    """Record batches of one Arrow IPC file or stream by number; in a memory map and without compression they are views of it.

    Args:
        where: a buffer or handle, from `open_arrow`.
        kind: a stream is walked through now, a file is not.
    """

    def __init__(self, where: pa.Buffer | pa.NativeFile, kind: Kind) -> None:
        self._where = where
        self._reader = ipc.open_file(where) if kind == "arrow file" else ipc.open_stream(where)
        self._stream_batches = None if kind == "arrow file" else list(self._reader)
        self.schema: pa.Schema = self._reader.schema

    def num_rows(self) -> tuple[int, ...]:
        """Rows of each batch. Of a file only the first column is read: the footer has no counts."""
        if self._stream_batches is not None:
            return tuple(batch.num_rows for batch in self._stream_batches)
        reader = ipc.open_file(self._where, options=ipc.IpcReadOptions(included_fields=[0]))
        return tuple(reader.get_batch(index).num_rows for index in range(reader.num_record_batches))

    def batch(self, index: int) -> pa.RecordBatch:
        """One record batch."""
        return self._reader.get_batch(index) if self._stream_batches is None else self._stream_batches[index]

    def lie_in(self, whole: pa.Buffer) -> bool:
        """Whether every buffer of the first batch with data is a view of `whole`, not decompressed into memory of its own."""
        count = self._reader.num_record_batches if self._stream_batches is None else len(self._stream_batches)
        for batch in map(self.batch, range(count)):
            addresses = [buffer.address for column in batch.columns for buffer in column.buffers() if buffer is not None and buffer.size]
            if addresses:
                return all(whole.address <= address < whole.address + whole.size for address in addresses)
        return True

"""A run's folder on any `pyarrow.fs` filesystem, with files that are either whole or absent.

A file is written under a passing name and then moved: a disk shows a file while it grows, and object storage publishes
whatever was written when a stream is closed, even by an error. Nothing here appends: object storage cannot.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.fs as pafs

_PASSING = ".part"


@dataclass(frozen=True)
class Folder:
    """One directory of a filesystem; children share the filesystem."""

    filesystem: Any  # pyarrow.fs.FileSystem; pyarrow ships no types
    path: str

    @classmethod
    def at(cls, where: "str | Path | Folder") -> "Folder":
        """A local path (`runs/demo`), a URI that pyarrow knows (`s3://bucket/runs/demo`) or a Folder as it is."""
        if isinstance(where, Folder):
            return where
        if isinstance(where, str) and "://" in where:
            filesystem, path = pafs.FileSystem.from_uri(where)
            return cls(filesystem, path)
        return cls(pafs.LocalFileSystem(), str(Path(where).absolute()))

    @property
    def name(self) -> str:
        return self.path.rstrip("/").rsplit("/", 1)[-1]

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    def child(self, name: str) -> "Folder":
        return Folder(self.filesystem, f"{self.path}/{name}")

    def exists(self) -> bool:
        """Whether there is such a directory."""
        return bool(self.filesystem.get_file_info(self.path).type == pafs.FileType.Directory)

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return bool(self.filesystem.get_file_info(f"{self.path}/{name}").type == pafs.FileType.File)

    def names(self) -> list[str]:
        """Names of the whole files here, sorted; empty when there is no such directory."""
        found = self.filesystem.get_file_info(pafs.FileSelector(self.path, allow_not_found=True))
        return sorted(info.base_name for info in found if info.is_file and not info.base_name.endswith(_PASSING))

    def folders(self) -> list[str]:
        """Names of the directories here, sorted; empty when there is no such directory."""
        found = self.filesystem.get_file_info(pafs.FileSelector(self.path, allow_not_found=True))
        return sorted(info.base_name for info in found if info.type == pafs.FileType.Directory)

    @contextmanager
    def writing(self, name: str) -> Iterator[Any]:
        """An output stream; the file appears under `name`, replacing an older one, only when the block ends well."""
        self.filesystem.create_dir(self.path, recursive=True)
        final = f"{self.path}/{name}"
        with self.filesystem.open_output_stream(final + _PASSING) as stream:
            yield stream
        self.filesystem.move(final + _PASSING, final)

    def open(self, name: str) -> pa.NativeFile:
        """A random-access input."""
        return self.filesystem.open_input_file(f"{self.path}/{name}")

    def write_text(self, name: str, text: str) -> None:
        with self.writing(name) as stream:
            stream.write(text.encode())

    def read_text(self, name: str) -> str:
        with self.open(name) as stream:
            return cast(bytes, stream.read()).decode()

    def remove(self, name: str) -> None:
        self.filesystem.delete_file(f"{self.path}/{name}")

    def remove_all(self) -> None:
        """Deletes the directory with what it holds, if it is there."""
        if self.exists():
            self.filesystem.delete_dir(self.path)

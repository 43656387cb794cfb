"""The Python standard library's own source text, as bytes: real data that every machine with Python has.

The text is read from where the running interpreter keeps it and copied nowhere. A file is training data or held out by its name alone,
so no file is in both and machines with the same Python agree. One `uint8` vector holds all the text of a split; a sample is a window of
it, a view, so the whole data set takes one byte of memory for each byte of text.
"""

import os
import sysconfig
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

CONTEXT = 128
"""Bytes that a sample predicts, each from those before it; the longest memory of the model."""
HELD_OUT = 12
"""One file in that many is held out."""
TEST_WINDOWS = 256
"""Held-out windows that are measured, evenly spread: all of them would take longer to measure than the model to train."""
END_OF_FILE = b"\0"
"""Put before every file: what a fresh file begins with. Source text has no zero byte."""

# What somebody installed, what differs between machines, tests, and what is a table or a manual rather than a program.
_SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "encodings", "pydoc_data", "ensurepip"}


def files(held_out: bool) -> list[Path]:
    """Source files of the training text or of the held-out text, sorted by name."""
    root = Path(sysconfig.get_path("stdlib"))
    return [root / name for name in sorted(_programs(root)) if (zlib.crc32(name.encode()) % HELD_OUT == 0) == held_out]


def train_data() -> Tensor:
    """Windows of the training files: uint8, shape (windows, CONTEXT + 1)."""
    return windows(_text(held_out=False))


def test_data() -> Tensor:
    """Windows of the held-out files: uint8, shape (TEST_WINDOWS, CONTEXT + 1)."""
    every = windows(_text(held_out=True))
    return every[torch.linspace(0, len(every) - 1, TEST_WINDOWS).long()]


def windows(text: Tensor) -> Tensor:
    """All whole windows of a text, as a view of it; neighbours share a byte: the last target of one is the first input of the next."""
    return text.unfold(0, CONTEXT + 1, CONTEXT)


def _programs(root: Path) -> Iterator[str]:
    """Names of the source files, relative to the root, in no particular order."""
    for folder, folders, names in os.walk(root):
        folders[:] = set(folders) - _SKIPPED
        for name in names:
            if name.endswith(".py") and not name.startswith("_sysconfigdata"):
                yield (Path(folder) / name).relative_to(root).as_posix()


@cache
def _text(held_out: bool) -> Tensor:
    """All the text of a split, uint8, shape (bytes,)."""
    joined = bytearray()
    for path in files(held_out):
        joined += END_OF_FILE + path.read_bytes()
    return torch.frombuffer(joined, dtype=torch.uint8)

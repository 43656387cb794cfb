"""Are two sets of data disjoint? As certain an answer as a bounded reading gives.

Trusted validation data that overlaps the test data would tune the run on what it is judged by. Checked in this order; the first
that applies decides:

1. *Views of one dataset* (`torch.utils.data.Subset`, also nested, as `random_split` makes): the indices are compared, exactly. Rows
   of equal content at different indices are what the user's own split allows.
2. *Files and Ray blocks*: a file or block that is in both is an overlap.
3. *Contents*: rows are read without random transforms varying (the same seed for all), hashed and compared. Up to `max_rows` rows
   of each are read, evenly spread; with fewer rows than that on both sides the answer is exact.

What 3 lets pass: real data has a few equal rows by chance (blank images, categorical tables), so it refuses only when more than
`max_share` of the smaller set seems to be in the other. When it samples, a complete overlap of n rows shows max_rows^2 / n equal pairs
on average (16 for a million rows and the default) and fewer than three prove nothing, so overlaps of huge sets can be missed. It cannot
see that two rows are the same scene with other pixels.
"""

import hashlib
from collections import Counter
from typing import Any, Final

import numpy as np
import torch
from torch.utils.data import Subset

from mottle.data.arrow_files import FileSource
from mottle.data.errors import OverlapError
from mottle.data.mapstyle import MapSource
from mottle.data.order import IntArray
from mottle.data.ray_blocks import RaySource
from mottle.data.source import Source

MAX_ROWS: Final = 4096
MAX_SHARE: Final = 0.01
FEWEST_SAMPLED_PAIRS: Final = 3


def assert_disjoint(
    a: Source,
    b: Source,
    *,
    names: tuple[str, str] = ("validation_data", "test_data"),
    max_rows: int = MAX_ROWS,
    max_share: float = MAX_SHARE,
) -> None:
    """Raise unless `a` and `b` seem to share no rows; the check is described on top of this file.

    Args:
        a, b: sources; a factory's dataset is built here.
        names: what to call them in the message.
        max_rows: rows of each that are read at most.
        max_share: equal rows, as a share of the smaller set, that pass for chance.
    Raises:
        OverlapError: with what they share and how it was found.
    Cost: at most 2 `max_rows` single-row reads.
    """
    shared = _shared_indices(a, b)
    if shared is not None:
        if shared.size:
            raise OverlapError(_message(names, f"are views of one dataset and share {shared.size} indices, such as {shared[:4].tolist()}"))
        return
    parts = _shared_parts(a, b)
    if parts:
        raise OverlapError(_message(names, f"share {len(parts)} files or blocks, such as {parts[0]}"))
    _compare_contents(a, b, names, max_rows, max_share)


def _message(names: tuple[str, str], what: str) -> str:
    return f"{names[0]} and {names[1]} must be disjoint, but {what}; split the data (torch.utils.data.random_split) and pass separate parts"


def _shared_indices(a: Source, b: Source) -> IntArray | None:
    """Indices that both use of one underlying dataset; None if they are not views of one dataset."""
    if not (isinstance(a, MapSource) and isinstance(b, MapSource)):
        return None
    (base_a, indices_a), (base_b, indices_b) = _unwrap(a.dataset), _unwrap(b.dataset)
    return np.intersect1d(indices_a, indices_b) if base_a is base_b else None


def _unwrap(dataset: Any) -> tuple[Any, IntArray]:
    indices = np.arange(len(dataset), dtype=np.int64)
    while isinstance(dataset, Subset):
        indices = np.asarray(dataset.indices, dtype=np.int64)[indices]
        dataset = dataset.dataset
    return dataset, np.where(indices < 0, indices + len(dataset), indices)  # -1 is the last row, as in any sequence


def _shared_parts(a: Source, b: Source) -> list[str]:
    if isinstance(a, FileSource) and isinstance(b, FileSource) and a.filesystem == b.filesystem:
        return sorted({file.path for file in a.files} & {file.path for file in b.files})
    if isinstance(a, RaySource) and isinstance(b, RaySource):
        return sorted(block.hex() for block in set(a.blocks) & set(b.blocks))
    return []


def _compare_contents(a: Source, b: Source, names: tuple[str, str], max_rows: int, max_share: float) -> None:
    read_a, read_b = (np.unique(np.linspace(0, source.num_rows - 1, min(max_rows, source.num_rows)).astype(np.int64)) for source in (a, b))
    hashes_b = Counter(_row_hash(b, row) for row in read_b.tolist())
    equal = [row for row in read_a.tolist() if hashes_b[_row_hash(a, row)]]
    sampled = read_a.size < a.num_rows or read_b.size < b.num_rows
    seen = (read_a.size / a.num_rows) * (read_b.size / b.num_rows)
    share = len(equal) / seen / min(a.num_rows, b.num_rows)
    if share <= max_share or len(equal) < (FEWEST_SAMPLED_PAIRS if sampled else 1):
        return
    how = f"{read_a.size} of {a.num_rows} rows with {read_b.size} of {b.num_rows} were compared"
    raise OverlapError(
        _message(names, f"{len(equal)} rows of {names[0]} are equal to rows of {names[1]}, such as rows {equal[:4]} of {names[0]} ({how})")
    )


def _row_hash(source: Source, row: int) -> bytes:
    digest = hashlib.sha256()
    _feed(digest, source.fetch(np.array([row], dtype=np.int64), [0]))
    return digest.digest()


def _feed(digest: Any, value: Any) -> None:
    """Add a value's type, shape and content; what is neither tensor, array, container nor plain value counts by its repr."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().contiguous()
        digest.update(f"tensor {value.dtype} {tuple(value.shape)}|".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    elif isinstance(value, np.ndarray) and value.dtype != object:
        digest.update(f"array {value.dtype} {value.shape}|".encode() + np.ascontiguousarray(value).tobytes())
    elif isinstance(value, dict):
        digest.update(f"dict {len(value)}|".encode())
        for key in sorted(value, key=str):
            digest.update(f"{key!r}:".encode())
            _feed(digest, value[key])
    elif isinstance(value, list | tuple):
        digest.update(f"list {len(value)}|".encode())
        for item in value:
            _feed(digest, item)
    else:
        digest.update(f"{type(value).__name__} {value!r}|".encode())

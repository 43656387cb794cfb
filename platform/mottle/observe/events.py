"""The log of the coordinator's machine on storage: every event it handled, in order, so that a run can be replayed.

The log itself belongs to the machine and lives, replicated, with the shards; this is how it reaches storage. A body is
JSON as Python writes it: floats keep every bit, and NaN and infinities appear under those names.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mottle.observe.segments import SegmentedTable, iter_tables
from mottle.storage.folder import Folder

EVENTS = "events"
SCHEMA = pa.schema(
    [
        pa.field("seq", pa.int64(), nullable=False),
        pa.field("now_ns", pa.int64(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("body", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True)
class LoggedEvent:
    """One event as the machine saw it."""

    seq: int
    now_ns: int
    kind: str
    body: dict[str, Any]


class EventLog:
    """The writing side: segments `events/00000.arrow` and on, at the end `events.parquet`.

    Args:
        where: the run's folder: a path, a URI or a Folder.
        resume_after: position of the checkpoint a run goes on from; later events of the earlier life are dropped, since
            what they decided is not part of the model any more.
    """

    def __init__(self, where: str | Path | Folder, *, resume_after: int | None = None) -> None:
        folder = Folder.at(where)
        self._table = SegmentedTable(folder, EVENTS, SCHEMA)
        if resume_after is not None:
            self._table.compact(keep=lambda table: table.filter(pc.field("seq") <= resume_after))
        self._last_seq = max((pc.max(table["seq"]).as_py() for table in iter_tables(folder, EVENTS) if table.num_rows), default=-1)

    @property
    def num_pending(self) -> int:
        """Events that are not yet on storage."""
        return self._table.num_pending

    def append(self, seq: int, now_ns: int, kind: str, body: Mapping[str, Any]) -> None:
        """Takes one event; touches no storage, so storage that is full cannot stop a run here.

        Raises:
            ValueError: `seq` does not come after the last one.
            TypeError: `body` holds something JSON cannot say.
        """
        if seq <= self._last_seq:
            raise ValueError(f"events are logged in order: wanted a seq above {self._last_seq}, got {seq} ({kind})")
        self._table.append((seq, now_ns, kind, json.dumps(body, separators=(",", ":"))))
        self._last_seq = seq

    def flush(self) -> None:
        """Writes what is pending as one segment; on OSError it stays pending for the next call."""
        self._table.flush()

    def compact(self) -> None:
        """Joins everything into `events.parquet`; at the end of a run."""
        self._table.compact()


def last_event(where: str | Path | Folder) -> LoggedEvent | None:
    """The newest event on storage; None where there is none."""
    last = None
    for table in iter_tables(Folder.at(where), EVENTS):
        if table.num_rows:
            last = table.slice(table.num_rows - 1)
    if last is None:
        return None
    ((seq, now_ns, kind, body),) = zip(*(last.column(name).to_pylist() for name in SCHEMA.names), strict=True)
    return LoggedEvent(seq, now_ns, kind, json.loads(body))


def read_events(where: str | Path | Folder) -> Iterator[LoggedEvent]:
    """The events of a run, live, killed or ended, in order and read piece by piece."""
    for table in iter_tables(Folder.at(where), EVENTS):
        for batch in table.to_batches():
            for seq, now_ns, kind, body in zip(*(batch.column(name).to_pylist() for name in SCHEMA.names), strict=True):
                yield LoggedEvent(seq, now_ns, kind, json.loads(body))

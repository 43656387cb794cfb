"""What a worker keeps from order to order, and its part of a checkpoint: an inner optimizer's state and what its codec held back.

A copy of the inner state is made at the beginning of each order, in the host's memory; what a codec holds back is replaced, never changed,
so that keeping it costs nothing but its memory. A part holds whole vectors and fits any number of shards.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import NamedTuple

from torch import Tensor

from mottle.actors.reports import Reports
from mottle.checkpoint import WorkerPart, folder_of, read_part, write_worker
from mottle.compression import Memory
from mottle.core import protocol as p
from mottle.core.fragments import Fragments
from mottle.core.kept import KeptStates
from mottle.core.layout import Range
from mottle.core.worker import SaveState
from mottle.engines import LocalTraining
from mottle.optim.state import State, cut, join
from mottle.storage import Folder

CODEC = "codec."
Key = int | tuple[int, int]
"""A shard's range, or what a shard has of a fragment: (fragment, shard)."""


class TakeUp(NamedTuple):
    """Where a worker's part of a checkpoint lies that another worker goes on from."""

    checkpoint: int
    part: WorkerPart


class _Kept(NamedTuple):
    """At the beginning of an order."""

    inner: Mapping[str, Tensor]
    memory: Mapping[Key, Memory]


class SlotState:
    """One worker's.

    Args:
        run_dir: where checkpoints lie.
        ranges: coordinates of each shard.
        fragments: of the model, where they are sent apart.
        most: orders of the worker that may be undecided at once.
        take_up: what it goes on from; None begins anew.
    Raises:
        CheckpointError: that part is damaged.
    """

    def __init__(
        self,
        run_dir: str,
        slot: int,
        ranges: Sequence[Range],
        most: int,
        reports: Reports,
        take_up: TakeUp | None = None,
        *,
        fragments: Fragments | None = None,
    ) -> None:
        self._run = Folder.at(run_dir)
        self._slot = slot
        self._spaces: dict[str, tuple[list[Key], list[Range]]] = {CODEC: (list(range(len(ranges))), list(ranges))}
        """Prefix of names in a part -> whose memory they are, and where each lies: in the layout, or in a fragment."""
        if fragments is not None:
            self._spaces = {
                f"{CODEC}{each}.": ([(each, shard) for shard in range(len(ranges))], [fragments.owned(each, owned) for owned in ranges])
                for each in range(len(fragments))
            }
        self._reports = reports
        self._kept: KeptStates[_Kept] = KeptStates(most)
        self._local: LocalTraining | None = None
        self.lineage: int | None = None
        """Of the last order."""
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        taken = read_taken_up(run_dir, take_up)
        self._taken_up = {name: value for name, value in taken.items() if not name.startswith(CODEC)}
        self.memory: dict[Key, Memory] = {}
        """What the codec holds back of each range."""
        for prefix, (keys, spaces) in self._spaces.items():
            whole = {name.removeprefix(prefix): value for name, value in taken.items() if name.startswith(prefix)}
            self.memory |= {key: cut(whole, owned) or None for key, owned in zip(keys, spaces, strict=True)}

    def follow(self, lineage: int) -> None:
        """The next order is of this lineage: what was kept beside a model that was replaced is of no use in another."""
        if self.lineage not in (None, lineage):
            self._local, self._taken_up = None, {}
            self.memory = dict.fromkeys(self.memory)
        self.lineage = lineage

    def training(self, make: Callable[[], LocalTraining]) -> LocalTraining:
        """The worker's inner steps; made by its first order that has some, for they take memory."""
        if self._local is None:
            self._local = make()
            self._local.take_up(self._taken_up)
            self._taken_up = {}
        return self._local

    @property
    def local(self) -> LocalTraining | None:
        """Inner steps, if there have been any."""
        return self._local

    def begin(self, work_id: int) -> None:
        """An order begins with what is kept now."""
        self._kept.keep(work_id, self._now())

    def _now(self) -> _Kept:
        return _Kept(self._taken_up if self._local is None else self._local.state(), dict(self.memory))

    def save(self, order: SaveState) -> None:
        """Write the part that a checkpoint wants, in a thread of its own."""
        kept = self._kept.before(order.before)
        self._writer.submit(self._write, order.checkpoint, self._now() if kept is None else kept)

    def _write(self, checkpoint: int, kept: _Kept) -> None:
        state = dict(kept.inner)
        for prefix, (keys, spaces) in self._spaces.items():
            held_back = join([kept.memory.get(key) or {} for key in keys], spaces)
            state |= {f"{prefix}{name}": value for name, value in held_back.items()}
        self._reports.tell([write_part(self._run, self._slot, checkpoint, state)])

    def close(self) -> None:
        """Return when everything is written."""
        self._writer.shutdown()


def read_taken_up(run_dir: str, take_up: TakeUp | None) -> State:
    """What a worker goes on from; nothing where it begins anew.

    Raises:
        CheckpointError: the part is damaged.
    """
    return {} if take_up is None else read_part(folder_of(Folder.at(run_dir), take_up.checkpoint), take_up.part.saved)


def write_part(run: Folder, slot: int, checkpoint: int, state: State) -> p.SlotSaved:
    """Write a worker's part of a checkpoint, if it keeps anything; what to tell the coordinator."""
    try:
        return p.SlotSaved(slot, checkpoint, asdict(write_worker(folder_of(run, checkpoint), slot, state)) if state else {})
    except OSError as error:
        return p.SlotSaved(slot, checkpoint, error=f"{error}")

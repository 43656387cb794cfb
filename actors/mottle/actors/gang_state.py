"""What a gang keeps from order to order, an inner optimizer's state and what its codec held back, which its stages have in parts.

A stage gives its part in the whole model's coordinates (`Patch`). So parts make up a worker's part of a checkpoint, in the form that any
worker's has, and another cut of the model takes up what it needs of them.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from mottle.actors.channels import TornError
from mottle.actors.reports import Reports
from mottle.actors.slot_state import CODEC, write_part
from mottle.core import protocol as p
from mottle.core.errors import MottleError
from mottle.core.layout import Range, Slice
from mottle.core.worker import SaveState
from mottle.optim.state import State
from mottle.storage import Folder


class StageFailedError(MottleError):
    """A stage failed or died in the middle of an order."""


Place = tuple[Slice, Slice]
"""A tensor in the whole model's vector, and in the stage's."""


class Patch(NamedTuple):
    """A stretch of a vector that is kept, or a number that belongs to no coordinate."""

    name: str
    start: int | None
    """Coordinate of the whole model; None of a number."""
    values: Tensor


def is_inner(patch: Patch) -> bool:
    """Whether it is of an inner optimizer, not of a codec."""
    return not patch.name.startswith(CODEC)


def patches_of(state: State, places: Iterable[Place]) -> list[Patch]:
    """A stage's state, of these tensors."""
    numbers = [Patch(name, None, value) for name, value in state.items() if value.dim() == 0]
    vectors = {name: value for name, value in state.items() if value.dim()}
    return numbers + [Patch(name, whole.start, value[here.start : here.stop]) for whole, here in places for name, value in vectors.items()]


def patches_in(state: State) -> list[Patch]:
    """A whole worker's state."""
    return [Patch(name, 0 if value.dim() else None, value) for name, value in state.items()]


def state_of(patches: Sequence[Patch], places: Iterable[Place], size: int) -> State:
    """A stage's state out of what there is: zeros where nothing is, and nothing at all where nothing is of its tensors.

    Args:
        size: of the stage's vector.
    """
    found: State = {}
    for whole, here in places:
        for patch in patches:
            for low, high in _shared(patch, whole.start, whole.stop):
                vector = found.setdefault(patch.name, patch.values.new_zeros(size))
                vector[here.start + low - whole.start : here.start + high - whole.start] = _stretch(patch, low, high)
    return found | _numbers(patches) if found else {}


def stretch_of(patches: Sequence[Patch], owned: Range) -> State:
    """What there is of these coordinates, as `state_of`."""
    found: State = {}
    for patch in patches:
        for low, high in _shared(patch, owned.start, owned.stop):
            vector = found.setdefault(patch.name, patch.values.new_zeros(owned.size))
            vector[low - owned.start : high - owned.start] = _stretch(patch, low, high)
    return found | _numbers(patches) if found else {}


def whole_of(patches: Sequence[Patch], size: int) -> State:
    """The worker's state. Of a number that stages tell differently, because one began later, the largest."""
    vectors = stretch_of(patches, Range(0, size))
    return _numbers(patches) | vectors


class GangState:
    """A gang's part of checkpoints; in the leader's process, beside its gang.

    Args:
        run_dir: where checkpoints lie.
        size: of the model's vector.
        keep: has every stage keep what an order begins with.
        kept: patches of all stages, as they were before an order.
        forget: has every stage begin anew.
    """

    def __init__(
        self,
        run_dir: str,
        slot: int,
        size: int,
        reports: Reports,
        keep: Callable[[int], None],
        kept: Callable[[int], Sequence[Patch]],
        forget: Callable[[], None],
    ) -> None:
        self._run, self._slot, self._size, self._reports = Folder.at(run_dir), slot, size, reports
        self._keep, self._kept, self._forget = keep, kept, forget
        self.lineage: int | None = None
        """Of the last order."""
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")

    def follow(self, lineage: int) -> None:
        """The next order is of this lineage: what was kept beside a model that was replaced is of no use in another."""
        if self.lineage not in (None, lineage):
            self._forget()
        self.lineage = lineage

    def begin(self, work_id: int) -> None:
        """An order begins with what is kept now."""
        self._keep(work_id)

    def save(self, order: SaveState) -> None:
        """Gather the part that a checkpoint wants, and write it in a thread of its own."""
        try:
            patches = self._kept(order.before)
        except (StageFailedError, TornError) as error:  # the checkpoint is tried again, when the gang stands again
            self._reports.tell([p.SlotSaved(self._slot, order.checkpoint, error=f"{error}")])
            return
        self._writer.submit(self._write, order.checkpoint, patches)

    def _write(self, checkpoint: int, patches: Sequence[Patch]) -> None:
        self._reports.tell([write_part(self._run, self._slot, checkpoint, whole_of(patches, self._size))])

    def close(self) -> None:
        """Return when everything is written."""
        self._writer.shutdown()


def _shared(patch: Patch, start: int, stop: int) -> Iterable[tuple[int, int]]:
    if patch.start is not None:
        low, high = max(patch.start, start), min(patch.start + len(patch.values), stop)
        if low < high:
            yield low, high


def _stretch(patch: Patch, low: int, high: int) -> Tensor:
    assert patch.start is not None
    return patch.values[low - patch.start : high - patch.start]


def _numbers(patches: Sequence[Patch]) -> State:
    found: State = {}
    for patch in patches:
        if patch.start is None:
            found[patch.name] = torch.maximum(found.get(patch.name, patch.values), patch.values)
    return found

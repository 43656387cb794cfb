"""What a worker keeps from order to order, written and taken up without a cluster."""

from pathlib import Path
from typing import Any

import torch

from mottle.actors.slot_state import SlotState, TakeUp
from mottle.checkpoint import Saved, WorkerPart
from mottle.core import protocol as p
from mottle.core import worker as w
from mottle.core.layout import Range


class Told:
    """In the place of the line to the coordinator."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def tell(self, events: list[Any]) -> None:
        self.events += events


def kept_by(folder: Path, ranges: list[Range], take_up: TakeUp | None = None, most: int = 1) -> tuple[SlotState, Told]:
    told: Any = Told()
    return SlotState(str(folder), 3, ranges, most, told, take_up), told


def test_what_a_codec_held_back_is_saved_as_it_was_before_the_order_and_fits_other_shards(tmp_path: Path) -> None:
    state, told = kept_by(tmp_path, [Range(0, 4), Range(4, 6)])
    state.memory = {0: {"residual": torch.arange(4.0)}, 1: {"residual": torch.tensor([4.0, 5.0])}}
    state.begin(7)
    state.memory[0] = {"residual": torch.zeros(4)}  # the update of order 7, which is undecided
    state.save(w.SaveState(1, 7))
    state.close()
    (saved,) = told.events
    assert (saved.worker, saved.checkpoint, saved.saved["file"]) == (3, 1, "worker-00003.safetensors")
    part = WorkerPart(3, "workers", Saved(**saved.saved))
    other, _ = kept_by(tmp_path, [Range(0, 1), Range(1, 6)], TakeUp(1, part))
    assert [memory["residual"].tolist() for memory in other.memory.values() if memory] == [[0.0], [1.0, 2.0, 3.0, 4.0, 5.0]]
    other.close()


def test_whoever_keeps_nothing_writes_nothing(tmp_path: Path) -> None:
    state, told = kept_by(tmp_path, [Range(0, 4)])
    state.begin(0)
    state.save(w.SaveState(1, 5))
    state.close()
    assert told.events == [p.SlotSaved(3, 1)]
    assert not (tmp_path / "checkpoints").exists()


def test_a_part_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where a folder is wanted")
    state, told = kept_by(tmp_path, [Range(0, 1)])
    state.memory = {0: {"residual": torch.ones(1)}}
    state.save(w.SaveState(2, 0))
    state.close()
    (failed,) = told.events
    assert (failed.checkpoint, failed.saved) == (2, {})
    assert failed.error

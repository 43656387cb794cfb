"""What the stages of a gang keep, put together and taken apart again along other cuts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mottle.actors.gang_state import GangState, Patch, StageFailedError, patches_in, patches_of, state_of, stretch_of, whole_of
from mottle.checkpoint import Saved, folder_of, read_part
from mottle.core import protocol as p
from mottle.core.layout import Entry, Layout, Range, Slice, pack
from mottle.core.worker import SaveState
from mottle.storage import Folder


def layout_of(sizes: list[int]) -> Layout:
    return pack([Entry(f"t{number}", (size,), "float32", 0) for number, size in enumerate(sizes)], [], dtype="float32")


def places(whole: Layout, own: set[int]) -> list[tuple[Slice, Slice]]:
    """Of a stage that has these tensors."""
    pieces = [piece for number, piece in enumerate(whole.slices) if number in own]
    if not pieces:
        return []
    here = pack([Entry(piece.name, piece.shape, "float32", 0) for piece in pieces], [], dtype="float32")
    return list(zip(pieces, here.slices, strict=True))


def size_of(stage: list[tuple[Slice, Slice]]) -> int:
    return max((here.stop for _, here in stage), default=0)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.data())
def test_what_stages_keep_fits_every_other_cut(sizes: list[int], data: st.DataObject) -> None:
    whole = layout_of(sizes)
    wanted_D = torch.arange(1.0, whole.size + 1)
    old, new = (data.draw(st.lists(st.integers(0, 2), min_size=len(sizes), max_size=len(sizes))) for _ in range(2))

    def stages(cut: list[int]) -> list[list[tuple[Slice, Slice]]]:
        return [places(whole, {t for t, stage in enumerate(cut) if stage == s}) for s in range(3)]

    def kept(stage: list[tuple[Slice, Slice]], vector_D: Tensor) -> dict[str, Tensor]:
        own = torch.zeros(size_of(stage))
        for there, here in stage:
            own[here.start : here.stop] = vector_D[there.start : there.stop]
        return {"inner.momentum": own, "inner.step.0": torch.tensor(3.0)}

    patches = [patch for stage in stages(old) if stage for patch in patches_of(kept(stage, wanted_D), stage)]
    for stage in stages(new):
        if stage:
            torch.testing.assert_close(state_of(patches, stage, size_of(stage)), kept(stage, wanted_D))
    saved = whole_of(patches, whole.size)
    for stage in stages(new):
        if stage:
            torch.testing.assert_close(state_of(patches_in(saved), stage, size_of(stage)), kept(stage, wanted_D))


def test_what_a_lost_stage_kept_is_zero_and_a_stage_of_which_nothing_is_left_begins_anew() -> None:
    whole = layout_of([2, 3, 2])
    left = [Patch("inner.v", 0, torch.ones(2)), Patch("inner.step.0", None, torch.tensor(4.0))]
    both = places(whole, {0, 1})
    found = state_of(left, both, size_of(both))
    assert found["inner.v"].tolist() == [1, 1, 0, 0, 0]
    assert found["inner.step.0"] == 4
    assert state_of(left, places(whole, {2}), 2) == {}


def test_what_a_codec_held_back_goes_with_its_coordinates() -> None:
    patches = [Patch("residual", 0, torch.arange(4.0)), Patch("residual", 4, torch.arange(4.0, 8.0))]
    assert stretch_of(patches, Range(2, 6))["residual"].tolist() == [2, 3, 4, 5]
    assert stretch_of(patches, Range(8, 9)) == {}


class Told:
    """In the place of the line to the coordinator."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def tell(self, events: list[Any]) -> None:
        self.events += events


def test_a_gang_writes_one_part_and_says_why_where_a_stage_is_lost_meanwhile(tmp_path: Path) -> None:
    told: Any = Told()
    asked: list[int] = []

    def kept(before: int) -> list[Patch]:
        asked.append(before)
        if before == 9:
            raise StageFailedError("stage 1: died")
        return [Patch("inner.v", 0, torch.ones(2)), Patch("inner.v", 2, torch.full((1,), 2.0))]

    forgotten: list[str] = []
    state = GangState(str(tmp_path), 5, 4, told, asked.append, kept, lambda: forgotten.append("all"))
    for lineage in (3, 3, 4):
        state.follow(lineage)
    assert forgotten == ["all"]
    state.begin(7)
    state.save(SaveState(1, 7))
    state.save(SaveState(2, 9))
    state.close()
    failed, saved = sorted(told.events, key=lambda event: event.error, reverse=True)
    assert asked == [7, 7, 9]
    assert failed == p.SlotSaved(5, 2, error="stage 1: died")
    part = read_part(folder_of(Folder.at(str(tmp_path)), 1), Saved(**saved.saved))
    assert {name: value.tolist() for name, value in part.items()} == {"inner.v": [1, 1, 2, 0]}


def test_of_a_number_that_stages_tell_differently_the_largest_is_saved() -> None:
    steps = [Patch("inner.step.0", None, torch.tensor(float(number))) for number in (3, 7, 5)]
    assert whole_of(steps, 2)["inner.step.0"] == pytest.approx(7)

"""Models side by side: where they lie, whose metrics are shown, and which one is handed out."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mottle.core.errors import ConfigError
from mottle.core.layout import BLOCK, BUFFER_GROUP, Entry, GroupRange, Layout, Range, pack
from mottle.core.rotation import Rotation, chosen, merged

ONE = pack(
    [Entry("w", (BLOCK + 5,), "float32"), Entry("b", (3,), "float32", 1)],
    [Entry("mean", (7,), "float32")],
    aliases={"tied": "w"},
)


def test_two_models_lie_one_behind_the_other_and_their_buffers_behind_both() -> None:
    rotation = Rotation(ONE, 2)
    stacked = rotation.stacked
    assert [(piece.name, piece.start, piece.stop, piece.group) for piece in stacked.slices] == [
        ("0.w", 0, BLOCK + 5, 1),
        ("0.b", BLOCK + 5, BLOCK + 8, 3),
        ("1.w", 2 * BLOCK, 3 * BLOCK + 5, 2),
        ("1.b", 3 * BLOCK + 5, 3 * BLOCK + 8, 4),
        ("0.mean", 4 * BLOCK, 4 * BLOCK + 7, BUFFER_GROUP),
        ("1.mean", 5 * BLOCK, 5 * BLOCK + 7, BUFFER_GROUP),
    ]
    assert (stacked.num_params, stacked.size) == (3 * BLOCK + 8, 5 * BLOCK + 7)
    assert stacked.aliases == {"0.tied": "0.w", "1.tied": "1.w"}
    assert rotation.fragments.ranges == (
        (Range(0, 2 * BLOCK), Range(4 * BLOCK, 4 * BLOCK + 7)),
        (Range(2 * BLOCK, 4 * BLOCK), Range(5 * BLOCK, 5 * BLOCK + 7)),
    )
    assert Layout.from_json(stacked.to_json()) == stacked


def test_without_buffers_a_model_is_one_piece_and_the_gap_behind_it_is_in_no_group() -> None:
    rotation = Rotation(pack([Entry("w", (5,), "float32")]), 3)
    assert rotation.fragments.ranges == ((Range(0, 5),), (Range(BLOCK, BLOCK + 5),), (Range(2 * BLOCK, 2 * BLOCK + 5),))
    assert rotation.stacked.group_ranges == (
        GroupRange(0, 5, 1),
        GroupRange(BLOCK, BLOCK + 5, 2),
        GroupRange(2 * BLOCK, 2 * BLOCK + 5, 3),
    )


sizes = st.lists(st.integers(1, 3 * BLOCK), min_size=1, max_size=3)


@given(sizes, st.one_of(st.just([]), sizes), st.integers(2, 4), st.integers(1, 6))
def test_however_the_shards_are_cut_each_model_is_its_own_layout_and_nobody_elses(
    parameters, buffers, number: int, num_shards: int
) -> None:
    entries = [
        [Entry(f"{kind}{i}", (size,), "float32") for i, size in enumerate(each)] for kind, each in (("p", parameters), ("b", buffers))
    ]
    one = pack(*entries)
    rotation = Rotation(one, number)
    stacked, fragments = rotation.stacked, rotation.fragments
    for model in range(number):
        assert fragments.size(model) == one.size
        spaces = [fragments.owned(model, owned) for owned in stacked.cut(num_shards)]
        assert spaces[0].start == 0
        assert spaces[-1].stop == one.size
        places = [place for piece in fragments.ranges[model] for place in range(piece.start, piece.stop)]
        for piece in one.slices:
            (there,) = (each for each in stacked.slices if each.name == f"{model}.{piece.name}")
            assert (places[piece.start], places[piece.stop - 1]) == (there.start, there.stop - 1)
    taken = sorted((piece.start, piece.stop) for pieces in fragments.ranges for piece in pieces)
    assert all(stop <= start for (_, stop), (start, _) in pairwise(taken)), "two models share coordinates"


# --- which one is shown -----------------------------------------------------------------------------------------------------------------


def test_the_best_models_metrics_stand_for_all_and_each_ones_beside_them() -> None:
    measured = [{"test_loss": 0.5, "test_accuracy": 0.8}, {"test_loss": 0.4, "test_accuracy": 0.7}]
    assert merged(measured) == {
        "test_loss": 0.4,
        "test_accuracy": 0.7,
        "best_model": 1.0,
        "test_loss/0": 0.5,
        "test_accuracy/0": 0.8,
        "test_loss/1": 0.4,
        "test_accuracy/1": 0.7,
    }
    assert merged([{}, {}]) == {}


def test_validation_data_choose_the_best_where_there_are_some() -> None:
    found = merged([{"test_loss": 0.5}, {"test_loss": 0.4}], [0.1, 0.2])
    assert (found["best_model"], found["test_loss"], found["validation_loss/1"]) == (0.0, 0.5, 0.2)


@pytest.mark.parametrize(("losses", "best"), [([math.nan, 3.0], 1), ([math.inf, 3.0], 1), ([math.nan, math.nan], 0), ([2.0, 2.0], 0)])
def test_a_model_that_is_not_a_number_is_best_only_if_all_are(losses, best: int) -> None:
    assert merged([{"test_loss": loss} for loss in losses])["best_model"] == best


def test_the_model_that_is_wanted_is_the_named_one_or_the_best() -> None:
    assert [chosen(None, 1, {}), chosen(0, 1, {}), chosen(None, 3, {"best_model": 2.0}), chosen(1, 3, {"best_model": 2.0})] == [0, 0, 2, 1]
    with pytest.raises(ConfigError, match="no model 3: they are 0 to 2"):
        chosen(3, 3, {})
    with pytest.raises(ConfigError, match="the run trains one, model 0"):
        chosen(1, 1, {})
    with pytest.raises(ConfigError, match="none of the 2 models was evaluated"):
        chosen(None, 2, {"samples": 3.0})

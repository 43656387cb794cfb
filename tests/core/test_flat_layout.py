"""The flat layout: places, cuts, groups and its written form."""

import json
import math
import pickle
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mottle.core.errors import ConfigError
from mottle.core.layout import BLOCK, BUFFER_GROUP, Entry, GroupRange, Layout, Range, Slice, pack, round_up

shapes = st.lists(st.integers(0, 90), max_size=3).map(tuple)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Any sound layout of at most some hundred thousand coordinates."""
    parameters = [Entry(f"p{i}", shape, "float32", draw(st.integers(0, 2))) for i, shape in enumerate(draw(st.lists(shapes, max_size=6)))]
    buffers = [Entry(f"b{i}", shape, "float32") for i, shape in enumerate(draw(st.lists(shapes, max_size=3)))]
    last = Entry("last", (draw(st.integers(1, 3 * BLOCK)),), "float32")
    return pack([*parameters, last], buffers, aliases={"tied": "last"})


def small() -> Layout:
    """Two groups and a tail; the worked example of this file."""
    return pack(
        [Entry("w", (3, 5), "float32"), Entry("b", (3,), "float32", 1), Entry("scale", (), "bfloat16", 1), Entry("v", (2, 2), "float32")],
        [Entry("mean", (3,), "float32"), Entry("var", (3,), "float32")],
    )


def test_parameters_come_first_and_buffers_start_at_the_next_block() -> None:
    layout = small()
    assert [(piece.name, piece.start, piece.stop) for piece in layout.slices] == [
        ("w", 0, 15),
        ("b", 15, 18),
        ("scale", 18, 19),
        ("v", 19, 23),
        ("mean", 4096, 4099),
        ("var", 4099, 4102),
    ]
    assert (layout.num_params, layout.tail_start, layout.size) == (23, 4096, 4102)


def test_a_model_without_buffers_has_no_tail() -> None:
    layout = pack([Entry("w", (5,), "float32")])
    assert (layout.num_params, layout.tail_start, layout.size) == (5, 5, 5)


def test_neighbours_of_one_group_are_one_range_and_the_gap_is_in_none() -> None:
    assert small().group_ranges == (
        GroupRange(0, 15, 0),
        GroupRange(15, 19, 1),
        GroupRange(19, 23, 0),
        GroupRange(4096, 4102, BUFFER_GROUP),
    )
    assert small().num_groups == 2


def test_groups_and_parameters_of_a_shard_are_counted_from_its_start() -> None:
    layout = pack([Entry("w", (5000,), "float32"), Entry("b", (4000,), "float32", 1)], [Entry("mean", (7,), "float32")])
    first, second, third, fourth = layout.cut(4)
    assert [first, second, third, fourth] == [Range(0, 4096), Range(4096, 8192), Range(8192, 12288), Range(12288, 12295)]
    assert layout.groups_in(first) == (GroupRange(0, 4096, 0),)
    assert layout.groups_in(second) == (GroupRange(0, 904, 0), GroupRange(904, 4096, 1))
    assert layout.groups_in(third) == (GroupRange(0, 808, 1),)
    assert layout.groups_in(fourth) == (GroupRange(0, 7, BUFFER_GROUP),)
    assert [layout.params_in(piece).size for piece in (first, second, third, fourth)] == [4096, 4096, 808, 0]


@given(layout=layouts(), num_shards=st.integers(1, 40))
def test_a_cut_covers_the_vector_in_order_at_blocks_and_is_balanced(layout: Layout, num_shards: int) -> None:
    ranges = layout.cut(num_shards)
    assert len(ranges) == num_shards
    assert ranges[0].start == 0
    assert ranges[-1].stop == layout.size
    assert all(left.stop == right.start for left, right in pairwise(ranges))
    assert all(piece.start % BLOCK == 0 or piece.start == layout.size for piece in ranges)
    blocks = [round_up(piece.size) // BLOCK for piece in ranges]
    assert max(blocks) - min(blocks) <= 1


@given(layout=layouts(), num_shards=st.integers(1, 9))
def test_every_coordinate_of_a_slice_is_in_its_group_once_however_it_is_cut(layout: Layout, num_shards: int) -> None:
    owner = [None] * layout.size
    for piece in layout.cut(num_shards):
        for run in layout.groups_in(piece):
            for at in range(piece.start + run.start, piece.start + run.stop):
                assert owner[at] is None
                owner[at] = run.group  # type: ignore[call-overload]  # a list of None, filled with integers
    expected: list[int | None] = [None] * layout.size
    for each in layout.slices:
        expected[each.start : each.stop] = [each.group] * each.size
    assert owner == expected


@given(layout=layouts(), num_shards=st.integers(1, 9))
def test_parameters_of_the_shards_add_up(layout: Layout, num_shards: int) -> None:
    assert sum(layout.params_in(piece).size for piece in layout.cut(num_shards)) == layout.num_params


@given(layout=layouts())
def test_written_and_read_again_a_layout_is_the_same(layout: Layout) -> None:
    again = Layout.from_json(layout.to_json())
    assert again == layout
    assert again.digest == layout.digest
    assert hash(again) == hash(layout)
    assert pickle.loads(pickle.dumps(layout)) == layout


def test_the_digest_tells_layouts_apart() -> None:
    base = [Entry("w", (2, 3), "float32")]
    others = [
        pack([Entry("w", (3, 2), "float32")]),
        pack([Entry("u", (2, 3), "float32")]),
        pack([Entry("w", (2, 3), "float32", 0)], dtype="float64"),
        pack(base, aliases={"v": "w"}),
        pack(base, [Entry("mean", (1,), "float32")]),
    ]
    assert len({pack(base).digest, *(layout.digest for layout in others)}) == 6


def test_a_cut_into_no_shard_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 shard, got 0"):
        small().cut(0)


@pytest.mark.parametrize("entries", [[], [Entry("empty", (0, 3), "float32")]])
def test_a_model_that_learns_nothing_is_refused(entries: list[Entry]) -> None:
    with pytest.raises(ConfigError, match="no trainable parameter"):
        pack(entries)


def test_all_contradictions_are_reported_at_once() -> None:
    slices = (Slice("w", 0, (3,), "float32", 0, "parameter"), Slice("w", 5, (2,), "float32", -1, "parameter"))
    with pytest.raises(ValueError, match=r"names used twice: w; aliases .* x; .* group of the wrong kind: w; w starts at 5, not at 3"):
        Layout(slices, num_params=7, size=7, dtype="float32", aliases={"x": "y"})


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (4, 3)])
def test_a_range_runs_forward_from_zero_or_later(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match="0 <= start <= stop"):
        Range(start, stop)


def spoilt(**changes: Any) -> str:
    return json.dumps({**json.loads(small().to_json()), **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "format 1 was wanted, got 'list'"),
        (spoilt(format=2), "format 1 was wanted, got 2"),
        (spoilt(size=None), "no integer"),
        (spoilt(size=True), "no integer"),
        (spoilt(num_params=4.0), "no integer"),
        (spoilt(num_params=24), "end at 23, not at 24"),
        (spoilt(size=10**18), "buffers end at 4102"),
        (spoilt(slices=[{}]), "KeyError"),
        (spoilt(slices=[]), "end at 0, not at 23"),
        (spoilt(aliases=[]), "AttributeError"),
        (spoilt(dtype="float16"), "float32 or float64, not 'float16'"),
        ("{", "Expecting property name"),
    ],
)
def test_a_spoilt_text_is_refused_with_the_place(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Layout.from_json(text)


def test_a_huge_shape_in_a_text_allocates_nothing() -> None:
    body = json.loads(small().to_json())
    body["slices"][0]["shape"] = [2**40, 2**40]
    with pytest.raises(ValueError, match="not a layout"):
        Layout.from_json(json.dumps(body))
    assert math.prod(body["slices"][0]["shape"]) == 2**80

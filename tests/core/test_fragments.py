"""Which blocks of the flat vector belong to which fragment."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mottle.core.errors import ConfigError
from mottle.core.fragments import Fragmentation, Fragments, fragments_of
from mottle.core.layout import BLOCK, Entry, Layout, Range, pack


def blocks(*sizes: tuple[str, int], buffers: tuple[tuple[str, int], ...] = ()) -> Layout:
    """A model of tensors that are so many blocks long."""
    return pack(*([Entry(name, (round(size * BLOCK),), "float32") for name, size in each] for each in (sizes, buffers)))


def places(fragments: Fragments) -> list[list[tuple[int, int]]]:
    """Blocks of each fragment, as ranges."""
    return [[(piece.start // BLOCK, -(-piece.stop // BLOCK)) for piece in pieces] for pieces in fragments.ranges]


GPT = blocks(("embedding", 2), ("blocks.0.a", 1), ("blocks.0.b", 1), ("blocks.1.a", 1), ("blocks.2.a", 1), ("blocks.3.a", 1), ("norm", 1))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("strided", [[(0, 4), (5, 6)], [(4, 5), (6, 8)]]), ("sequential", [[(0, 5)], [(5, 8)]])],
)
def test_layers_are_dealt_out_with_the_embedding_at_the_first_and_the_head_at_the_last_fragment(pattern, expected) -> None:
    assert places(fragments_of(GPT, Fragmentation(number=2, pattern=pattern))) == expected


def test_a_block_goes_where_most_of_it_belongs() -> None:
    layout = blocks(("layers.0", 1.25), ("layers.1", 1.75))
    assert places(fragments_of(layout, Fragmentation(number=2))) == [[(0, 1)], [(1, 3)]]


def test_buffers_go_with_their_layer_and_a_model_without_numbers_is_divided_by_modules() -> None:
    layout = blocks(("first.weight", 1), ("second.weight", 1), buffers=(("first.mean", 1), ("second.mean", 1)))
    assert places(fragments_of(layout, Fragmentation(number=2))) == [[(0, 1), (2, 3)], [(1, 2), (3, 4)]]


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (blocks(("layers.0", 2), ("layers.1", 2)), "as many layers, the model has 2"),
        (blocks(("a.0", 2), ("a.1", 0.1), ("a.2", 0.2)), "no block"),
    ],
)
def test_more_fragments_than_there_is_model_for_are_refused(layout, message) -> None:
    with pytest.raises(ConfigError, match=message):
        fragments_of(layout, Fragmentation(number=3))


@given(
    st.lists(st.integers(1, 3 * BLOCK), min_size=1, max_size=8),
    st.integers(1, 4),
    st.integers(1, 5),
    st.sampled_from(["strided", "sequential"]),
)
def test_fragments_fill_the_layout_and_shards_hold_each_in_one_piece(sizes, number, num_shards, pattern) -> None:
    layout = pack([Entry(f"layers.{index}.weight", (size,), "float32") for index, size in enumerate(sizes)])
    try:
        fragments = fragments_of(layout, Fragmentation(number=number, pattern=pattern))
    except ConfigError:
        return
    pieces = sorted((piece.start, piece.stop) for ranges in fragments.ranges for piece in ranges)
    assert [start for start, _ in pieces] == [0, *(stop for _, stop in pieces[:-1])]
    assert pieces[-1][1] == layout.size
    for fragment in range(number):
        owned = [fragments.owned(fragment, within) for within in layout.cut(num_shards)]
        assert [each.start for each in owned] == [0, *(each.stop for each in owned[:-1])]
        assert owned[-1].stop == fragments.size(fragment)
        for within, own in zip(layout.cut(num_shards), owned, strict=True):
            inside = fragments.pieces(fragment, within)
            assert sum(piece.size for piece in inside) == own.size
            assert all(piece.start % BLOCK == 0 and piece.stop <= within.size for piece in inside)


def test_a_range_outside_of_a_fragment_holds_nothing_of_it() -> None:
    fragments = Fragments(((Range(0, BLOCK),), (Range(BLOCK, 2 * BLOCK),)))
    assert fragments.owned(1, Range(0, BLOCK)) == Range(0, 0)
    assert fragments.owned(0, Range(BLOCK, 2 * BLOCK)) == Range(BLOCK, BLOCK)

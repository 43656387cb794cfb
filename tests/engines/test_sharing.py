"""Who of a gang pushes which coordinates: every one by exactly one stage, in ranges that shards take."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mottle.core.layout import BLOCK, Range
from mottle.engines.placed import Piece, Transfer, share
from mottle.engines.placed.sharing import merged


def test_a_block_in_which_two_stages_meet_is_pushed_by_the_first_of_them() -> None:
    made = share([[Range(0, 5000)], [Range(5000, 20_000)]], [Range(0, 20_000)])
    assert made.pieces == (Piece(0, Range(0, 2 * BLOCK), 0), Piece(0, Range(2 * BLOCK, 20_000), 1))
    assert made.transfers == (Transfer(1, 0, Range(5000, 2 * BLOCK)),)


def test_several_small_stages_in_one_block_and_a_shard_that_holds_nothing() -> None:
    made = share([[Range(0, 10)], [Range(10, 20)], [Range(20, 9000)]], [Range(0, 9000), Range(9000, 9000)])
    assert made.pieces == (Piece(0, Range(0, BLOCK), 0), Piece(0, Range(BLOCK, 9000), 2), Piece(1, Range(9000, 9000), 0))
    assert set(made.transfers) == {Transfer(1, 0, Range(10, 20)), Transfer(2, 0, Range(20, BLOCK))}


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[list[Range]], list[Range]]:
    edges = sorted(draw(st.sets(st.integers(1, 6 * BLOCK), min_size=1, max_size=12)))
    size, num_stages = edges[-1], draw(st.integers(1, 4))
    shares: list[list[Range]] = [[] for _ in range(num_stages)]
    for start, stop in pairwise([0, *edges]):
        owner = draw(st.integers(-1, num_stages - 1))  # -1: a gap, or what nothing reads
        if owner >= 0:
            shares[owner].append(Range(start, stop))
    blocks = -(-size // BLOCK)
    cuts = sorted(draw(st.lists(st.integers(0, blocks), max_size=3)))
    places = [0, *(min(cut * BLOCK, size) for cut in cuts), size]
    return shares, [Range(a, b) for a, b in pairwise(places)]


@given(problems())
def test_every_coordinate_is_pushed_once_by_a_stage_that_has_it_or_is_given_it(problem: tuple[list[list[Range]], list[Range]]) -> None:
    shares, shards = problem
    made = share(shares, shards)
    for number, shard in enumerate(shards):
        pieces = [piece.range for piece in made.pieces if piece.shard == number]
        assert merged(pieces) == ([shard] if shard.size else [])
        assert all((piece.start - shard.start) % BLOCK == 0 for piece in pieces)
        assert len(pieces) >= 1
    pusher = {x: piece.stage for piece in made.pieces for x in range(piece.range.start, piece.range.stop)}
    assert sum(piece.range.size for piece in made.pieces) == len(pusher)
    given_on = {x: (each.giver, each.taker) for each in made.transfers for x in range(each.range.start, each.range.stop)}
    assert sum(each.range.size for each in made.transfers) == len(given_on)
    for stage, own in enumerate(shares):
        for run in own:
            for x in range(run.start, run.stop):
                assert given_on.get(x) == (None if pusher[x] == stage else (stage, pusher[x]))

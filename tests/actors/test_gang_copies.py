"""Copies of what other processes of a gang keep: which of two is wanted, who holds them, what crosses between processes."""

import pytest
import torch

from mottle.actors.gang_copies import Copies, keepers, pack, unpack
from mottle.actors.gang_state import Patch


def held(after: int) -> list[Patch]:
    return [Patch("inner.v", 0, torch.tensor([float(after)]))]


def test_the_newest_copy_from_before_an_order_is_given_and_one_before_it_is_kept() -> None:
    copies = Copies()
    for after in (3, 5, 8):
        copies.hold(1, after, pack(held(after)))
    assert copies.of(1, 9) == held(8)
    assert copies.of(1, 8) == copies.of(1, 6) == held(5)  # order 8 came to nothing while it was pushed
    assert copies.of(1, 4) is None  # two orders back: nobody goes back so far
    assert copies.of(2, 9) is None
    copies.drop()
    assert copies.of(1, 9) is None


def test_what_comes_of_an_order_that_is_computed_again_takes_the_place_of_what_came_before() -> None:
    copies = Copies()
    for after, value in ((3, 3), (5, 5), (5, 6), (4, 7)):
        copies.hold(1, after, pack(held(value)))
    assert copies.of(1, 9) == held(7)
    assert copies.of(1, 4) == held(3)


def test_what_was_sent_is_held_in_memory_of_its_own() -> None:
    sent = [
        Patch("inner.v", 4, torch.ones(3)),
        Patch("inner.step", None, torch.tensor(2.0)),
        Patch("codec.residual", 0, torch.ones(2, dtype=torch.bfloat16)),
    ]
    got = unpack(pack(sent))
    for patch in sent:
        patch.values.zero_()
    assert [each[:2] for each in got] == [each[:2] for each in sent]
    assert [each.values.tolist() for each in got] == [[1, 1, 1], 2, [1, 1]]
    assert [each.values.dtype for each in got] == [each.values.dtype for each in sent]


@pytest.mark.parametrize(
    ("order", "nodes", "wanted"),
    [
        ([0, 1], "aa", {1: 0}),
        ([0, 1, 2], "aaa", {1: 2, 2: 0}),
        ([2, 0, 1], "aab", {2: 0, 1: 2}),
        ([0, 1, 2, 3], "aabb", {1: 2, 2: 0, 3: 0}),
        ([0], "a", {}),
    ],
)
def test_a_copy_is_on_another_host_where_there_is_one(order: list[int], nodes: str, wanted: dict[int, int]) -> None:
    assert keepers(order, dict(enumerate(nodes))) == wanted

"""Stages after a process is lost: what is left stays, neighbours take over, and a new cut is taken only where it is worth it."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mottle.placement import DEVICE_CLASSES, InfeasibleError, Link, capture
from mottle.placement.pipeline import bubble
from mottle.placement.staging import Bound, Cut, Member, cut_stages, predict_step, recut
from mottle.placement.tracing import Capture, Times

ONE = 64 * 64 * 4
HOST = Member(DEVICE_CLASSES["cpu-8"])


@pytest.fixture(scope="module")
def chain() -> Capture:
    return capture(nn.Sequential(*(part for _ in range(12) for part in (nn.Linear(64, 64), nn.ReLU()))).train(), torch.empty(8, 64))


def paced(captured: Capture, seconds: float) -> Member:
    """A member on which every op with weights takes so long in each direction, and the others no time."""
    times = {unit.id: Times(seconds * 1e9, seconds * 1e9) if unit.state.trainable else Times(0, 0) for unit in captured.units}
    return replace(HOST, measured=times)


def sizes(cut: Cut, captured: Capture) -> list[int]:
    """Ops with weights, by stage."""
    learners = [unit.id for unit in captured.units if unit.state.trainable]
    return [sum(cut.stage_of[name] == stage for name in learners) for stage in range(cut.num_stages)]


def test_a_step_of_equal_stages_idles_as_the_formula_says(chain: Capture) -> None:
    cut = cut_stages(chain, [paced(chain, 1e-3)] * 3, 6)
    step = predict_step(cut, "1f1b", 6, Link())
    busy = sum(cut.times_ns[0]) * 6
    assert 1 - busy / step.makespan == pytest.approx(bubble(3, 6), abs=0.01)


def test_the_loss_counts_where_the_last_stage_is(chain: Capture) -> None:
    heavy = replace(paced(chain, 1e-3), loss=Times(3e6, 3e6))
    assert sizes(cut_stages(chain, [paced(chain, 1e-3)] * 3, 4), chain) == [4, 4, 4]
    assert sizes(cut_stages(chain, [heavy] * 3, 4), chain) == [5, 5, 2]


@pytest.mark.parametrize(("lost", "wanted"), [(0, [8, 4]), (1, [6, 6]), (2, [4, 8])])
def test_the_neighbours_of_a_lost_stage_take_over_what_it_had(chain: Capture, lost: int, wanted: list[int]) -> None:
    members = [paced(chain, 1e-3)] * 3
    old = cut_stages(chain, members, 4)
    rest = [stage for stage in range(3) if stage != lost]
    found = recut(chain, old, members[:2], dict(enumerate(rest)), "1f1b", 4, horizon=1)
    assert sizes(found.cut, chain) == wanted
    assert found.moved == {unit for unit, stage in old.stage_of.items() if stage == lost}
    assert found.cut.members == (0, 1)


def test_a_lopsided_repair_gives_way_to_a_new_cut_where_many_steps_are_to_come(chain: Capture) -> None:
    members = [paced(chain, 1e-3)] * 3
    old = cut_stages(chain, members, 4)
    found = recut(chain, old, members[:2], {0: 1, 1: 2}, "1f1b", 4, horizon=1000)
    assert sizes(found.cut, chain) == [6, 6]
    assert found.repair_s is not None
    assert found.full_s is not None
    assert found.full_s < 0.95 * found.repair_s
    assert found.moved > {unit for unit, stage in old.stage_of.items() if stage == 0}


def test_a_newcomer_gets_what_the_lost_one_had_or_less(chain: Capture) -> None:
    fast, slow = paced(chain, 1e-3), paced(chain, 2.5e-3)
    old = cut_stages(chain, [fast] * 3, 4)
    bound = Bound((0, 1, 2), {unit: stage for unit, stage in old.stage_of.items() if stage != 1})
    cut = cut_stages(chain, [fast, slow, fast], 4, bound=bound)
    assert sizes(cut, chain) == [5, 2, 5]
    assert cut.members == (0, 1, 2)


def test_what_is_left_must_hold_the_model(chain: Capture) -> None:
    small = replace(paced(chain, 1e-3), mem=6 * 3 * ONE)
    old = cut_stages(chain, [small] * 3, 1)
    with pytest.raises(InfeasibleError, match="bytes short for the weights alone"):
        recut(chain, old, [small], {0: 1}, "1f1b", 1)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([1, 2, 3]), min_size=2, max_size=4), st.data())
def test_a_repair_leaves_what_is_not_displaced_where_it_was(chain: Capture, paces: list[int], data: st.DataObject) -> None:
    members = [paced(chain, pace * 1e-3) for pace in paces]
    old = cut_stages(chain, members, 4)
    left = sorted(data.draw(st.sets(st.integers(0, len(paces) - 1), min_size=1)))
    stays = {number: old.members.index(member) for number, member in enumerate(left)}
    found = recut(chain, old, [members[member] for member in left], stays, "1f1b", 4, horizon=1)
    displaced = {unit for unit, stage in old.stage_of.items() if stage not in stays.values()}
    assert found.moved >= displaced
    assert sorted(found.cut.members) == list(range(len(left)))
    if len(left) == len(paces):
        assert found.cut.stage_of == old.stage_of
        assert found.moved == set()
    if found.moved == displaced:
        for unit in old.stage_of.keys() - displaced:
            assert stays[found.cut.members[found.cut.stage_of[unit]]] == old.stage_of[unit]

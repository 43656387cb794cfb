"""Stages after a process is lost: what is left stays, neighbours take over, and a new cut is taken only where it is worth it."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mottle.placement import DEVICE_CLASSES, InfeasibleError, Link, capture
from mottle.placement.pipeline import bubble
from mottle.placement.staging import Bound, Cut, Drift, Member, cut_stages, predict_step, recut
from mottle.placement.staging.drifting import Seen
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


# --- measured against predicted ---------------------------------------------------------------------------------------------------------


def test_a_cut_is_due_after_20_steps_in_a_row_that_are_off() -> None:
    drift = Drift(100.0, [40.0, 60.0])
    for _ in range(19):
        drift.observe(116.0, [40.0, 60.0])
    drift.observe(114.0, [40.0, 60.0])  # just in time: the count begins again
    for _ in range(19):
        drift.observe(116.0, [40.0, 60.0])
    assert not drift.due
    drift.observe(86.0, [40.0, 60.0])
    assert drift.due


def test_averages_follow_what_is_measured_and_the_prediction_does_not() -> None:
    drift = Drift(100.0, [50.0, 50.0], patience=3)
    drift.observe(200.0, [100.0, 50.0])
    assert drift.factors == pytest.approx([1.2, 1.0])
    assert drift.seen_ns == pytest.approx(120.0)
    for _ in range(30):
        drift.observe(200.0, [100.0, 50.0])
    assert drift.factors == pytest.approx([2.0, 1.0], rel=1e-2)
    assert drift.due
    assert drift.step_ns == 100.0


def test_what_never_ran_somewhere_is_taken_to_be_no_better_than_what_did() -> None:
    seen = Seen()
    assert seen.factor(0, "a") == 1.0
    seen.learn(0, ["a", "b"], 3.0)
    seen.learn(1, ["c", "d"], 2.0)
    assert [seen.factor(0, unit) for unit in "abcd"] == [3, 3, 3, 3]
    assert [seen.factor(1, unit) for unit in "abcd"] == [3, 3, 2, 2]
    assert [seen.factor(2, unit) for unit in "abcd"] == [3, 3, 2, 2]  # a newcomer
    seen.learn(1, ["b", "c", "d"], 0.5)
    assert [seen.factor(1, unit) for unit in "abcd"] == [3, 1.5, 1, 1]
    seen.forget(1)
    assert [seen.factor(1, unit) for unit in "abcd"] == [3, 3, 1, 1]


def settled(chain: Capture, truth: list[Member]) -> list[int]:
    """Bottleneck, in ns, of every cut until none is better; members are believed to be equal, and are looked at whenever it is due."""
    seen, believed = Seen(), [paced(chain, 1e-3)] * len(truth)
    cut, found = cut_stages(chain, believed, 4), []
    while len(found) < 6:
        stays = {member: stage for stage, member in enumerate(cut.members)}
        really = recut(chain, cut, truth, stays, "1f1b", 4, horizon=1).cut
        assert really.divides_like(cut)
        found.append(max(map(sum, really.times_ns)))
        predicted_ns, measured_ns = (predict_step(each, "1f1b", 4).makespan for each in (cut, really))
        if 1 / 1.15 <= measured_ns / predicted_ns <= 1.15:
            return found
        for stage, member in enumerate(cut.members):
            ratio = sum(really.times_ns[stage]) / sum(cut.times_ns[stage])
            seen.learn(member, [unit for unit, home in cut.stage_of.items() if home == stage], ratio)
        now = [replace(each, factors={u.id: seen.factor(m, u.id) for u in chain.units}) for m, each in enumerate(believed)]
        cut = recut(chain, cut, now, stays, "1f1b", 4, horizon=1000).cut
    raise AssertionError(f"ops go on changing places: {found}")


def test_cuts_by_what_was_measured_get_better_and_settle(chain: Capture) -> None:
    fast, slow, slower = (paced(chain, pace * 1e-3) for pace in (1, 3, 9))
    assert settled(chain, [slower] * 3) == pytest.approx([72_000_000] * 2)  # what is off everywhere moves nothing
    for truth in ([slow, fast], [fast, slow], [slow, fast, fast], [slower, slow, fast]):
        first, *later = settled(chain, truth)
        assert max(later) <= 0.7 * first


def test_a_member_that_has_become_slow_gives_ops_away_if_the_steps_to_come_pay_for_it(chain: Capture) -> None:
    members = [paced(chain, 1e-3)] * 3
    old = cut_stages(chain, members, 4)
    slow = replace(members[1], factors=dict.fromkeys(old.stage_of, 3.0))
    now = [members[0], slow, members[2]]
    stays = {0: 0, 1: 1, 2: 2}
    assert sorted(sizes(recut(chain, old, now, stays, "1f1b", 4, horizon=1000).cut, chain)) == [2, 5, 5]
    soon = recut(chain, old, now, stays, "1f1b", 4, horizon=1)
    assert soon.cut.divides_like(old)
    assert not soon.moved
    assert [sum(passes) for passes in soon.cut.times_ns] == [8_000_000, 24_000_000, 8_000_000]

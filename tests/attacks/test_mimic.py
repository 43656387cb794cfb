"""The mimic copies honest rows only, and its warm-up finds the worker that stands out most.

Letters: N workers, H honest, D coordinates.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mottle import attacks
from mottle.core.errors import ConfigError


def view_of(honest_HD, faulty=(2,), honest_ids=None):
    honest_HD = torch.as_tensor(honest_HD, dtype=torch.float64)
    return attacks.RoundView(num_workers=len(honest_HD) + len(faulty), faulty_ids=faulty, honest=honest_HD, honest_ids=honest_ids)


def test_the_simple_form_copies_the_smallest_honest_id_or_the_target():
    view = view_of([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], faulty=(0, 2))
    assert attacks.build("mimic").rows(view).tolist() == [[1.0, 2.0]] * 2
    assert attacks.build({"mimic": {"target": 4}}).rows(view).tolist() == [[5.0, 6.0]] * 2


def test_a_target_that_is_not_honest_is_named():
    with pytest.raises(ConfigError, match=r"no honest worker 2 to copy, only \(0, 1, 3\)"):
        attacks.build({"mimic": {"target": 2}}).rows(view_of(np.eye(3)))


def by_hand(rounds, seed, warm_up):
    """The running power iteration in numpy, with every difference formed; the place chosen in each round."""
    z = np.random.default_rng(seed).standard_normal(rounds[0].shape[1])
    z /= np.linalg.norm(z)
    chosen = []
    for t, rows in enumerate(rounds):
        if t < warm_up:
            mean = rows.mean(0)
            mu = mean if t == 0 else t / (t + 1) * mu + mean / (t + 1)  # noqa: F821  set in round 0
            a = sum(((row - mu) @ z) * (row - mu) for row in rows)
            a /= np.linalg.norm(a)
            z = a if t == 0 else t / (t + 1) * z + a / (t + 1)
            z /= np.linalg.norm(z)
            place = int(np.argmax(rows @ z))
        chosen.append(place)
    return chosen, mu, z


@given(seed=st.integers(0, 10_000), warm_up=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_the_warm_up_is_the_running_power_iteration(seed, warm_up):
    dice = np.random.default_rng([seed, 1])
    rounds = [dice.standard_normal((5, 6)) for _ in range(6)]
    chosen, mu, z = by_hand(rounds, seed, warm_up)
    attack, state, generator = attacks.build({"mimic": {"warm_up": warm_up}}), None, np.random.default_rng(seed)
    for rows, place in zip(rounds, chosen, strict=True):
        sent, state = attack.step(view_of(rows, faulty=(5, 6)), state, generator=generator)
        assert sent.tolist() == [rows[place].tolist()] * 2
    np.testing.assert_allclose(state.mean.numpy(), mu, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(state.direction.numpy(), z, rtol=1e-10, atol=1e-10)
    assert state.rounds == warm_up


def test_the_warm_up_finds_the_worker_that_stands_out():
    dice = np.random.default_rng(0)
    attack, state, generator = attacks.build({"mimic": {"warm_up": 5}}), None, np.random.default_rng(1)
    for _ in range(8):
        rows = 0.1 * dice.standard_normal((6, 20))
        rows[[1, 4], 0] += 5.0, -5.0
        sent, state = attack.step(view_of(rows, faulty=(6,)), state, generator=generator)
    assert sent.tolist()[0] in (rows[1].tolist(), rows[4].tolist())
    assert abs(state.direction[0].item()) > 0.99


def test_a_state_resumes_where_it_was_saved():
    rounds = [view_of(np.random.default_rng(i).standard_normal((4, 3))) for i in range(5)]
    attack = attacks.build({"mimic": {"warm_up": 3}})

    def play(cut):
        state, generator, sent = None, np.random.default_rng(0), []
        for i, view in enumerate(rounds):
            if i == cut:
                state = attacks.MimicState(rounds=state.rounds, mean=state.mean, direction=state.direction, chosen=state.chosen)
            rows, state = attack.step(view, state, generator=generator)
            sent.append(rows.tolist())
        return sent

    assert play(cut=2) == play(cut=None)


def test_a_victim_that_left_is_replaced_along_the_last_direction():
    attack = attacks.build({"mimic": {"warm_up": 1}})
    rows = [[4.0, 0.0], [-3.0, 0.0], [0.0, 0.1]]
    _, state = attack.step(view_of(rows, faulty=(3,)), generator=np.random.default_rng(0))
    without = [i for i in range(3) if i != state.chosen]
    view = view_of([rows[i] for i in without], faulty=(3,), honest_ids=tuple(without))
    sent, after = attack.step(view, state)
    along = view.honest @ state.direction
    assert sent[0].tolist() == view.honest[along.argmax()].tolist()
    assert after.chosen in without
    assert after.rounds == 1


def test_honest_rows_that_agree_leave_the_direction_alone():
    attack, view = attacks.build({"mimic": {"warm_up": 2}}), view_of([[1.0, 2.0]] * 3, faulty=(3,))
    _, first = attack.step(view, generator=np.random.default_rng(0))
    sent, second = attack.step(view, first)
    assert sent.tolist() == [[1.0, 2.0]]
    torch.testing.assert_close(second.direction, first.direction, rtol=1e-15, atol=0)
    assert second.direction.norm().item() == pytest.approx(1)


@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_the_rows_are_honest_values_so_coordinates_stay_in_the_honest_range(seed):
    honest = np.random.default_rng(seed).standard_normal((5, 7))
    view = view_of(honest, faulty=(5, 6, 7))
    rows = attacks.build({"mimic": {"warm_up": 1}}).rows(view, generator=np.random.default_rng(seed))
    assert all(row in honest.tolist() for row in rows.tolist())
    middle = view.assemble(rows).numpy()
    for value in (np.median(middle, 0), middle.mean(0)):
        assert (value >= honest.min(0)).all()
        assert (value <= honest.max(0)).all()

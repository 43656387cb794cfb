"""What hostile workers put on the wire: malformed messages, false labels and counts, old updates, many names.

Letters: N workers, Q faulty, D coordinates.
"""

import math

import numpy as np
import pytest
import torch

from mottle import attacks
from mottle.core.errors import ConfigError

UPDATE = torch.arange(1.0, 7.0)


def message(payload=UPDATE, round=3):
    return attacks.Message(worker=2, round=round, payload=payload, count=32)


def sent(kind):
    return attacks.build({"malformed": {"kind": kind}}).messages(message())


# --- malformed --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "shape", "dtype"),
    [
        ("short", (5,), torch.float32),
        ("long", (7,), torch.float32),
        ("matrix", (2, 3), torch.float32),
        ("integer", (6,), torch.int64),
        ("complex", (6,), torch.complex64),
        ("empty", (0,), torch.float32),
        ("scalar", (), torch.float32),
        ("permuted", (6,), torch.float32),
    ],
)
def test_a_malformed_payload(kind, shape, dtype):
    (forged,) = sent(kind)
    assert (tuple(forged.payload.shape), forged.payload.dtype) == (shape, dtype)
    assert (forged.worker, forged.round, forged.count) == (2, 3, 32)
    assert torch.equal(UPDATE, torch.arange(1.0, 7.0))


def test_an_object_payload_is_no_tensor_at_all():
    (forged,) = sent("object")
    assert isinstance(forged.payload, np.ndarray)
    assert forged.payload.dtype == object
    assert forged.payload.shape == (6,)


def test_a_permuted_payload_has_the_same_values_in_another_order():
    (forged,) = sent("permuted")
    assert forged.payload.tolist() == [4.0, 5.0, 6.0, 1.0, 2.0, 3.0]


def test_a_matrix_of_an_odd_length_still_has_two_axes():
    (forged,) = attacks.build({"malformed": {"kind": "matrix"}}).messages(message(torch.ones(5)))
    assert tuple(forged.payload.shape) == (1, 5)


def test_false_labels():
    first, second = sent("duplicate")
    assert (first.worker, first.round) == (second.worker, second.round) == (2, 3)
    assert torch.equal(first.payload, UPDATE)
    assert torch.equal(second.payload, -UPDATE)
    assert sent("other_round")[0].round == 4
    assert sent("foreign")[0].worker == 3


def test_malformed_starts_from_a_well_formed_message():
    with pytest.raises(ConfigError, match="1-D tensor"):
        attacks.build("malformed").messages(message(payload=torch.ones(2, 2)))


def test_a_message_is_malformed_with_the_given_probability():
    attack = attacks.build({"malformed": {"message_probability": 0.3}})
    generator = np.random.default_rng(0)
    forged = [attack.messages(message(), generator=generator)[0].payload.shape == (5,) for _ in range(500)]
    assert forged == (np.random.default_rng(0).random(500) < 0.3).tolist()


# --- count inflation --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "claimed"),
    [
        ({}, 32_000),
        ({"factor": 2.5}, 80),
        ({"factor": 0.3}, 9.6),
        *(({"claim": claim}, claim) for claim in (1, 10**9, 0, -1, 2.5)),
    ],
)
def test_a_claimed_count(parameters, claimed):
    (forged,) = attacks.build({"count_inflation": parameters}).messages(message())
    assert forged.count == pytest.approx(claimed)
    assert isinstance(forged.count, type(claimed))
    assert forged.payload is UPDATE


def test_a_count_may_be_no_number():
    assert math.isnan(attacks.build({"count_inflation": {"claim": math.nan}}).messages(message())[0].count)


def test_a_count_goes_beside_any_update():
    attack = attacks.build({"count_inflation": {"factor": 10, "attack": {"sign_flip": {"start": 2}}}})
    for round, row in ((1, UPDATE), (2, -UPDATE)):
        update, state = attack.corrupt(UPDATE, worker=2, num_workers=5, round=round)
        assert torch.equal(update, row)
        assert attack.messages(message(update), state=state)[0].count == 320


def test_a_false_count_may_sit_on_a_malformed_message_and_on_flipped_labels():
    attack = attacks.build({"count_inflation": {"attack": {"malformed": {"kind": "duplicate"}}}})
    assert [each.count for each in attack.messages(message())] == [32_000, 32_000]
    attack = attacks.build({"count_inflation": {"attack": "label_flip"}})
    assert attack.labels(torch.tensor([0, 3])).tolist() == [9, 6]


def test_a_wrapped_link_fault_acts_on_the_link():
    attack = attacks.build({"count_inflation": {"attack": {"gambler": {"probability": 1.0, "num_shards": 2, "factor": -3.0}}}})
    assert attack.ingress(torch.ones(1, 4), generator=np.random.default_rng(0)).tolist() == [[-3.0, -3.0, 1.0, 1.0]]


# --- stale replay -----------------------------------------------------------------------------------------------------------------------


def play(attack, versions, worker=1):
    """(value sent, version claimed) of a worker whose update at version v is v in every coordinate."""
    state, log = None, []
    for version in versions:
        row, state = attack.corrupt(torch.full((2,), float(version)), worker=worker, num_workers=4, round=version, state=state)
        (wire,) = attack.messages(attacks.Message(worker=worker, round=version, payload=row, count=8), state=state)
        log.append((wire.payload[0].item(), wire.round))
    return log, state


def test_an_old_update_under_its_true_version():
    log, _ = play(attacks.build({"stale_replay": {"lag": 2}}), range(5))
    assert log == [(0, 0), (1, 1), (0, 0), (1, 1), (2, 2)]


def test_an_old_update_under_the_newest_version():
    log, _ = play(attacks.build({"stale_replay": {"lag": 2, "claim": "newest"}}), range(5))
    assert log == [(0, 0), (1, 1), (0, 2), (1, 3), (2, 4)]


def test_versions_may_be_skipped_and_the_youngest_old_enough_is_sent():
    log, _ = play(attacks.build({"stale_replay": {"lag": 3}}), [0, 2, 4, 5, 9])
    assert log == [(0, 0), (2, 2), (0, 0), (2, 2), (5, 5)]


def test_the_memory_holds_what_the_next_replay_needs_and_no_more():
    _, state = play(attacks.build({"stale_replay": {"lag": 2}}), range(50))
    assert [version for version, _ in state.history[1]] == [47, 48, 49]


def test_replay_starts_with_the_attack_but_remembers_from_before():
    log, _ = play(attacks.build({"stale_replay": {"lag": 1, "start": 2}}), range(4))
    assert log == [(0, 0), (1, 1), (1, 1), (2, 2)]


def test_workers_remember_their_own_updates_only():
    attack, state = attacks.build("stale_replay"), None
    for round, faulty in ((0, (0, 2)), (1, (2, 3))):
        own = torch.tensor([[10.0 * round + i] for i in faulty])
        rows, state = attack.step(attacks.RoundView(num_workers=4, faulty_ids=faulty, round=round, own=own), state)
    assert rows.tolist() == [[2.0], [13.0]]
    assert state.sent_versions == {0: 0, 2: 0, 3: 1}


def test_a_state_is_not_shared_with_its_successor():
    attack = attacks.build("stale_replay")
    view = attacks.RoundView(num_workers=2, faulty_ids=(0,), own=torch.ones(1, 1))
    _, first = attack.step(view)
    before = dict(first.history)
    view.own.fill_(5.0)
    attack.step(attacks.RoundView(num_workers=2, faulty_ids=(0,), round=1, own=torch.zeros(1, 1)), first)
    assert first.history == before
    assert first.history[0][0][1].tolist() == [1.0]


# --- Sybil ------------------------------------------------------------------------------------------------------------------------------


def sybil_view():
    rows = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 3)))
    return attacks.RoundView.split(rows, [1, 4])


def test_identities_are_new_workers_of_the_round():
    attack, view = attacks.build({"sybil": {"identities": 3}}), sybil_view()
    assert attack.names(view) == {1: (1, 6, 7), 4: (4, 8, 9)}
    expanded = attack.expand(view)
    assert (expanded.num_workers, expanded.faulty_ids, expanded.honest_ids) == (10, (1, 4, 6, 7, 8, 9), (0, 2, 3, 5))
    assert torch.equal(expanded.own, view.own[[0, 1, 0, 0, 1, 1]])
    assert expanded.assemble(attack.rows(view)).shape == (10, 3)


def test_fresh_names_lie_above_all_ids():
    view = attacks.RoundView(num_workers=3, faulty_ids=(20,), honest_ids=(7, 31), own=torch.ones(1, 2))
    assert attacks.build("sybil").names(view) == {20: (20, 32)}


def test_the_carried_attack_reckons_with_the_effective_numbers():
    view = sybil_view()
    row = attacks.build({"sybil": {"identities": 2, "attack": "alie"}}).rows(view)
    z = attacks.alie_z(8, 4)
    assert z != attacks.alie_z(6, 2)
    torch.testing.assert_close(row, (view.honest.mean(0) - z * view.honest.std(0)).repeat(4, 1))


def test_identities_speak_with_one_voice_or_each_with_its_own():
    view = sybil_view()
    for identical, different in ((True, 2), (False, 6)):
        attack = attacks.build({"sybil": {"identities": 3, "identical": identical, "attack": "gaussian"}})
        rows = attack.rows(view, generator=np.random.default_rng(0))
        assert len(rows.unique(dim=0)) == different
        assert torch.equal(rows[0], rows[2]) is identical


def test_a_sybil_with_one_name_is_the_carried_attack():
    view = sybil_view()
    carried = attacks.build("ipm").rows(view)
    assert torch.equal(attacks.build({"sybil": {"identities": 1, "attack": "ipm"}}).rows(view), carried)

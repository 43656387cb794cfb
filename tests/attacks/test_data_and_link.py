"""Faults that act before the loss and behind the transport: flipped labels and the Gambler's link."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mottle import attacks
from mottle.core.errors import ConfigError


@given(classes=st.integers(2, 30), data=st.data(), dtype=st.sampled_from([torch.int64, torch.int32, torch.uint8]))
@settings(max_examples=50, deadline=None)
def test_flipped_twice_a_label_is_itself(classes, data, dtype):
    labels = torch.tensor(data.draw(st.lists(st.integers(0, classes - 1))), dtype=dtype)
    attack = attacks.build({"label_flip": {"num_classes": classes}})
    before = labels.clone()
    once = attack.labels(labels)
    assert once.dtype == dtype
    assert (once.long() + labels.long() == classes - 1).all()
    assert torch.equal(attack.labels(once), labels)
    assert torch.equal(labels, before)


def test_the_middle_class_of_an_odd_number_stays():
    assert attacks.build({"label_flip": {"num_classes": 5}}).labels(torch.arange(5)).tolist() == [4, 3, 2, 1, 0]


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        (torch.tensor([0, 10]), "labels from 0 to 9, got 0 to 10"),
        (torch.tensor([-1]), "got -1 to -1"),
        (torch.tensor([0.5]), "integer class labels"),
        (torch.tensor([True]), "integer class labels"),
    ],
)
def test_labels_that_cannot_be_flipped_are_named(labels, complaint):
    with pytest.raises(ConfigError, match=complaint):
        attacks.build("label_flip").labels(labels)


def test_labels_flip_from_the_start_round_and_by_chance():
    labels = torch.zeros(1, dtype=torch.int64)
    late = attacks.build({"label_flip": {"start": 3}})
    assert [late.labels(labels, round=r).item() for r in range(5)] == [0, 0, 0, 9, 9]
    attack, generator = attacks.build({"label_flip": {"message_probability": 0.4}}), np.random.default_rng(0)
    flipped = [attack.labels(labels, generator=generator).item() == 9 for _ in range(200)]
    assert flipped == (np.random.default_rng(0).random(200) < 0.4).tolist()


def test_other_attacks_leave_labels_alone():
    labels = torch.arange(4)
    assert attacks.build("ipm").labels(labels) is labels


def test_a_faulty_worker_may_start_from_a_new_network():
    params, fresh = torch.zeros(3), torch.ones(3)
    assert attacks.build("label_flip").local_start(params, lambda: fresh) is params
    assert attacks.build({"label_flip": {"reinitialise": True}}).local_start(params, lambda: fresh) is fresh


# --- Gambler ----------------------------------------------------------------------------------------------------------------------------

GAMBLER = attacks.build({"gambler": {"probability": 0.2, "num_shards": 4, "shard": 1}})


def test_values_of_one_shard_are_multiplied_at_random():
    rows = torch.from_numpy(np.random.default_rng(0).standard_normal((5, 42))).float()
    arrived = GAMBLER.ingress(rows, generator=np.random.default_rng(9))
    assert GAMBLER.shard_range(42) == range(10, 21)
    mask = np.zeros((5, 42), bool)
    mask[:, 10:21] = np.random.default_rng(9).random((5, 11)) < 0.2
    assert 0 < mask.sum() < 55
    expected = np.where(mask, (rows.numpy().astype(np.float64) * -1e20).astype(np.float32), rows.numpy())
    assert np.array_equal(arrived.numpy(), expected)
    assert torch.isfinite(arrived).all()


@given(st.integers(1, 60), st.integers(1, 25))
def test_the_shards_of_the_gambler_cover_the_update_evenly(num_coordinates, num_shards):
    ranges = [attacks.build({"gambler": {"num_shards": num_shards, "shard": k}}).shard_range(num_coordinates) for k in range(num_shards)]
    assert [c for part in ranges for c in part] == list(range(num_coordinates))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


def test_a_live_shard_is_hit_where_it_meets_the_faulty_one():
    attack = attacks.build({"gambler": {"probability": 1.0, "num_shards": 4, "shard": 1, "factor": 2.0}})
    rows = torch.ones(2, 8)
    for first, hit in ((0, [1, 1, 1, 1, 1, 2, 2, 2]), (12, [1] * 8), (6, [2, 2, 2, 2, 1, 1, 1, 1])):
        arrived = attack.ingress(rows, first=first, num_coordinates=20, generator=np.random.default_rng(0))
        assert arrived.tolist() == [hit] * 2
    assert (rows == 1).all()


def test_an_overflowing_value_becomes_infinite():
    attack = attacks.build({"gambler": {"probability": 1.0, "num_shards": 1}})
    arrived = attack.ingress(torch.tensor([[3e18, 4e18]]), generator=np.random.default_rng(0))
    assert torch.isfinite(arrived).tolist() == [[True, False]]


def test_a_sound_link_hands_the_rows_on():
    rows = torch.ones(2, 3)
    assert attacks.build("ipm").ingress(rows) is rows
    assert attacks.build({"gambler": {"start": 4}}).ingress(rows, round=3) is rows
    with pytest.raises(ConfigError, match="seeded numpy generator"):
        GAMBLER.ingress(torch.ones(2, 40))

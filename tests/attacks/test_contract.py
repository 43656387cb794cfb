"""What holds for every attack, a user's own included: shapes, purity, reproducibility, knowledge, quiet rounds.

Letters: N workers, H honest, Q faulty, D coordinates.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mottle import attacks
from mottle.core.errors import ConfigError

VARIANTS = [
    {entry.name: {}} for entry in attacks.catalogue()
] + [
    {"gaussian": {"mode": "additive", "sigma": 0.1, "mean": 0.1}},
    {"sign_flip": {"variant": "copy", "scale": 10.0}},
    {"sign_flip": {"variant": "omniscient"}},
    {"bit_flip": {"mode": "dimensional", "count": 7}},
    {"bit_flip": {"copy": True, "bits": [31]}},
    {"alie": {"source": "own", "sign": 1}},
    {"mimic": {"warm_up": 3}},
    {"mimic": {"target": 1}},
    {"min_max": {"direction": "unit"}},
    {"min_max": {"direction": "sign", "search": "bisection"}},
    {"min_sum": {"bound": "min", "source": "own", "direction": "sign"}},
    {"non_finite": {"kind": "inf"}},
    {"non_finite": {"kind": "single"}},
    {"non_finite": {"kind": "mixed"}},
    {"optimised": {"family": "alie", "search": "swinging", "evaluations": 16, "first_step": 1.0}},
    {"stale_replay": {"lag": 3, "claim": "newest"}},
    {"sybil": {"identities": 3, "attack": {"ipm": {"epsilon": 0.5}}}},
    {"count_inflation": {"attack": {"gaussian": {}}}},
]  # fmt: skip
FAULTY = (0, 3, 4)


def describe(spec):
    return "-".join([next(iter(spec)), *(f"{k}={v}" for k, v in next(iter(spec.values())).items())])


each_attack = pytest.mark.parametrize("spec", VARIANTS, ids=describe)


def a_round(dtype=torch.float32, num_workers=9, num_coordinates=11, faulty=FAULTY, seed=1, round=0):
    rows = torch.from_numpy(np.random.default_rng(seed).standard_normal((num_workers, num_coordinates))).to(dtype)
    return attacks.RoundView.split(rows, faulty, round=round, rule=lambda rows_ND: rows_ND.mean(0))


def bits(rows):
    return rows.contiguous().view(torch.uint8).tolist()


@each_attack
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_rows_have_shape_and_dtype_and_the_view_is_left_alone(spec, dtype):
    attack, view = attacks.build(spec), a_round(dtype)
    before = bits(view.own), bits(view.honest)
    rows = attack.rows(view, generator=np.random.default_rng(0))
    identities = getattr(attack, "identities", 1)
    assert rows.shape == (3 * identities, 11)
    assert rows.dtype == dtype
    rows.fill_(7.0)
    assert (bits(view.own), bits(view.honest)) == before


@each_attack
def test_the_same_seed_gives_the_same_rows(spec):
    attack, view = attacks.build(spec), a_round()
    first, second = (attack.rows(view, generator=np.random.default_rng(5)) for _ in range(2))
    assert bits(first) == bits(second)


@each_attack
def test_a_deterministic_attack_asks_for_no_generator_and_another_one_says_so(spec):
    attack, view = attacks.build(spec), a_round()
    if attack.deterministic or attack.stage == "link":
        attack.rows(view)
    else:
        with pytest.raises(ConfigError, match="seeded numpy generator"):
            attack.rows(view)


@each_attack
def test_without_faulty_workers_the_round_is_the_fault_free_one(spec):
    view = a_round(faulty=())
    generator = np.random.default_rng(3)
    dice_before = generator.bit_generator.state
    rows, _ = attacks.build(spec).step(view, generator=generator)
    assert rows.shape == (0, 11)
    assert bits(view.assemble(rows)) == bits(view.honest)
    assert generator.bit_generator.state == dice_before


@each_attack
def test_an_attack_uses_no_more_than_it_declares(spec):
    attack, view = attacks.build(spec), a_round()
    told = view.limited_to(attack.knowledge)
    full, blinded = (attack.rows(v, generator=np.random.default_rng(2)) for v in (view, told if told.own is not None else view))
    assert bits(full) == bits(blinded)
    if attack.knowledge >= attacks.Knowledge.HONEST:
        with pytest.raises(ConfigError, match="collusion channel"):
            attack.rows(view.limited_to(attacks.Knowledge.COLLUDERS), generator=np.random.default_rng(2))


@each_attack
def test_before_its_start_the_workers_are_honest(spec):
    name, parameters = next(iter(spec.items()))
    if "attack" in parameters:  # the rows of a wrapper start with the attack that it carries
        carried, inner = next(iter(parameters["attack"].items()))
        parameters = {**parameters, "attack": {carried: {**inner, "start": 2}}}
    attack = attacks.build({name: {**parameters, "start": 2}})
    state, generator = None, np.random.default_rng(0)
    for number in range(2):
        view = a_round(seed=number, round=number)
        rows, state = attack.step(view, state, generator=generator)
        assert bits(rows[:3]) == bits(view.own)
        message = attacks.Message(worker=3, round=number, payload=view.own[1], count=4)
        assert attack.messages(message, state=state) == [message]
        assert attack.ingress(view.own, round=number) is view.own


@each_attack
def test_a_live_worker_sends_its_row_of_the_round(spec):
    attack, view = attacks.build(spec), a_round()
    channel = view if attack.knowledge > attacks.Knowledge.OWN else None
    update = view.own[1].clone()
    sent, _ = attack.corrupt(
        update, worker=3, num_workers=9, round=0, generator=np.random.default_rng(4), state=attack.init(), channel=channel
    )
    if channel is None:
        view = attacks.RoundView(num_workers=9, faulty_ids=(3,), own=update[None])
    alone = attack.rows(view, generator=np.random.default_rng(4))
    assert bits(sent) == bits(alone[view.faulty_ids.index(3)])
    assert bits(update) == bits(a_round().own[1])
    assert sent.data_ptr() != update.data_ptr()


@each_attack
def test_its_job_file_form_builds_it_again(spec):
    attack = attacks.build(spec)
    again = attacks.build(attack.spec())
    assert again == attack
    assert hash(again) == hash(attack)


def test_a_worker_without_the_channel_is_told_to_open_it():
    with pytest.raises(ConfigError, match=r"ipm needs knowledge HONEST \(K3\)"):
        attacks.build("ipm").corrupt(torch.ones(3), worker=0, num_workers=4, round=0)


def test_a_channel_of_another_round_or_crew_is_refused():
    view = a_round(round=6)
    for worker, round in ((0, 5), (1, 6)):
        with pytest.raises(ConfigError, match="needs a channel of round"):
            attacks.build("ipm").corrupt(view.honest[0], worker=worker, num_workers=9, round=round, channel=view)


def test_an_omniscient_worker_needs_no_updates_of_its_colluders_but_the_colluding_one_does():
    view = a_round()
    blind = attacks.RoundView(num_workers=9, faulty_ids=FAULTY, honest=view.honest)
    sent, _ = attacks.build("ipm").corrupt(view.own[0], worker=0, num_workers=9, round=0, channel=blind)
    assert torch.equal(sent, attacks.build("ipm").rows(view)[0])
    with pytest.raises(ConfigError, match="the faulty workers' own updates"):
        attacks.build({"alie": {"source": "own"}}).corrupt(view.own[0], worker=0, num_workers=9, round=0, channel=blind)


@given(probability=st.floats(0.05, 0.95), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_each_message_is_faulty_with_the_given_probability(probability, seed):
    attack = attacks.build({"sign_flip": {"message_probability": probability}})
    view = attacks.RoundView(num_workers=2000, faulty_ids=tuple(range(2000)), own=torch.ones(2000, 1))
    flipped = attack.rows(view, generator=np.random.default_rng(seed))[:, 0] < 0
    expected = np.random.default_rng(seed).random(2000) < probability
    assert flipped.tolist() == expected.tolist()
    assert abs(flipped.double().mean().item() - probability) < 6 * np.sqrt(probability * (1 - probability) / 2000)


def test_the_generator_of_a_seed_is_apart_from_data_loading_and_from_other_workers():
    streams = [
        np.random.default_rng(7),
        np.random.default_rng(np.random.SeedSequence(7).spawn(1)[0]),
        *(attacks.generator_for(7, worker=worker) for worker in (None, 0, 1)),
    ]
    assert len({stream.random() for stream in streams}) == 5
    assert attacks.generator_for(7, worker=1).random() == attacks.generator_for(7, worker=1).random()


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"faulty_ids": (2, 1)}, "ascending"),
        ({"faulty_ids": (1, 1)}, "ascending"),
        ({"faulty_ids": (9,)}, "disjoint"),
        ({"faulty_ids": (1,), "honest_ids": (1, 2, 3)}, "disjoint"),
        ({"faulty_ids": (1,), "own": torch.zeros(2, 5)}, r"own must be .* shape \(1, 5\)"),
        ({"faulty_ids": (1,), "own": torch.zeros(1, 5), "honest": torch.zeros(3, 4)}, r"honest must be .* shape \(3, 5\)"),
        ({"faulty_ids": (1,), "own": torch.zeros(1, 5), "honest": torch.zeros(3, 5).double()}, "float32"),
        ({"faulty_ids": (1,), "own": torch.zeros(1, 5, dtype=torch.int64)}, "floating point"),
        ({"faulty_ids": (1,)}, "length of an update"),
    ],
)
def test_a_view_that_does_not_add_up_is_refused(fields, complaint):
    with pytest.raises(ConfigError, match=complaint):
        attacks.RoundView(num_workers=4, **fields)


def test_a_view_puts_rows_in_ascending_worker_id():
    rows = torch.arange(12.0).reshape(6, 2)
    view = attacks.RoundView.split(rows, [4, 1])
    assert view.faulty_ids == (1, 4)
    assert view.honest_ids == (0, 2, 3, 5)
    assert torch.equal(view.assemble(view.own), rows)


def test_ids_need_not_run_from_zero():
    view = attacks.RoundView(num_workers=3, faulty_ids=(20,), honest_ids=(7, 31), own=torch.ones(1, 2), honest=torch.zeros(2, 2))
    assert view.assemble(view.own).tolist() == [[0, 0], [1, 1], [0, 0]]


def test_an_attack_is_frozen_and_keyword_only():
    attack = attacks.build("ipm")
    with pytest.raises(AttributeError):
        attack.epsilon = 2.0
    with pytest.raises(TypeError):
        attacks.InnerProductManipulation(0.5)

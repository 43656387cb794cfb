"""Names, nearest names, parameters and their limits."""

import doctest

import pytest

from mottle import attacks
from mottle.attacks import registry
from mottle.core.errors import ConfigError

SPECIFIED = {
    "gaussian", "sign_flip", "omniscient", "bit_flip", "label_flip", "gambler", "alie", "ipm", "mimic", "min_max", "min_sum", "zero",
    "zero_sum", "non_finite", "malformed", "stale_replay", "sybil", "optimised", "count_inflation",
}  # fmt: skip


def test_the_catalogue_lists_every_attack_with_its_facts():
    entries = {entry.name: entry for entry in attacks.catalogue()}
    assert set(entries) == SPECIFIED | {"honest"}
    for entry in entries.values():
        assert entry.summary
        assert entry.citation
        assert [parameter.name for parameter in entry.parameters[:2]] == ["start", "message_probability"]
        assert all(parameter.doc and parameter.type for parameter in entry.parameters)
    sigma = attacks.Parameter(name="sigma", type="float", doc="Standard deviation (not variance).", default=200.0)
    assert sigma in entries["gaussian"].parameters
    knowledge = {name: int(entry.knowledge) for name, entry in entries.items()}
    assert knowledge == {
        "honest": 1, "gaussian": 0, "sign_flip": 1, "omniscient": 3, "bit_flip": 1, "label_flip": 1, "gambler": 0, "alie": 3, "ipm": 3,
        "mimic": 3, "min_max": 3, "min_sum": 3, "zero": 0, "zero_sum": 3, "non_finite": 0, "malformed": 1, "stale_replay": 1, "sybil": 1,
        "optimised": 4, "count_inflation": 1,
    }  # fmt: skip


def test_build_takes_a_name_a_mapping_or_an_attack():
    attack = attacks.build({"ipm": {"epsilon": 0.5}})
    assert attack == attacks.InnerProductManipulation(epsilon=0.5)
    assert attacks.build(attack) is attack
    assert attacks.build("Sign-Flip") == attacks.build("sign_flip")
    assert attacks.build("zero") == attacks.build({"zero": None}) == attacks.build({"zero": {}})
    assert attacks.build({"bit_flip": {"bits": [22, 31]}}).bits == (22, 31)
    assert attacks.build({"sybil": {"attack": "zero"}}).attack == attacks.build("zero")


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("ipn", "did you mean 'ipm'"),
        ("signflop", "did you mean 'sign_flip'"),
        ({"minmux": {}}, "did you mean 'min_max'"),
        ({"ipm": {"epsilom": 1}}, "attack ipm has no option 'epsilom'; did you mean 'epsilon'"),
        ({"sybil": {"attack": "alia"}}, "did you mean 'alie'"),
        ({"ipm": {}, "zero": {}}, "by the name alone"),
        ({"ipm": 0.5}, "by the name alone"),
        (7, "by the name alone"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(spec, complaint):
    with pytest.raises(ConfigError, match=complaint):
        attacks.build(spec)


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ({"ipm": {"epsilon": 0}}, "epsilon must be greater than 0"),
        ({"ipm": {"epsilon": "a lot"}}, "epsilon must be a finite number, got 'a lot'"),
        ({"ipm": {"epsilon": float("nan")}}, "finite"),
        ({"ipm": {"epsilon": True}}, "finite number, got True"),
        ({"ipm": {"start": -1}}, "start must be at least 0"),
        ({"ipm": {"start": 1.5}}, "start must be an integer"),
        ({"ipm": {"message_probability": 1.5}}, "message_probability must be at most 1"),
        ({"gaussian": {"sigma": -1.0, "mode": "add"}}, "sigma must be at least 0.*; mode must be one of 'replace', 'additive'"),
        ({"bit_flip": {"bits": [32]}}, "bits must be different integers from 0 to 31"),
        ({"bit_flip": {"bits": []}}, "bits must be"),
        ({"bit_flip": {"bits": [1, 1]}}, "bits must be"),
        ({"bit_flip": {"copy": True, "mode": "dimensional"}}, "copy needs mode 'row'"),
        ({"label_flip": {"num_classes": 1}}, "num_classes must be at least 2"),
        ({"gambler": {"shard": 20}}, "shard must be below num_shards = 20"),
        ({"alie": {"sign": 0}}, "sign must be one of -1, 1"),
        ({"mimic": {"target": 1, "warm_up": 2}}, "exclude each other"),
        ({"min_sum": {"bound": "median"}}, "bound must be one of"),
        ({"min_max": {"tolerance": 0.0}}, "tolerance must be greater than 0"),
        ({"malformed": {"kind": "odd"}}, "kind must be one of"),
        ({"stale_replay": {"lag": 0}}, "lag must be at least 1"),
        ({"sybil": {"identities": 0}}, "identities must be at least 1"),
        ({"sybil": {"identical": 1}}, "identical must be true or false"),
        ({"optimised": {"ratio": 1.0}}, "ratio must be below 1"),
        ({"count_inflation": {"claim": "many"}}, "claim must be a number"),
    ],
)
def test_a_value_out_of_range_is_named(spec, complaint):
    with pytest.raises(ConfigError, match=complaint):
        attacks.build(spec)


def test_a_wrapper_takes_attacks_only():
    with pytest.raises(ConfigError, match="attack must be an attack"):
        attacks.Sybil(attack="ipm")


def test_the_examples_run():
    for module in (attacks, registry):
        result = doctest.testmod(module)
        assert result.attempted > 0
        assert result.failed == 0

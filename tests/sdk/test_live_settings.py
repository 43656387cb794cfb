"""What a live run can change, and what is said of the rest."""

import math
from typing import Any

import pytest

from mottle.core.errors import ConfigError
from mottle.sdk.live_settings import checked_settings


def test_settings_come_out_in_the_form_that_the_brain_takes() -> None:
    assert checked_settings({"lr": 1, "rule": "median"}, "sync") == {"lr": 1.0, "rule": {"median": {}}}
    assert checked_settings({"rule": {"phocas": {"trim": 2}}}, {"sync": {}}) == {"rule": {"phocas": {"trim": 2}}}
    assert checked_settings({"rule": None}, "sync") == {"rule": None}


def test_a_strategy_keeps_its_kind_and_changes_its_options() -> None:
    defaults = {"batch_size": 8, "lr": 0.1, "optimizer": "sgd"}
    other = {"async": {"max_staleness": 3, "batch_size": 16}}
    assert checked_settings({"strategy": other}, "async", defaults=defaults) == {"strategy": other}
    for spec, said in (
        ("sync", "keeps its strategy 'async' and can change its options, got 'sync'"),
        ({"async": {"max_stalenes": 3}}, "did you mean 'max_staleness'"),
    ):
        with pytest.raises(ConfigError, match=said):
            checked_settings({"strategy": spec}, "async", defaults=defaults)
    with pytest.raises(ConfigError, match="server_optimizer of strategy 'diloco' cannot change in a live run"):
        checked_settings({"strategy": {"diloco": {"local_steps": 2, "outer_lr": 0.5}}}, {"diloco": {"local_steps": 2}}, defaults=defaults)


def test_momentum_is_changed_where_there_is_some() -> None:
    sgd = {"sgd": {"lr": 0.1, "momentum": 0.9}}
    assert checked_settings({"momentum": 0.5}, "async", optimizer=sgd) == {"momentum": 0.5}
    for value, optimizer, said in (
        (1.5, sgd, "between 0 and 1"),
        (0.5, {"adam": {}}, "step by adam"),
        (0.5, {"sgd": {"lr": 0.1}}, "with some"),
    ):
        with pytest.raises(ConfigError, match=said):
            checked_settings({"momentum": value}, "async", optimizer=optimizer)


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, True, "fast", None])
def test_a_learning_rate_is_a_number(value: Any) -> None:
    with pytest.raises(ConfigError, match="lr is a finite number of at least 0"):
        checked_settings({"lr": value}, "async")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "nothing to change was given; known: lr, momentum, rule, strategy"),
        ({"rul": "median"}, "no setting 'rul'; did you mean 'rule'"),
        ({"rule": "phocaz"}, "did you mean 'phocas'"),
        ({"rule": {"phocas": {"trin": 1}}}, "did you mean 'trim'"),
        ({"rule": "fltrust"}, "needs a reference from trusted data in every round"),
        ({"rule": 3}, "rule is named as"),
        ({"lr": -1.0, "rate": 2.0}, "lr is a finite number of at least 0, got -1.0; a live run has no setting 'rate'"),
    ],
    ids=lambda value: "-".join(map(str, value)) or "nothing" if isinstance(value, dict) else None,
)
def test_what_cannot_be_set_is_told_with_the_nearest_name(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        checked_settings(settings, "sync")


def test_a_strategy_without_rules_has_none_to_change() -> None:
    with pytest.raises(ConfigError, match="strategy 'async' applies no robust rule"):
        checked_settings({"rule": "median"}, "async")


def test_a_rule_that_tries_updates_at_the_job_s_rate_does_not_go_with_another_one() -> None:
    with pytest.raises(ConfigError, match="batch_policy changes it"):
        checked_settings({"rule": {"zeno": {"trim": 1, "rho": 0.01}}}, "sync", trusted=True, lr=0.1, resized=True)


def test_local_steps_take_rules_that_compare_the_workers_with_one_another() -> None:
    assert checked_settings({"rule": "median"}, "diloco") == {"rule": {"median": {}}}
    with pytest.raises(ConfigError, match="these are sums of local steps"):
        checked_settings({"rule": "fltrust"}, "diloco", trusted=True)
    with pytest.raises(ConfigError, match="strategy 'domo' applies no robust rule"):
        checked_settings({"rule": "median"}, "domo")

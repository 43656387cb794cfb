"""Names of seams: one form, tolerant of spelling, helpful about mistakes."""

import pytest

from mottle.core.errors import ConfigError
from mottle.core.naming import lookup, parse, suggestion


@pytest.mark.parametrize(
    ("spec", "parsed"),
    [
        ("adam", ("adam", {})),
        ({"adam": {"lr": 0.1}}, ("adam", {"lr": 0.1})),
        ({"adam": None}, ("adam", {})),
    ],
)
def test_a_name_with_or_without_options_is_understood(spec: object, parsed: object) -> None:
    assert parse(spec, "optimizer") == parsed


@pytest.mark.parametrize("spec", [3, None, {}, {"a": {}, "b": {}}, {"a": 3}, {4: {}}, ["a"]])
def test_any_other_form_is_refused_with_the_form_that_is_wanted(spec: object) -> None:
    with pytest.raises(ConfigError, match=r"rule is named as \{name"):
        parse(spec, "rule")


def test_options_are_a_copy() -> None:
    options = {"lr": 0.1}
    parse({"adam": options}, "optimizer")[1]["lr"] = 0.2
    assert options == {"lr": 0.1}


@pytest.mark.parametrize("name", ["AdamW", "adam_w", "ADAM-W", "adamw"])
def test_case_underscores_and_hyphens_do_not_matter(name: str) -> None:
    assert lookup(name, {"AdamW": 1, "Adam": 2}, "optimizer") == 1


def test_a_misspelt_name_brings_the_nearest_and_all() -> None:
    with pytest.raises(ConfigError, match=r"unknown rule 'phocos'; did you mean 'phocas'\? known: median, phocas"):
        lookup("phocos", {"phocas": 1, "median": 2}, "rule")


def test_a_name_like_no_other_brings_only_the_list() -> None:
    assert suggestion("zzz", ["median", "mean"]) == "known: mean, median"

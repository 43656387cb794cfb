"""Names of seams: one form, tolerant of spelling, helpful about mistakes."""

from dataclasses import dataclass, field

import pytest

from mottle.core.errors import ConfigError
from mottle.core.naming import construct, lookup, parse, suggestion


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


@dataclass(frozen=True, kw_only=True)
class Trim:
    """A config as the seams have them."""

    trim: int
    derived: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.trim < 0:
            raise ValueError(f"trim must not be negative, got {self.trim}")


@dataclass(frozen=True)
class Bare:
    """One without options."""


CATALOGUE = {"phocas": Trim, "mean": Bare}


def test_a_config_is_constructed_from_its_spec() -> None:
    assert construct({"Phocas": {"trim": 2}}, CATALOGUE, "rule") == Trim(trim=2)
    assert construct("mean", CATALOGUE, "rule") == Bare()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"phocas": {"trin": 2}}, "rule 'phocas' has no option 'trin'; did you mean 'trim'"),
        ({"phocas": {"derived": 2}}, "no option 'derived'; .*known: trim$"),
        ({"mean": {"trim": 2}}, "rule 'mean' has no option 'trim'; it has none"),
        ({"phocas": {}}, "rule 'phocas' needs trim; there is no default"),
        ({"phocas": {"trim": -1}}, "rule 'phocas': trim must not be negative, got -1"),
        ({"phocas": {"trim": "two"}}, "rule 'phocas': '<' not supported"),
        ("median", "unknown rule 'median'; did you mean 'mean'"),
    ],
)
def test_mistakes_in_options_are_named(spec: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        construct(spec, CATALOGUE, "rule")

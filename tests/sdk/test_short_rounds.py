"""A job whose rounds of local steps do not fit into an epoch is told so."""

import pytest

from mottle import strategies
from mottle.sdk.short_rounds import short_rounds_warning


@pytest.mark.parametrize(("num_positions", "told"), [(1000, None), (500, None), (451, None), (450, "an epoch of 450 has 9"), (7, "has 1;")])
def test_rounds_that_an_epoch_cuts_short_are_told_of(num_positions: int, told: str | None) -> None:
    strategy = strategies.build({"diloco": {"local_steps": 10}}, {"batch_size": 50, "optimizer": "adamw"})
    warning = short_rounds_warning(strategy, num_positions)
    assert (warning is None) == (told is None)
    assert told is None or told in str(warning)


@pytest.mark.parametrize("name", ["sync", "fedasync"])
def test_strategies_without_rounds_of_local_steps_are_left_in_peace(name: str) -> None:
    assert short_rounds_warning(strategies.build(name, {"batch_size": 50, "optimizer": "sgd"}), 7) is None

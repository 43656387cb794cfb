"""What the tour of sweeps shows."""

from collections.abc import Callable
from typing import Any

import pytest

NOTEBOOK = "tune_quickstart.ipynb"

pytestmark = pytest.mark.ray


def test_a_wrong_name_is_told_with_the_nearest(outputs_of: Callable[[str], list[Any]]) -> None:
    (said,) = outputs_of("optimizer.lrr")
    assert "did you mean 'lr'?" in said["text"]


def test_three_trials_ran_and_the_best_ones_model_is_what_was_measured(outputs_of: Callable[[str], list[Any]]) -> None:
    (table,) = outputs_of("grid.get_dataframe()")
    assert table["data"]["text/html"].count("<tr") == 1 + 3
    (said,) = [each for each in outputs_of("load_state_dict") if each.output_type == "stream"]
    measured, here = (float(part.split()[-1]) for part in said["text"].split(","))
    assert measured == pytest.approx(here, abs=0.02)
    assert measured > 0.5

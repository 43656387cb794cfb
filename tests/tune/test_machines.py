"""A machine of a shared fleet is taken away, on a real Ray of several (simulated) nodes, in a process of its own."""

from pathlib import Path

import pytest
from tests.drivers import seen_by

pytestmark = pytest.mark.ray


def test_a_lent_worker_leaves_its_machine_before_that_is_taken_away_and_another_takes_its_place(tmp_path: Path) -> None:
    seen = seen_by(Path(__file__).with_name("machines_driver.py"), tmp_path)
    assert seen == {"refused": "", "present": ["w1", "w2"], "on_it": [], "killed": []}

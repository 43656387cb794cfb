"""Machines that come and are taken away, on a real Ray of several (simulated) nodes, in a process of its own."""

from pathlib import Path

import pytest
from tests.drivers import seen_by

from mottle.actors import drains

pytestmark = pytest.mark.ray


def test_a_machine_that_is_taken_away_is_emptied_before_and_a_new_one_is_used(tmp_path: Path) -> None:
    seen = seen_by(Path(__file__).with_name("machines_driver.py"), tmp_path)
    assert (seen["refused"], seen["state"], seen["left_behind"]) == ("", "left", [])
    assert seen["emptied_s"] < 60.0, "the deadline"
    assert (seen["lost"], seen["failed"]) == (0, False)


@pytest.mark.usefixtures("local_ray")
def test_rays_private_interface_of_drains_is_what_it_was() -> None:
    """The test above shows that what `mottle.actors.drains` uses works; this one says by name what is missing if it does not."""
    client = drains._client()
    assert callable(client.drain_node)
    assert callable(client.get_draining_nodes)
    assert drains.draining() == {}

"""Machines with another software are refused, with what differs."""

import pytest

from mottle.actors.fleet import CrewError, check_versions
from mottle.core import versions

HERE = versions.here()


def test_the_same_software_is_welcome() -> None:
    check_versions(3, {"versions": HERE})


@pytest.mark.parametrize("name", ["python", "ray", "torch", "mottle"])
def test_a_worker_with_another_version_is_refused_with_both_and_a_remedy(name: str) -> None:
    with pytest.raises(CrewError) as refused:
        check_versions(3, {"versions": {**HERE, name: "0.1.2"}})
    title = name if name == "torch" else name.capitalize()
    assert str(refused.value).startswith(f"refused: host of worker 3: {title} 0.1.2, and here {HERE[name]}; ")


def test_everything_that_differs_is_told_at_once() -> None:
    with pytest.raises(CrewError, match=r"Ray 0\.1, and here .*; .*torch 0\.2, and here"):
        check_versions(3, {"versions": {**HERE, "ray": "0.1", "torch": "0.2"}})

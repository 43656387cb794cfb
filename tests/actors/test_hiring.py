"""Whom a machine that comes gives work to, and what an autoscaler is asked for."""

import pytest

from mottle.actors.hiring import Machine, hires, needs, wishes
from mottle.actors.job import WorkerGroup

CPUS = WorkerGroup(name="cpus", count=1, max_count=4, num_cpus=2)
GPUS = WorkerGroup(name="gpus", count=2, num_cpus=1, num_gpus=1, label_selector={"zone": "a"})


@pytest.mark.parametrize(
    ("resources", "labels", "present", "vacant", "hired"),
    [
        ({"CPU": 8}, {}, {"cpus": 1}, {}, {"cpus": 3}),  # up to max_count
        ({"CPU": 5}, {}, {"cpus": 1}, {}, {"cpus": 2}),  # as many as fit
        ({"CPU": 8}, {}, {"cpus": 4}, {}, {}),  # full
        ({"CPU": 8, "GPU": 2}, {"zone": "a"}, {"cpus": 4, "gpus": 2}, {}, {}),  # no max_count, and nobody was lost
        ({"CPU": 8, "GPU": 2}, {"zone": "a"}, {"cpus": 4, "gpus": 1}, {"gpus": 1}, {"gpus": 1}),  # one was
        ({"CPU": 8, "GPU": 2}, {"zone": "b"}, {"cpus": 4, "gpus": 1}, {"gpus": 1}, {}),  # elsewhere
        ({"CPU": 3, "GPU": 2}, {"zone": "a"}, {"cpus": 3, "gpus": 0}, {"gpus": 2}, {"cpus": 1, "gpus": 1}),  # shared
        ({}, {}, {"cpus": 0}, {}, {}),
    ],
)
def test_a_machine_is_used_as_far_as_the_groups_may_grow(
    resources: dict[str, float], labels: dict[str, str], present: dict[str, int], vacant: dict[str, int], hired: dict[str, int]
) -> None:
    assert hires(Machine("m", resources, labels), (CPUS, GPUS), present, vacant) == hired


def test_what_a_worker_needs_is_what_ray_is_asked_for() -> None:
    group = WorkerGroup(num_cpus=0.5, num_gpus=0, resources={"memory": 1e9}, accelerator_type="A10G")
    assert needs(group) == {"CPU": 0.5, "memory": 1e9, "accelerator_type:A10G": 0.001}


def test_an_autoscaler_is_asked_for_the_most_that_is_declared_and_for_nothing_where_nothing_may_grow() -> None:
    bundles, labels = wishes((CPUS, GPUS))
    assert bundles == [{"CPU": 2}] * 4 + [{"CPU": 1, "GPU": 1}] * 2
    assert labels == [{}] * 4 + [{"zone": "a"}] * 2
    assert wishes((GPUS,)) == ([], [])

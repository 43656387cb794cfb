"""What is set aside for a trial is its crew, and nothing for its own process."""

from pathlib import Path

from mottle.sdk import WorkerGroup, jobfile
from mottle.tune import crew

FAST = WorkerGroup(name="fast", count=2, max_count=9, num_cpus=0.5, num_gpus=1, resources={"licence": 1.0, "memory": 2.0**30})
IDLE = WorkerGroup(name="idle", count=3, num_cpus=0.0)


def test_each_worker_is_a_bundle_after_an_empty_one() -> None:
    typed = WorkerGroup(name="typed", count=1, num_cpus=4.0, accelerator_type="A10G")
    fast = {"CPU": 0.5, "GPU": 1, "licence": 1.0, "memory": 2.0**30}
    assert crew.bundles([FAST, IDLE, typed]) == [{}, fast, fast, {"CPU": 4.0, "accelerator_type:A10G": 0.001}]


def test_a_crew_that_asks_for_nothing_asks_for_next_to_nothing() -> None:
    assert crew.bundles([IDLE]) == [{}, {"CPU": crew.LEAST_CPU}]
    assert crew.request([IDLE]) == crew.nothing()


def test_labels_stand_in_the_order_of_the_bundles() -> None:
    near = WorkerGroup(name="near", count=1, label_selector={"zone": "a"})
    assert crew.selectors([FAST, IDLE, near]) == [{}, {}, {"zone": "a"}]
    assert crew.selectors([FAST]) == []


def test_the_request_sums_up_to_the_crew() -> None:
    request = crew.request([FAST])
    assert request.head_bundle_is_empty
    assert request.required_resources == {"CPU": 1.0, "GPU": 2.0, "licence": 2.0, "memory": 2.0**31}
    read = jobfile.read(Path(__file__).resolve().parents[2] / "examples" / "digits" / "async.yaml")
    assert crew.request(crew.groups_of(read)).required_resources == {"CPU": 1.5}

"""Run by `test_machines.py` in a process of its own: machines come and are taken away while a job trains. Prints what it saw, as JSON."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster
from tests.actors import live

from mottle.actors import drains
from mottle.observe.snapshot import Snapshot
from mottle.sdk import Run, WorkerGroup


def wait(run: Run, condition: Any, what: str) -> Snapshot:
    return live.wait_for(run, condition, what)


def present(now: Snapshot) -> list[str]:
    return [row.id for row in now.workers if row.state not in ("left", "killed")]


def accepted(now: Snapshot) -> int:
    return sum(row.accepted for row in now.workers)


def main(folder: Path) -> dict[str, Any]:
    """A head without workers, and two machines with one each; the one that also holds a shard is drained and goes, then another comes."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    nodes = {node.node_id: node for node in (cluster.add_node(num_cpus=1) for _ in range(2))}
    job = live.trainer(
        folder,
        model=live.perceptron,
        strategy="async",
        shards=2,
        until={"epochs": 10_000},
        scaling_config=WorkerGroup(count=2, max_count=3, num_cpus=1, delay_s=0.005),
    )
    seen: dict[str, Any] = {}
    with live.started(job) as run:
        wait(run, lambda now: all(row.accepted for row in now.workers), "both had worked")
        places = run.places()
        (going,) = {place.node for name, place in places.items() if name.startswith("shard")} & nodes.keys()
        (leaver,) = [name for name, place in places.items() if name.startswith("w") and place.node == going]
        seen["refused"] = drains.drain(going, "the price of spot machines rose", 60.0)
        began_s = time.monotonic()
        told = wait(
            run,
            lambda now: leaver not in present(now) and any(event.kind == "replica" and "moved off" in event.text for event in now.events),
            "the machine was empty",
        )
        seen["emptied_s"] = time.monotonic() - began_s
        seen["state"] = live.row(told, leaver).state
        seen["left_behind"] = [name for name, place in run.places().items() if place.node == going]
        cluster.remove_node(nodes[going])
        before = accepted(run.progress)
        wait(run, lambda now: accepted(now) > before + 3, "the run went on without the machine")
        began_s = time.monotonic()
        cluster.add_node(num_cpus=2)
        wait(run, lambda now: len(present(now)) == 3, "the new machine was used")
        seen["used_s"] = time.monotonic() - began_s
        run.stop()
        summary = run.result().summary
    assert summary is not None
    seen["lost"] = summary.updates.lost
    seen["failed"] = summary.failed
    live.assert_replay(job)
    ray.shutdown()
    cluster.shutdown()
    return seen


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))

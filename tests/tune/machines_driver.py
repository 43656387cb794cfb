"""Run by `test_machines.py` in a process of its own: a machine of a shared fleet is taken away. Prints what it saw, as JSON."""

import json
import sys
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster
from tests.actors import live
from tests.actors.machines_driver import present
from tests.tune.test_sharing import sharing, step_until
from tests.tune.test_trial import described, running

from mottle.actors import drains
from mottle.sdk import WorkerGroup
from mottle.tune import Arbiter


def main(folder: Path) -> dict[str, Any]:
    """Two machines with a worker each, both lent to one trial; the one of the first worker is drained when there is a third machine."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    crew = {"scaling_config": WorkerGroup(count=2, num_cpus=1, delay_s=0.001), "strategy": "async", "until": {"epochs": 10_000}}
    plain = described(folder, **crew)
    job = live.trainer(folder / "fleet", test_data=live.blobs(50, seed=1), **crew)
    with Arbiter(job, stay_s=0.0, max_deaths=1) as fleet, running(sharing(plain, fleet), folder, {"optimizer.lr": 0.1}) as trial:
        step_until(trial, 2)
        run: Any = trial._going.run
        going = run.places()["w0"].node
        cluster.add_node(num_cpus=1)
        refused = drains.drain(going, "the price of spot machines rose", 60.0)
        now = live.wait_for(run, lambda now: "w0" not in present(now) and len(present(now)) == 2, "the worker moved")
        step_until(trial, 2)
        on_it = [name for name, place in run.places().items() if name.startswith("w") and place.node == going]
        seen = {"refused": refused, "present": present(now), "on_it": on_it, "killed": [r.id for r in now.workers if r.state == "killed"]}
    ray.shutdown()
    cluster.shutdown()
    return seen


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))

"""Which machines of the cluster are about to be taken away: Ray's own drain notices, which come of `ray drain-node`, of its autoscaler, and
of what watches for the notices of spot machines.

Ray 2.60 has no public way to ask for them. What is private stays in this module, and a contract test holds it to what is used here.
"""

import time
from typing import Any

import ray


def draining() -> dict[str, float | None]:
    """Seconds that are left, by Ray's id of the node; None where no deadline was set. Machines that are gone are not among them.

    Raises:
        ray.exceptions.RaySystemError: the cluster does not answer.
    """
    now_ms = time.time() * 1000
    found: dict[str, int] = _client().get_draining_nodes()
    return {node: max(0.0, (at_ms - now_ms) / 1000) if at_ms > 0 else None for node, at_ms in found.items()}


def drain(node: str, reason: str, left_s: float) -> str:
    """Give notice that a node will be taken away, as a provider's notice does. Returns why Ray refused; empty if it did not.

    Args:
        node: Ray's id.
        reason: for people.
        left_s: until it goes.
    """
    from ray.core.generated import autoscaler_pb2

    generated: Any = autoscaler_pb2  # its classes are made when it is imported
    preempted = generated.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    accepted, refusal = _client().drain_node(node, preempted, reason, int((time.time() + left_s) * 1000))
    return "" if accepted else str(refusal)


def _client() -> Any:
    return ray._private.worker.global_worker.gcs_client  # type: ignore[attr-defined]  # private

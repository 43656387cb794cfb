"""The actors that a coordinator makes: detached, so that they outlive its process, and found again by their names.

That they do not outlive the coordinator itself is their own affair (`mottle.actors.lifeline`).
"""

import secrets
from typing import Any, NamedTuple

import ray

NAMESPACE = "mottle-crew"
"""Ray namespace of them all."""


class Child(NamedTuple):
    """An actor that a coordinator made, by its name."""

    name: str
    role: str
    about: tuple[str, ...]
    """Of a worker: its slot and its group, in the run for which it was made."""

    @property
    def handle(self) -> Any:
        return ray.get_actor(self.name, namespace=NAMESPACE)


def child(role: str, *about: object) -> tuple[dict[str, Any], tuple[Any]]:
    """Options and argument of an actor that outlives this process but not this actor, the coordinator; see `mottle.actors.lifeline`."""
    context = ray.get_runtime_context()
    if (me := context.get_actor_id()) is None:
        return {}, (None,)  # of a driver, as tests make them: it ends with its maker
    name = "/".join([me, role, secrets.token_hex(4), *map(str, about)])
    return {"name": name, "namespace": NAMESPACE, "lifetime": "detached"}, (context.current_actor,)


def children() -> list[Child]:
    """The actors that this actor made, in this process or in one before it, and that have not ended."""
    me = ray.get_runtime_context().get_actor_id()
    found = []
    for each in ray.util.list_named_actors(all_namespaces=True):
        maker, *rest = each["name"].split("/", 4)
        if each["namespace"] == NAMESPACE and maker == me:
            role, _, *about = rest
            found.append(Child(each["name"], role, tuple(about)))
    return found

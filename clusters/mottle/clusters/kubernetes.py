"""`RayCluster` resources: what the operator and Ray's autoscaler refuse or silently leave out."""

from collections.abc import Mapping
from typing import Any

from mottle.clusters import rays_own
from mottle.clusters.findings import Findings
from mottle.storage.document import KeyPath

_TOP = ("apiVersion", "kind", "metadata", "spec", "status")
_SPEC = (
    *("rayVersion", "enableInTreeAutoscaling", "autoscalerOptions", "authOptions", "headGroupSpec", "workerGroupSpecs"),
    *("headServiceAnnotations", "gcsFaultToleranceOptions", "suspend", "managedBy", "upgradeStrategy"),
)
_GROUP = (
    *("groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template", "resources", "labels", "numOfHosts"),
    *("idleTimeoutSeconds", "scaleStrategy", "suspend"),
)
_HEAD = ("rayStartParams", "template", "resources", "labels", "serviceType", "headService", "enableIngress")


def look(data: Mapping[str, Any], findings: Findings) -> None:
    """Look at a whole resource."""
    if data.get("kind") != "RayCluster":
        findings.fault(("kind",), f"wanted RayCluster, got {data.get('kind')!r}")
    if str(data.get("apiVersion")) != "ray.io/v1":
        findings.fault(("apiVersion",), f"wanted ray.io/v1, got {data.get('apiVersion')!r}")
    for key in data.keys() - set(_TOP):
        findings.unknown((), key, _TOP)
    spec = data.get("spec")
    if not isinstance(spec, Mapping):
        findings.fault(("spec",), "wanted a mapping with headGroupSpec and workerGroupSpecs")
        return
    for key in spec.keys() - set(_SPEC):
        findings.unknown(("spec",), key, _SPEC)
    groups = _groups(spec, findings)
    _authentication(spec, groups, findings)
    _versions(spec, findings)
    if not findings.faults:
        _rays_own(data, findings)


def _groups(spec: Mapping[str, Any], findings: Findings) -> list[tuple[KeyPath, Mapping[str, Any]]]:
    """Every group with its path, head first; looked at on the way."""
    found: list[tuple[KeyPath, Mapping[str, Any]]] = []
    head, workers = spec.get("headGroupSpec"), spec.get("workerGroupSpecs")
    if isinstance(head, Mapping):
        found.append((("spec", "headGroupSpec"), head))
    else:
        findings.fault(("spec", "headGroupSpec"), "wanted the head's group")
    if not isinstance(workers, list) or not workers:
        findings.fault(("spec", "workerGroupSpecs"), "wanted a list of worker groups")
        workers = []
    names: list[Any] = []
    for index, group in enumerate(workers):
        path: KeyPath = ("spec", "workerGroupSpecs", index)
        if not isinstance(group, Mapping):
            findings.fault(path, f"wanted a mapping, got {group!r}")
            continue
        found.append((path, group))
        name = group.get("groupName")
        if name is None or name in names:
            findings.fault((*path, "groupName"), "every group needs a name of its own" + (f", got {name!r} twice" if name else ""))
        names.append(name)
        _counts(path, group, findings)
    for path, group in found:
        known = _HEAD if path[-1] == "headGroupSpec" else _GROUP
        for key in group.keys() - set(known):
            findings.unknown(path, key, known)
        _containers(path, group, findings)
    return found


def _counts(path: KeyPath, group: Mapping[str, Any], findings: Findings) -> None:
    low, now, high = (group.get(key) for key in ("minReplicas", "replicas", "maxReplicas"))
    if not isinstance(low, int) or not isinstance(high, int):
        findings.fault(path, "needs whole numbers minReplicas and maxReplicas")
    elif not 0 <= low <= (low if now is None else now) <= high:
        findings.fault((*path, "replicas"), f"wanted minReplicas <= replicas <= maxReplicas, got {low}, {now} and {high}")


def _containers(path: KeyPath, group: Mapping[str, Any], findings: Findings) -> None:
    containers = containers_of(group)
    where: KeyPath = (*path, "template", "spec", "containers")
    if not containers:
        findings.fault(where, "wanted a list of containers, the first of them Ray's")
        return
    if not containers[0].get("image"):
        findings.fault((*where, 0), "needs an image, with Ray, torch and Mottle in it")
    limits = (containers[0].get("resources") or {}).get("limits") or {}
    for key in ("cpu", "memory"):
        if key not in limits:
            findings.fault((*where, 0, "resources"), f"needs limits.{key}: Ray counts a pod's resources by its limits")


def containers_of(group: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    template = group.get("template")
    spec = template.get("spec") if isinstance(template, Mapping) else None
    found = spec.get("containers") if isinstance(spec, Mapping) else None
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


def _authentication(spec: Mapping[str, Any], groups: list[tuple[KeyPath, Mapping[str, Any]]], findings: Findings) -> None:
    mode = (spec.get("authOptions") or {}).get("mode")
    if mode == "token":
        return
    if mode is not None:
        findings.fault(
            ("spec", "authOptions", "mode"), f"wanted token, got {mode!r}: whoever reaches the port could run any code on the cluster"
        )
        return
    for path, group in groups:
        for index, container in enumerate(containers_of(group)[:1]):
            variables = {each.get("name"): each for each in container.get("env") or [] if isinstance(each, Mapping)}
            where: KeyPath = (*path, "template", "spec", "containers", index)
            if (variables.get("RAY_AUTH_MODE") or {}).get("value") != "token":
                findings.fault(
                    where, "RAY_AUTH_MODE is not token here; set spec.authOptions.mode: token, or the variable in every container"
                )
            elif "RAY_AUTH_TOKEN" not in variables:
                findings.fault(where, "RAY_AUTH_TOKEN is not set here: take it from a secret with valueFrom.secretKeyRef")


def _versions(spec: Mapping[str, Any], findings: Findings) -> None:
    from importlib.metadata import version

    ours, theirs = version("ray"), spec.get("rayVersion")
    if theirs is not None and str(theirs) != ours:
        findings.fault(("spec", "rayVersion"), f"wanted {ours}, which is installed here and which every node must have, got {theirs}")


def _rays_own(data: Mapping[str, Any], findings: Findings) -> None:
    """The autoscaler reads namespace and name where the operator has filled them in."""
    metadata = {"namespace": "default", "name": "cluster", **(data.get("metadata") or {})}
    try:
        rays_own.kubernetes_config({**data, "metadata": metadata})
    except Exception as error:  # it raises what it likes, and what it says is all there is to know
        findings.fault(("spec",), f"Ray's autoscaler refuses it: {type(error).__name__}: {error}")

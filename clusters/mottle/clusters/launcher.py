"""Files of `ray up`: what Ray refuses, what a cloud refuses, and what a cluster that trains with Mottle needs."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mottle.clusters import rays_own
from mottle.clusters.findings import Findings
from mottle.core.naming import suggestion
from mottle.storage.document import KeyPath

MARKET = "ray.io/market-type"
_PROVIDER_KEYS = {
    "aws": ("region", "availability_zone", "cache_stopped_nodes", "security_group", "cloudwatch", "aws_credentials"),
    "gcp": ("region", "availability_zone", "project_id", "cache_stopped_nodes", "gcp_credentials"),
    "azure": ("location", "resource_group", "subscription_id", "availability_zone", "cache_stopped_nodes", "msi_name", "subnet_mask"),
    "local": ("head_ip", "worker_ips", "coordinator_address", "external_head_ip", "external_worker_ips"),
}
_EVERY_PROVIDER = ("type", "use_internal_ips", "module", "disable_node_updaters", "use_external_head_ip")
_MACHINE = {"aws": ("InstanceType",), "gcp": ("machineType",), "azure": ("azure_arm_parameters", "vmSize")}
_ONE_TYPE = ("available_node_types", "head_node_type", "head_node", "worker_nodes")
_START = ("head_start_ray_commands", "worker_start_ray_commands")
_NEEDED = {  # local files that a command makes
    "auth_token": "`ray get-auth-token --generate` makes one",
    "dist": "`pip wheel --no-deps --wheel-dir dist .` in Mottle's repository makes it",
}


def look(data: Mapping[str, Any], findings: Findings, base: Path) -> None:
    """Look at a whole file.

    Args:
        base: folder that local paths are relative to.
    """
    rays_own.look(data, findings)
    provider = data.get("provider")
    kind = provider.get("type") if isinstance(provider, Mapping) else None
    if isinstance(provider, Mapping):
        _provider(provider, kind, data, findings)
    if "min_workers" in data and kind != "local":
        findings.fault(("min_workers",), "nobody reads it here; say min_workers of each of available_node_types")
    for name, group in _mappings(data.get("available_node_types")):
        _group(name, group, kind, name == data.get("head_node_type"), findings)
    _commands(data, kind, findings)
    _mounts(data, findings, base)


def _provider(provider: Mapping[str, Any], kind: Any, data: Mapping[str, Any], findings: Findings) -> None:
    if kind not in _PROVIDER_KEYS:
        if kind is not None and "module" not in provider:
            findings.remark(("provider", "type"), f"not looked into: {kind!r}; {suggestion(str(kind), _PROVIDER_KEYS)}")
        return
    findings.misspelt(("provider",), provider, (*_EVERY_PROVIDER, *_PROVIDER_KEYS[kind]))
    if kind == "gcp" and provider.get("project_id") in (None, "my-project"):
        findings.fault(("provider", "project_id"), f"wanted the id of your project, got {provider.get('project_id')!r}")
    if kind != "local":
        return
    if "coordinator_address" not in provider:
        for key in {"head_ip", "worker_ips"} - provider.keys():
            findings.fault(("provider",), f"needs the key {key!r}, or coordinator_address")
    for key in _ONE_TYPE:
        if data.get(key):
            findings.fault((key,), "a cluster of your own machines has one node type, which Ray makes itself; leave this out")
    if "ssh_user" not in (data.get("auth") or {}):
        findings.fault(("auth",), "needs ssh_user: who logs in on the machines")


def _group(name: str, group: Mapping[str, Any], kind: Any, is_head: bool, findings: Findings) -> None:
    path: KeyPath = ("available_node_types", name)
    config = group.get("node_config")
    if isinstance(config, Mapping) and kind in _MACHINE:
        inner: Any = config
        for step in _MACHINE[kind]:
            inner = inner.get(step) if isinstance(inner, Mapping) else None
        if inner is None:
            findings.fault((*path, "node_config"), f"needs {'.'.join(_MACHINE[kind])}: which machine to rent")
    if kind in ("gcp", "azure") and not (group.get("resources") or {}).get("CPU"):
        findings.fault((*path, "resources"), "Ray does not look up a machine's resources on this cloud; say {CPU: ..., GPU: ...}")
    low, high = group.get("min_workers", 0), group.get("max_workers")
    if isinstance(low, int) and isinstance(high, int) and low > high:
        findings.fault((*path, "min_workers"), f"wanted at most max_workers={high}, got {low}")
    if isinstance(config, Mapping):
        _market(path, group, is_spot(config), is_head, findings)


def _market(path: KeyPath, group: Mapping[str, Any], spot: bool, is_head: bool, findings: Findings) -> None:
    labelled = (group.get("labels") or {}).get(MARKET)
    if spot and is_head:
        findings.remark(path, "the head is a spot machine: when it is taken away the coordinator goes with it and the run ends")
    if spot and labelled != "spot":
        findings.remark((*path, "labels"), f"a spot group without the label {MARKET}: spot; Mottle would put parameter shards on it")
    if not spot and labelled == "spot":
        findings.remark((*path, "labels", MARKET), "says spot, and node_config asks for machines at the full price")


def is_spot(config: Mapping[str, Any]) -> bool:
    """Whether a node config asks for machines that may be taken away."""
    scheduling = config.get("scheduling") or []
    options = [scheduling] if isinstance(scheduling, Mapping) else scheduling
    return (
        (config.get("InstanceMarketOptions") or {}).get("MarketType") == "spot"
        or any(option.get("preemptible") is True or option.get("provisioningModel") == "SPOT" for option in options)
        or str((config.get("azure_arm_parameters") or {}).get("priority")).lower() == "spot"
    )


# --- commands -------------------------------------------------------------------------------------------------------------------------


def _commands(data: Mapping[str, Any], kind: Any, findings: Findings) -> None:
    for key in _START:
        found = [(index, command) for index, command in _texts(data.get(key)) if re.search(r"\bray start\b", command)]
        if not found:
            findings.fault((key,), "needs a command with `ray start`; Ray's own default has no authentication")
        for index, command in found:
            _start((key, index), command, key, kind, findings)
    installed = "".join(command for key in data if key.endswith("setup_commands") for _, command in _texts(data[key]))
    if "mottle" not in installed and not (data.get("docker") or {}).get("image"):
        findings.fault(
            ("setup_commands",), "no command installs Mottle, and the workers import it; see clusters/aws.yaml for one that does"
        )
    if "RAY_AUTH_TOKEN" not in str(data) and not any(str(remote).endswith("auth_token") for remote in _mapping(data.get("file_mounts"))):
        findings.fault(
            ("file_mounts",), "no token reaches the machines: mount one, ~/.ray/auth_token: ~/.ray/auth_token, or set RAY_AUTH_TOKEN_PATH"
        )


def _start(path: KeyPath, command: str, key: str, kind: Any, findings: Findings) -> None:
    mode = re.search(r"\bRAY_AUTH_MODE=(\w*)", command)
    if mode is None or mode[1] != "token":
        came = "it is not set" if mode is None else f"got {mode[1]!r}"
        findings.fault(
            path,
            f"RAY_AUTH_MODE must be token where Ray starts, and {came}: "
            "whoever reaches the port could run any code on the cluster; put `export RAY_AUTH_MODE=token;` before `ray start`",
        )
    if re.search(r"\bRAY_AUTH_TOKEN=(?!\$)\S", command):
        findings.fault(path, "RAY_AUTH_TOKEN stands in the file for everybody to read; mount ~/.ray/auth_token instead")
    if not key.startswith("head"):
        if "RAY_HEAD_IP" not in command and "--address" not in command:
            findings.fault(path, "a worker needs --address=$RAY_HEAD_IP:6379, or it starts a Ray of its own")
        return
    if "--autoscaling-config" not in command:
        findings.fault(path, "the head needs --autoscaling-config=~/ray_bootstrap_config.yaml, or no machine is ever added")
    if "RAY_health_check_period_ms" not in command:
        findings.remark(
            path,
            "a lost machine is noticed after about 16 s; RAY_health_check_period_ms=1000 and its siblings in clusters/aws.yaml make it 3 s",
        )
    if kind == "local" and "RAY_enable_autoscaler_v2=0" not in command:
        findings.fault(path, "the autoscaler of Ray 2.60 starts no machines of your own unless RAY_enable_autoscaler_v2=0 is exported here")


def _mounts(data: Mapping[str, Any], findings: Findings, base: Path) -> None:
    for remote, local in _mapping(data.get("file_mounts")).items():
        path = base / os.path.expanduser(str(local))
        hint = next((hint for name, hint in _NEEDED.items() if Path(str(local)).name == name), "it is copied from here")
        if not path.exists():
            findings.fault(("file_mounts", str(remote)), f"no such file or folder here: {path}; {hint}")
        elif path.is_dir() and Path(str(local)).name == "dist" and not list(path.glob("mottle-*.whl")):
            findings.fault(("file_mounts", str(remote)), f"no wheel of Mottle in {path}; {hint}")
    key = (data.get("auth") or {}).get("ssh_private_key")
    if key is not None and not Path(os.path.expanduser(str(key))).exists():
        findings.fault(
            ("auth", "ssh_private_key"), f"no such file here: {os.path.expanduser(str(key))}; name the key that the machines let in"
        )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _mappings(value: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((str(name), inner) for name, inner in _mapping(value).items() if isinstance(inner, Mapping))


def _texts(value: Any) -> list[tuple[int, str]]:
    return [(index, text) for index, text in enumerate(value) if isinstance(text, str)] if isinstance(value, list) else []

"""`mottle clusters check`: the shipped files are sound, and what is wrong with a file is told at its line."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from mottle.cli.main import app
from mottle.clusters import rays_own
from mottle.clusters.check import check
from mottle.clusters.launcher import is_spot
from mottle.storage.document import DocumentError, read_document

FOLDER = Path(__file__).resolve().parents[2] / "clusters"
LAUNCHER = ("aws", "gcp", "azure", "onprem")
ALL = (*LAUNCHER, "kuberay")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user with a token, a key and a wheel of Mottle, in the folder that `ray up` is called from."""
    for name in (".ray/auth_token", ".ssh/id_ed25519", "dist/mottle-1.whl", "constraints.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def shipped(name: str) -> str:
    """The file's text, with what its user must put in."""
    return (FOLDER / f"{name}.yaml").read_text().replace("my-project  # yours", "somebodys-project")


def written(folder: Path, text: str) -> Path:
    path = folder / "file.yaml"
    path.write_text(text)
    return path


# --- the shipped files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_a_shipped_file_has_no_fault_and_no_price(name: str, home: Path) -> None:
    checked = check(written(home, shipped(name)), home)
    assert checked.faults == ()
    assert checked.remarks == ()


@pytest.mark.parametrize("name", LAUNCHER)
def test_a_shipped_file_is_what_rays_launcher_reads(name: str) -> None:
    """Ray reads YAML by itself: it must see the same document, and give it the groups that the file means."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    data = yaml.safe_load(shipped(name))
    assert data == read_document(FOLDER / f"{name}.yaml", such_as="").data or name == "gcp"
    prepared = prepare_config(data)
    validate_config(prepared)
    groups = prepared["available_node_types"]
    if name == "onprem":
        assert [(each["min_workers"], each["max_workers"]) for each in groups.values()] == [(3, 3)]
        return
    spots = [group for group in groups.values() if is_spot(group["node_config"])]
    assert len(spots) == 2
    assert all(group["labels"]["ray.io/market-type"] == "spot" for group in spots)
    assert sum(group["min_workers"] for group in groups.values()) <= prepared["max_workers"] <= 8


def test_the_shipped_kubernetes_file_is_what_rays_autoscaler_reads() -> None:
    config = rays_own.kubernetes_config(yaml.safe_load(shipped("kuberay")))
    groups = config["available_node_types"]
    assert {name: (each["min_workers"], each["max_workers"]) for name, each in groups.items()} == {
        "headgroup": (0, 0),
        "steady-l4": (1, 2),
        "spot-t4": (0, 4),
    }
    assert groups["spot-t4"]["resources"]["GPU"] == 1


@pytest.mark.parametrize("name", LAUNCHER)
def test_every_start_command_of_a_shipped_file_asks_for_the_token(name: str) -> None:
    data = yaml.safe_load(shipped(name))
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert "RAY_AUTH_MODE=token" in data[key][-1]


# --- what is wrong --------------------------------------------------------------------------------------------------------------------

WRONG: list[tuple[str, str, str, str, str]] = [
    # file, what stands there, what is put there, key of the fault, words of it
    ("aws", "max_workers: 8\n", "max_worker: 8\n", "max_worker", "did you mean 'max_workers'?"),
    ("aws", "max_workers: 8\n", "max_workers: many\n", "max_workers", "wanted a whole number, got 'many'"),
    ("aws", "max_workers: 8\n", "max_workers: 1\n", "max_workers", "smaller than the sum of `min_workers`"),
    ("aws", "head_node_type: head\n", "head_node_type: haed\n", "head_node_type", "must be one of `available_node_types`"),
    ("aws", "cluster_name: mottle\n", "", "", "needs the key 'cluster_name'"),
    ("aws", "max_workers: 8\n", "max_workers: 8\nmin_workers: 1\n", "min_workers", "say min_workers of each"),
    ("aws", "  availability_zone:", "  availabilty_zone:", "provider.availabilty_zone", "did you mean 'availability_zone'?"),
    ("aws", "InstanceType: g6.2xlarge", "InstancType: x", "available_node_types.steady-l4.node_config", "needs InstanceType"),
    ("aws", "    max_workers: 2\n", "    max_worker: 2\n", "available_node_types.steady-l4.max_worker", "did you mean 'max_workers'?"),
    (
        "aws",
        "    min_workers: 1\n    max_workers: 4",
        "    min_workers: 5\n    max_workers: 4",
        "available_node_types.spot-a10g.min_workers",
        "at most",
    ),
    (
        "aws",
        " RAY_AUTH_MODE=token RAY_health",
        " RAY_health",
        "head_start_ray_commands.1",
        "RAY_AUTH_MODE must be token where Ray starts, and it is",
    ),
    ("aws", "RAY_AUTH_MODE=token;\n", "RAY_AUTH_MODE=off;\n", "worker_start_ray_commands.1", "got 'off'"),
    ("aws", "RAY_AUTH_MODE=token;\n", "RAY_AUTH_MODE=token RAY_AUTH_TOKEN=abc;\n", "worker_start_ray_commands.1", "for everybody to read"),
    ("aws", "  ~/.ray/auth_token: ~/.ray/auth_token\n", "", "file_mounts", "no token reaches the machines"),
    ("aws", " --autoscaling-config=~/ray_bootstrap_config.yaml", "", "head_start_ray_commands.1", "no machine is ever added"),
    ("aws", " --address=$RAY_HEAD_IP:6379", "", "worker_start_ray_commands.1", "starts a Ray of its own"),
    ("aws", "  ~/mottle/dist: dist", "  ~/mottle/dist: build", "file_mounts.~/mottle/dist", "no such file or folder here"),
    ("gcp", "somebodys-project", "my-project", "provider.project_id", "wanted the id of your project"),
    ("gcp", "resources: {CPU: 12, GPU: 1}", "resources: {}", "available_node_types.spot-a100.resources", "does not look up"),
    ("gcp", "machineType: n2-standard-8", "machine: n2", "available_node_types.head.node_config", "needs machineType"),
    ("azure", "vmSize: Standard_D8s_v5", "size: x", "available_node_types.head.node_config", "needs azure_arm_parameters.vmSize"),
    ("onprem", "  head_ip: 192.168.1.10\n", "", "provider", "needs the key 'head_ip'"),
    ("onprem", "  worker_ips:", "  wroker_ips:", "provider.wroker_ips", "did you mean 'worker_ips'?"),
    ("onprem", "  ssh_user: mottle\n", "", "auth", "who logs in"),
    ("onprem", "id_ed25519", "nothing", "auth.ssh_private_key", "no such file here"),
    ("onprem", " RAY_enable_autoscaler_v2=0", "", "head_start_ray_commands.1", "starts no machines of your own"),
    ("onprem", "cluster_name: mottle\n", "cluster_name: m\nhead_node_type: head\n", "head_node_type", "leave this out"),
    ("kuberay", "  workerGroupSpecs:", "  workerGroupSpec:", "spec.workerGroupSpec", "did you mean 'workerGroupSpecs'?"),
    ("kuberay", "      maxReplicas: 4", "      maxReplica: 4", "spec.workerGroupSpecs.1.maxReplica", "did you mean 'maxReplicas'?"),
    (
        "kuberay",
        "      replicas: 1\n      minReplicas: 1",
        "      replicas: 9\n      minReplicas: 1",
        "spec.workerGroupSpecs.0.replicas",
        "1, 9 and 2",
    ),
    ("kuberay", "groupName: spot-t4", "groupName: steady-l4", "spec.workerGroupSpecs.1.groupName", "'steady-l4' twice"),
    ("kuberay", "    mode: token", "    mode: disabled", "spec.authOptions.mode", "wanted token, got 'disabled'"),
    ("kuberay", "  rayVersion: 2.60.0", "  rayVersion: 2.9.0", "spec.rayVersion", "got 2.9.0"),
    ("kuberay", "ray.io/v1", "ray.io/v2", "apiVersion", "wanted ray.io/v1, got 'ray.io/v2'"),
    (
        "kuberay",
        'cpu: "6", memory: 20Gi, nvidia',
        "memory: 20Gi, nvidia",
        "spec.workerGroupSpecs.1.template.spec.containers.0.resources",
        "limits.cpu",
    ),
    ("kuberay", 'limits: {cpu: "6", memory: 20Gi', "limits: {cpu: six, memory: 20Gi", "spec", "Ray's autoscaler refuses it"),
]


@pytest.mark.parametrize(("name", "before", "after", "key", "words"), WRONG, ids=[f"{each[0]}-{each[4]}" for each in WRONG])
def test_a_mistake_is_told_at_its_line(name: str, before: str, after: str, key: str, words: str, home: Path) -> None:
    text = shipped(name)
    assert before in text
    path = written(home, text.replace(before, after))
    told = [fault for fault in check(path, home).faults if fault.key == key and words in fault.message]
    assert told, check(path, home).faults
    line = path.read_text().splitlines()[told[0].line - 1]
    last = key.split(".")[-1]
    assert not key or last in line or last.isdecimal() or line.strip().startswith("-"), line


def test_what_works_and_has_a_price_is_remarked(home: Path) -> None:
    def remarks(before: str, after: str) -> list[str]:
        text = shipped("aws")
        assert before in text
        checked = check(written(home, text.replace(before, after, 1)), home)
        assert checked.faults == ()
        return [each.message for each in checked.remarks]

    assert remarks("{ray.io/market-type: spot}", "{}") == [
        "a spot group without the label ray.io/market-type: spot; Mottle would put parameter shards on it"
    ]
    assert "full price" in remarks("      InstanceMarketOptions: {MarketType: spot}\n", "")[0]
    assert "about 16 s" in remarks("RAY_health_check_period_ms=1000", "")[0]
    assert "the head is a spot machine" in remarks("head_node_type: head", "head_node_type: spot-a10g")[0]


def test_without_auth_options_every_container_needs_the_variables(home: Path) -> None:
    text = shipped("kuberay").replace("  authOptions:\n    mode: token\n", "")
    assert [fault.message.split(";")[0] for fault in check(written(home, text), home).faults] == ["RAY_AUTH_MODE is not token here"] * 3
    secret = "env: [{name: RAY_AUTH_MODE, value: token}, {name: RAY_AUTH_TOKEN, valueFrom: {secretKeyRef: {name: a, key: b}}}]"
    data = yaml.safe_load(text)
    for group in (data["spec"]["headGroupSpec"], *data["spec"]["workerGroupSpecs"]):
        group["template"]["spec"]["containers"][0]["env"] = yaml.safe_load(secret)["env"]
    assert check(written(home, yaml.safe_dump(data)), home).faults == ()


# --- the command ----------------------------------------------------------------------------------------------------------------------


def mottle(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["clusters", "check", *map(str, arguments)], catch_exceptions=False)


def test_the_command_says_all_at_once_and_its_code_is_bad_input(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    sound = mottle(written(home, shipped("aws")), "--json")
    assert (sound.exit_code, json.loads(sound.stdout)["kind"]) == (0, "ray up")
    text = shipped("aws").replace("max_workers: 8", "max_worker: 8").replace("RAY_AUTH_MODE=token;", "")
    wrong = mottle(written(home, text), "--json")
    assert wrong.exit_code == 2
    assert [fault["key"] for fault in json.loads(wrong.stdout)["faults"]] == ["max_worker", "worker_start_ray_commands.1"]


def test_a_cloud_has_no_machines_to_log_in_on_before_it_is_up(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    assert "names no machines" in mottle(written(home, shipped("aws")), "--reach").stdout


def test_what_is_no_document_is_refused(home: Path) -> None:
    with pytest.raises(DocumentError, match="wanted a mapping of keys such as cluster_name"):
        check(written(home, "- a list\n"))

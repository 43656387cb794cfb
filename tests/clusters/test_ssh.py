"""Machines reached over ssh, with real servers: who answers, who refuses, whose versions differ; and `ray up` on them."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mottle.clusters.check import check
from mottle.clusters.joining import look
from mottle.clusters.reach import Login, Reached, reach
from mottle.clusters.testbed import Testbed, ssh
from mottle.core import versions

pytestmark = pytest.mark.testbed
ONPREM = Path(__file__).resolve().parents[2] / "clusters" / "onprem.yaml"
VENV = Path(sys.prefix)
PATIENCE_S = 120.0
UV = """#!/bin/sh
echo "$@" >> ~/uv.log
"""


@pytest.fixture
def servers(bare: Callable[..., Testbed], tmp_path: Path) -> Callable[[int], tuple[Testbed, Path]]:
    """`servers(2)`: bare hosts that let the returned key in; every home has this environment where `ray up` would make one."""
    if sentence := ssh.lacking():
        pytest.skip(sentence)
    key = tmp_path / "key"
    public = ssh.make_key(key)

    def make(hosts: int) -> tuple[Testbed, Path]:
        bed = bare(hosts)
        for host in bed.hosts:
            home = ssh.serve(bed, host, public)
            (home / "mottle").mkdir()
            (home / "mottle" / "env").symlink_to(VENV)
        return bed, key

    return make


def login(key: Path) -> Login:
    return Login(user="root", key=str(key))


def test_machines_that_answer_say_their_versions(servers) -> None:
    bed, key = servers(2)
    hosts = [bed.address(host) for host in bed.hosts]
    assert reach(hosts, login(key)) == Reached(versions=dict.fromkeys(hosts, versions.here()))


def test_a_machine_without_environment_is_told_apart_from_one_with_another_version(servers) -> None:
    bed, key = servers(2)
    (bed.folder / "h1.home" / "mottle" / "env").unlink()
    old = bed.folder / "h2.home" / "old" / "mottle-0.0.1.dist-info"
    old.mkdir(parents=True)
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: mottle\nVersion: 0.0.1\n")
    python = f"env PYTHONPATH={old.parent} $HOME/mottle/env/bin/python"
    (bed.folder / "h2.home" / "python").write_text(f'#!/bin/sh\nexec {python} "$@"\n')
    (bed.folder / "h2.home" / "python").chmod(0o755)
    assert reach([bed.address("h1")], login(key)).bare == [bed.address("h1")]
    found = reach([bed.address("h2")], Login(user="root", key=str(key), python="$HOME/python"))
    ours = versions.here()["mottle"]
    assert found.faults == [f"host {bed.address('h2')}: Mottle 0.0.1, and here {ours}; install the same wheel of Mottle there"]


def test_machines_that_do_not_answer_and_such_that_refuse_are_named_all_at_once(servers, tmp_path: Path) -> None:
    bed, key = servers(3)
    bed.cut("h2")
    bed.kill("h3")
    addresses = {host: bed.address(host) for host in bed.hosts}
    nobody = bed.address("h1").rsplit(".", 1)[0] + ".200"
    found = reach([*addresses.values(), nobody], Login(user="root", key=str(key), timeout_s=3))
    assert list(found.versions) == [addresses["h1"]]
    told = dict(zip(["h2", "h3", "nobody"], found.faults, strict=True))
    assert f"host {addresses['h2']}" in told["h2"]
    assert f"host {addresses['h3']} is up and nothing listens on port 22" in told["h3"]
    assert f"host {nobody}" in told["nobody"]
    for silent in ("h2", "nobody"):
        assert "does not answer" in told[silent] or "cannot be reached" in told[silent]

    other = tmp_path / "other"
    ssh.make_key(other)
    (refused,) = reach([addresses["h1"]], login(other)).faults
    assert refused.startswith(f"host {addresses['h1']} answers and refuses user root with {other}; put the public half of that key")
    (unreadable,) = reach([addresses["h1"]], login(tmp_path / "nothing")).faults
    assert "is no private key that ssh can read" in unreadable


# --- ray up ---------------------------------------------------------------------------------------------------------------------------


class Launcher:
    """The machine that `ray up` is called on: this one, with a home and a temporary folder of its own.

    The file is the shipped one. What differs: addresses, user and key, and where Ray keeps its files, for the hosts share this machine's
    disks; and `uv` writes down what it is asked to install, for the hosts have no way out.
    """

    def __init__(self, bed: Testbed, key: Path, home: Path) -> None:
        self.bed = bed
        self.home = home
        self.file = home / "onprem.yaml"
        self.name = f"testbed{bed.number}"
        (home / "tmp").mkdir()
        (home / ".ray").mkdir()
        (home / ".ray" / "auth_token").write_text(bed.token_file.read_text())
        (home / "dist").mkdir()
        (home / "dist" / "mottle-1-py3-none-any.whl").touch()
        (home / "constraints.txt").touch()
        self._key = key
        for host in bed.hosts:
            uv = bed.folder / f"{host}.home" / ".local" / "bin" / "uv"
            uv.parent.mkdir(parents=True)
            uv.write_text(UV)
            uv.chmod(0o755)

    def write(self, min_workers: int) -> None:
        """The file with so many workers always up; all hosts but the head are there to be asked for."""
        text = ONPREM.read_text()
        _, *workers = self.bed.hosts
        for before, after in (
            ("cluster_name: mottle", f"cluster_name: {self.name}"),
            ("192.168.1.10", self.bed.address("h1")),
            ("[192.168.1.11, 192.168.1.12, 192.168.1.13]", f"[{', '.join(self.bed.address(host) for host in workers)}]"),
            ("ssh_user: mottle", "ssh_user: root"),
            ("~/.ssh/id_ed25519", str(self._key)),
            ("min_workers: 3", f"min_workers: {min_workers}"),
            ("max_workers: 3", f"max_workers: {len(workers)}"),
            ("idle_timeout_minutes: 60", "idle_timeout_minutes: 0.1"),
            ("'/tmp/mottle-ra[y]/'", f'"{self.bed.folder}/${ssh.HOST_VARIABLE}/[r]/"'),
            ("--temp-dir=/tmp/mottle-ray/r", f"--temp-dir={self.bed.folder}/${ssh.HOST_VARIABLE}/r"),
            ("ulimit -n 65536; export", "ulimit -n 65536; export RAY_TMPDIR=$HOME RAY_USAGE_STATS_ENABLED=0"),
        ):
            assert before in text, before
            text = text.replace(before, after)
        self.file.write_text(text)

    def wait(self, num_alive: int) -> list[str]:
        """The hosts that live once there are so many; what the autoscaler has to say if that takes too long."""
        deadline = time.monotonic() + PATIENCE_S
        while len(alive := self.bed.alive()) != num_alive:
            logs = "".join(path.read_text()[-4000:] for path in (self.bed.folder / "h1" / "r").glob("session_latest/logs/monitor*"))
            assert time.monotonic() < deadline, f"wanted {num_alive}, got {alive}\n{logs}"
        return alive

    def up(self, *options: str) -> str:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        done = subprocess.run(
            [sys.executable, "-P", "-m", "ray.scripts.scripts", "up", str(self.file), "--yes", "--no-config-cache", *options],
            env={**environment, "HOME": str(self.home), "RAY_TMPDIR": str(self.home / "tmp"), "RAY_AUTH_MODE": "token"},
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
        return done.stdout


@pytest.mark.soak
def test_the_shipped_file_brings_up_machines_over_ssh_adds_one_and_lets_it_go(servers, tmp_path: Path, monkeypatch) -> None:
    bed, key = servers(3)
    (tmp_path / "launcher").mkdir()
    launcher = Launcher(bed, key, tmp_path / "launcher")
    monkeypatch.setenv("HOME", str(launcher.home))
    launcher.write(min_workers=1)
    assert check(launcher.file, launcher.home).faults == ()
    launcher.up()
    for host in launcher.wait(2):
        home = bed.folder / f"{host}.home"
        assert (home / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600
        assert f"--constraints {home}/mottle/constraints.txt {home}/mottle/dist/mottle-1-py3-none-any.whl" in (home / "uv.log").read_text()

    launcher.write(min_workers=2)
    launcher.up("--no-restart")
    launcher.wait(3)
    joined = look(bed.ray_address, bed.environment("h1"), tuple(bed.command("h1", [])))
    assert joined.faults == ()
    assert list(joined.versions.values()) == [versions.here()] * 3

    launcher.write(min_workers=1)  # Ray lets the machine go that has been idle for longest
    launcher.up("--no-restart")
    assert "h1" in launcher.wait(2)

"""Hosts without Ray: addresses, faults, limits, and that nothing is left of them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mottle.cli.main import app
from mottle.clusters.testbed import HostSpec, Testbed, TestbedError, entries, missing, remove_stale
from mottle.clusters.testbed.network import Network
from mottle.clusters.testbed.quota import CpuQuota
from mottle.core.errors import ConfigError

pytestmark = pytest.mark.testbed
Bare = Callable[..., Testbed]
PYTHON = [sys.executable, "-I", "-S", "-c"]
SERVER = """
import socket
server = socket.create_server(("0.0.0.0", 7000))
print("listening", flush=True)
while True:
    peer, address = server.accept()
    peer.sendall(address[0].encode())
    while peer.recv(1 << 16):
        pass
    peer.close()
"""
CLIENT = """
import socket, sys, time
with socket.create_connection((sys.argv[1], 7000), 0.5) as peer:
    print(peer.recv(100).decode())
    began = time.monotonic()
    peer.settimeout(30)
    peer.sendall(bytes(int(sys.argv[2])))
    peer.shutdown(socket.SHUT_WR)
    peer.recv(1)
    print(time.monotonic() - began)
"""


def listen(bed: Testbed, host: str) -> subprocess.Popen[str]:
    server = bed.popen(host, [*PYTHON, SERVER], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert server.stdout.readline() == "listening\n"
    return server


def call(bed: Testbed, host: str, target: str, size: int = 0) -> tuple[str, float] | None:
    """What the server saw as our address, and the seconds that so many bytes took; None if it was not reached."""
    client = bed.popen(
        host, [*PYTHON, CLIENT, bed.address(target), str(size)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    said = client.communicate(timeout=60)[0].split()
    return None if client.returncode else (said[0], float(said[1]))


def test_hosts_have_addresses_of_their_own_and_reach_each_other(bare: Bare) -> None:
    bed = bare(2)
    with listen(bed, "h2") as server:
        seen = call(bed, "h1", "h2")
        assert seen is not None
        assert seen[0] == bed.address("h1") != bed.address("h2")
        assert bed.pids("h2") == [server.pid]
        assert bed.sent_bytes("h1") > 0
        bed.kill("h2")


def test_a_cut_host_hears_nothing_and_lives_on_and_is_reached_again_when_healed(bare: Bare) -> None:
    bed = bare(2)
    with listen(bed, "h2") as server:
        bed.cut("h2")
        assert bed.hosts == {"h1": "up", "h2": "cut"}
        assert call(bed, "h1", "h2") is None
        assert server.poll() is None
        bed.heal("h2")
        assert call(bed, "h1", "h2") is not None
        bed.kill("h2")


def test_kill_ends_every_process_of_the_host_and_no_other(bare: Bare) -> None:
    bed = bare(2)
    endless = ["sh", "-c", "sh -c 'echo inside; exec sleep 1000' & exec sleep 1000"]
    with bed.popen("h1", endless, stdout=subprocess.PIPE) as spared, bed.popen("h2", endless, stdout=subprocess.PIPE) as hit:
        for process in (spared, hit):
            assert process.stdout is not None
            assert process.stdout.readline() == b"inside\n"
        assert len(bed.pids("h2")) == 2
        bed.kill("h2")
        assert bed.pids("h2") == []
        assert hit.wait(10) == -signal.SIGKILL
        assert len(bed.pids("h1")) == 2
        assert spared.poll() is None
        bed.kill("h1")


def test_a_paused_host_stands_still_until_it_is_resumed(bare: Bare) -> None:
    bed = bare(1)

    def state(pid: int) -> str:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]

    def comes_to(pid: int, wanted: str) -> bool:
        """A signal is sent at once, and obeyed when the process is looked at next."""
        end = time.monotonic() + 10
        while state(pid) != wanted and time.monotonic() < end:
            time.sleep(0.01)
        return state(pid) == wanted

    with bed.popen("h1", ["sleep", "1000"]) as process:
        bed.pause("h1")
        assert comes_to(process.pid, "T")
        bed.resume("h1")
        assert comes_to(process.pid, "S")
        bed.kill("h1")


def test_a_link_carries_what_it_is_limited_to(bare: Bare) -> None:
    bed = bare(2)
    with listen(bed, "h2"):
        bed.limit("h1", rate_mbit=10)
        slow = call(bed, "h1", "h2", 500_000)
        bed.limit("h1", rate_mbit=None)
        fast = call(bed, "h1", "h2", 500_000)
        assert slow is not None
        assert fast is not None
        assert slow[1] > 0.3  # 4 Mbit at 10 Mbit a second, less the first burst
        assert fast[1] < slow[1]
        bed.kill("h2")


def test_a_host_gets_the_processors_time_that_it_may_use(bare: Bare) -> None:
    bed = bare([HostSpec(name="slow", cpus=0.2)])
    burn = "import time\nbegan = time.monotonic()\nwhile time.process_time() < 0.2: pass\nprint(time.monotonic() - began)"
    with bed.popen("slow", [*PYTHON, burn], stdout=subprocess.PIPE, text=True) as process:
        said, _ = process.communicate(timeout=60)
    assert float(said) > 0.6  # 0.2 s of work at a fifth of a processor


def test_the_newer_interface_of_control_groups_is_written_as_the_kernel_wants_it(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory")
    quota = CpuQuota("slow", tmp_path)
    quota.set(0.5)
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu"
    assert (tmp_path / "slow" / "cpu.max").read_text() == "10000 20000"
    assert quota.members == tmp_path / "slow" / "cgroup.procs"
    with pytest.raises(TestbedError, match="cannot limit processors"):
        CpuQuota("slow", tmp_path / "nowhere").set(0.5)


def test_hosts_join_and_leave_and_names_are_checked(bare: Bare) -> None:
    bed = bare(2)
    bed.join(HostSpec(name="late"))
    with listen(bed, "late"):
        assert call(bed, "h1", "late") is not None
        bed.leave("late")
    assert list(bed.hosts) == ["h1", "h2"]
    with pytest.raises(TestbedError, match="no host 'h22' in this testbed; did you mean 'h2'"):
        bed.cut("h22")
    with pytest.raises(TestbedError, match="carries Ray's head"):
        bed.leave("h1")
    with pytest.raises(TestbedError, match="has a host 'h2' already"):
        bed.join(HostSpec(name="h2"))
    with pytest.raises(ConfigError, match="1 to 8 small letters"):
        HostSpec(name="Host 1")
    with pytest.raises(ConfigError, match="cpus of host 'h1' must be above 0"):
        HostSpec(name="h1", cpus=0)


def traces(number: int) -> list[str]:
    """All that a testbed could leave behind."""
    network = Network(number)
    links = [each.name for each in Path("/sys/class/net").iterdir() if re.fullmatch(rf"{network.bridge}(p\d+)?", each.name)]
    groups = [str(each) for each in Path("/sys/fs/cgroup").glob(f"*/{network.bridge}-*")]
    return [*network.namespaces(), *links, *groups, *(str(each.folder) for each in entries() if each.number == number)]


def test_nothing_is_left_of_a_testbed(bare: Bare) -> None:
    with Testbed([HostSpec(name="one", cpus=0.5)], ray=False) as bed:
        process = bed.popen("one", ["sleep", "1000"])
        assert len(traces(bed.number)) >= 4
    assert traces(bed.number) == []
    assert process.wait(10) == -signal.SIGKILL


def test_what_a_killed_owner_leaves_is_removed_by_the_next_testbed(bare: Bare) -> None:
    code = (
        "import sys, time\nfrom mottle.clusters.testbed import Testbed\nbed = Testbed(1, ray=False, name='orphan')\n"
        "process = bed.popen('h1', ['sleep', '1000'])\nprint(bed.number, process.pid, flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        number, left_pid = map(int, owner.stdout.readline().split())
        assert remove_stale() == []  # its owner lives
        owner.kill()
        owner.wait()
    assert len(traces(number)) >= 4
    bed = bare(1)
    assert "orphan" not in [each.name for each in entries()]
    assert bed.number == number or traces(number) == []
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{left_pid}") and time.monotonic() < deadline:
        continue
    assert not os.path.exists(f"/proc/{left_pid}")


def test_this_machine_reaches_the_hosts_too(bare: Bare) -> None:
    bed = bare(1)
    with listen(bed, "h1"):
        with socket.create_connection((bed.address("h1"), 7000), 5) as peer:
            assert peer.recv(100).decode().startswith("198.18.")
        bed.kill("h1")


@pytest.mark.usefixtures("_possible")
def test_the_command_brings_hosts_up_for_other_commands_and_takes_them_down() -> None:
    def mottle(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["testbed", *arguments, "--name", "commands"], catch_exceptions=False)
        return result.exit_code, result.stdout

    code, said = mottle("up", "2", "--bare")
    try:
        assert code == 0
        assert "2 hosts are up" in said
        assert mottle("up", "2", "--bare")[0] == 1
        assert mottle("cut", "h2") == (0, "h2 is cut\n")
        shown = json.loads(mottle("status", "--json")[1])
        assert [(each["host"], each["state"], each["alive"]) for each in shown["hosts"]] == [("h1", "up", False), ("h2", "cut", False)]
        for command, state in (("heal", "up"), ("pause", "paused"), ("resume", "up"), ("kill", "killed"), ("start", "up")):
            assert mottle(command, "h2") == (0, f"h2 is {state}\n")
    finally:
        assert mottle("down")[0] == 0
    assert mottle("status")[0] == 1


def test_without_root_or_iproute2_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "root" in missing()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "/nowhere")
    assert "install the package iproute2" in missing()
    with pytest.raises(TestbedError, match="iproute2"):
        Testbed(1, ray=False)

"""An ssh server in a host of the testbed, so that `ray up` and `mottle clusters check --reach` have somebody to log in on.

Every host gets a home folder of its own below the testbed's; the user is root, for that is whose processes a host's are.
"""

import shutil
import socket
import subprocess
import time
from pathlib import Path

from mottle.clusters.testbed.bed import Testbed
from mottle.clusters.testbed.commands import TestbedError, run

PORT = 22
HOST_VARIABLE = "MOTTLE_HOST"
"""Tells a login which host it is on: all hosts share this machine's name."""
_SSHD = "/usr/sbin/sshd"
_START_TIMEOUT_S = 20.0
_CONFIG = """
Port {port}
ListenAddress {address}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile {folder}/pid
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
Subsystem sftp internal-sftp
SetEnv {variable}={host}
"""


def lacking() -> str:
    """What this machine lacks for ssh servers, as a sentence; empty where nothing does."""
    missing = [
        package
        for program, package in ((_SSHD, "openssh-server"), ("ssh", "openssh-client"), ("rsync", "rsync"))
        if shutil.which(program) is None
    ]
    return f"logging in on the testbed needs the packages {', '.join(missing)}" if missing else ""


def make_key(path: Path) -> str:
    """A new key pair at that path; its public half.

    Raises:
        TestbedError: ssh-keygen failed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "testbed", "-f", str(path))
    return Path(f"{path}.pub").read_text()


def serve(bed: Testbed, host: str, public_key: str) -> Path:
    """Start a server that lets that key in. Returns the home folder of its logins.

    Raises:
        TestbedError: no ssh here, or the server does not come up.
    """
    if sentence := lacking():
        raise TestbedError(sentence)
    folder, home = bed.folder / f"{host}.ssh", bed.folder / f"{host}.home"
    home.mkdir(exist_ok=True)
    Path("/run/sshd").mkdir(exist_ok=True)  # where sshd wants to put itself away
    make_key(folder / "host_key")
    (folder / "authorized_keys").write_text(public_key)
    config = folder / "config"
    config.write_text(_CONFIG.format(port=PORT, address=bed.address(host), folder=folder, variable=HOST_VARIABLE, host=host).lstrip())
    _move_home(bed.overlay(host), home)
    # Logins get their environment from here: without the caller's Ray in it.
    process = bed.popen(
        host,
        [_SSHD, "-D", "-f", str(config), "-E", str(folder / "log")],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        stdin=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not _listening(bed.address(host)):
        if process.poll() is not None or time.monotonic() > deadline:
            said = (folder / "log").read_text() if (folder / "log").exists() else ""
            raise TestbedError(f"the ssh server of host {host} did not come up: {said.strip()[-500:]}")
        time.sleep(0.02)
    return home


def _move_home(overlay: Path, home: Path) -> None:
    """Where root lives, for logins on the host: ssh itself asks the password file, whatever `HOME` says."""
    overlay.mkdir(parents=True, exist_ok=True)
    lines = [line.split(":") for line in Path("/etc/passwd").read_text().splitlines()]
    moved = [[*fields[:5], str(home), *fields[6:]] if fields[0] == "root" else fields for fields in lines]
    (overlay / "passwd").write_text("\n".join(":".join(fields) for fields in moved) + "\n")


def _listening(address: str) -> bool:
    try:
        with socket.create_connection((address, PORT), 1.0):
            return True
    except OSError:
        return False

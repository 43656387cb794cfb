"""Logging in on the machines of a cluster before Ray does: who cannot be reached, who refuses our key, whose versions differ.

`ray up` tries each of these for minutes and then shows what ssh said; here every host answers or fails in seconds, all at the same time.
"""

import os
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from mottle.core import versions

_SLOW_LOGIN = 4  # times the time to answer: what a login and a Python may take
_NOBODY = (
    (
        r"Connection timed out|Operation timed out|timed out",
        "does not answer: it is off, its address is wrong, or a firewall drops port {port}",
    ),
    (r"No route to host|Network is unreachable", "cannot be reached: no machine of that address is up on a network that this one sees"),
    (r"Connection refused", "is up and nothing listens on port {port}: start sshd there"),
    (r"Could not resolve hostname", "has a name that cannot be resolved; check its spelling or give the address"),
    (r"Connection (closed|reset) by", "closes the connection before anybody can log in: see its sshd's log"),
)


@dataclass(frozen=True, kw_only=True)
class Login:
    """How to log in on the machines of a cluster."""

    user: str
    key: str | None = None
    """File of the private key; ssh's own default without it."""
    port: int = 22
    proxy_command: str | None = None
    timeout_s: int = 8
    """For a machine to answer."""
    python: str = "$HOME/mottle/env/bin/python"
    """Whose versions count on the machines; a shell expands it there."""

    def command(self, host: str, remote: str) -> list[str]:
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": str(self.timeout_s),
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
            "LogLevel": "ERROR",
            "IdentitiesOnly": "yes" if self.key else "no",
        }
        if self.proxy_command:
            options["ProxyCommand"] = self.proxy_command
        flags = [flag for name, value in options.items() for flag in ("-o", f"{name}={value}")]
        key = ["-i", os.path.expanduser(self.key)] if self.key else []
        return ["ssh", *flags, *key, "-p", str(self.port), f"{self.user}@{host}", remote]


@dataclass
class Reached:
    """What the machines said."""

    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    """By host; only of those that have an environment."""
    faults: list[str] = field(default_factory=list)
    """A sentence for each host that cannot be used."""
    bare: list[str] = field(default_factory=list)
    """Hosts that let us in and have no environment yet: `ray up` makes it."""


def login_of(data: Mapping[str, Any]) -> Login:
    """From a file of `ray up`."""
    auth = data.get("auth") or {}
    return Login(user=str(auth.get("ssh_user", "ubuntu")), key=auth.get("ssh_private_key"), proxy_command=auth.get("ssh_proxy_command"))


def hosts_of(data: Mapping[str, Any]) -> list[str]:
    """Addresses that a file of `ray up` names itself, the head's first; none for clouds, whose machines are not yet there."""
    provider = data.get("provider") or {}
    if provider.get("type") != "local" or "head_ip" not in provider:
        return []
    return [str(each) for each in (provider["head_ip"], *(provider.get("worker_ips") or []))]


def reach(hosts: Sequence[str], login: Login) -> Reached:
    """Log in on every host and ask for its versions; all at the same time."""
    result = Reached()
    remote = f"test -x {login.python} && exec {login.python} -c {shlex.quote(versions.SCRIPT)} || echo bare"
    with ThreadPoolExecutor(max_workers=max(1, min(32, len(hosts)))) as pool:
        answers = list(pool.map(lambda host: _ask(login.command(host, remote), _SLOW_LOGIN * login.timeout_s), hosts))
    for host, (code, said, complaint) in zip(hosts, answers, strict=True):
        if code:
            result.faults.append(explain(host, login, complaint or said))
        elif said.strip().endswith("bare"):
            result.bare.append(host)
        else:
            result.versions[host] = versions.parse(said)
    result.faults += versions.mismatches(result.versions, versions.here())
    return result


def _ask(command: Sequence[str], timeout_s: float) -> tuple[int, str, str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return 255, "", "timed out after it had answered"
    return done.returncode, done.stdout, done.stderr


def explain(host: str, login: Login, complaint: str) -> str:
    """A sentence for what ssh said of a host that it could not log in on."""
    key = os.path.expanduser(login.key) if login.key else "your default key"
    if re.search(r"UNPROTECTED PRIVATE KEY", complaint):
        return f"host {host}: ssh does not use {key}, for others may read it; run `chmod 600 {key}`"
    if re.search(r"Identity file .* not accessible|invalid format|error in libcrypto|no such identity", complaint):
        return f"host {host}: {key} is no private key that ssh can read; name the right file in auth.ssh_private_key"
    if re.search(r"Permission denied", complaint):
        return (
            f"host {host} answers and refuses user {login.user} with {key}; put the public half of that key into "
            f"~{login.user}/.ssh/authorized_keys there, or name another in auth.ssh_private_key or auth.ssh_user"
        )
    for pattern, sentence in _NOBODY:
        if re.search(pattern, complaint):
            return f"host {host} {sentence.format(port=login.port)}"
    return f"host {host}: {' '.join(complaint.split())[-300:] or 'ssh failed and said nothing'}"

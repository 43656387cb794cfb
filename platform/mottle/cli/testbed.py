"""`mottle testbed`: several hosts on this machine, each with its own Ray node, and the faults that real hosts have."""

import shlex
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from mottle.cli.answers import Answer, Json
from mottle.cli.running import before_ray

Host = Annotated[str, typer.Argument(metavar="HOST", help="Such as h2.")]
Name = Annotated[str, typer.Option(metavar="NAME", help="Of the testbed, where there are several.")]
_DEFAULT = "default"


def up(
    hosts: Annotated[int, typer.Argument(metavar="N", min=1, max=64, help="How many hosts.")] = 2,
    cpus: Annotated[float | None, typer.Option(metavar="CPUS", min=0.01, help="Processors' time of each host, such as 0.5.")] = None,
    rate_mbit: Annotated[float | None, typer.Option("--rate", metavar="MBIT", min=0.1, help="Of each host's link.")] = None,
    bare: Annotated[bool, typer.Option("--bare", help="Without Ray.")] = False,
    name: Name = _DEFAULT,
    as_json: Json = False,
) -> Answer:
    """Bring up hosts h1 to hN with one Ray over all of them; they stay until `mottle testbed down`. Needs root and iproute2.

    Examples:

        mottle testbed up 4

        mottle testbed up 2 --cpus 0.5 --rate 100
    """
    before_ray()
    from mottle.clusters.testbed import HostSpec, Testbed

    specs = [HostSpec(name=f"h{place}", cpus=cpus, rate_mbit=rate_mbit) for place in range(1, hosts + 1)]
    bed = Testbed(specs, name=name, owned=False, ray=not bare)
    return _answer(bed, f"{hosts} hosts are up. Run something on the head:\n  {_on_head(bed)} mottle train job.yaml")


def down(name: Name = _DEFAULT, as_json: Json = False) -> Answer:
    """Kill every process of a testbed and take its hosts away; testbeds whose owners died go too.

    Example:

        mottle testbed down
    """
    from mottle.clusters.testbed import Testbed, remove_stale

    stale = remove_stale()
    Testbed.attach(name).down()
    return Answer(
        {"down": name, "stale": stale}, f"testbed {name} is down" + "".join(f"\nremoved what was left of {each}" for each in stale)
    )


def status(name: Name = _DEFAULT, as_json: Json = False) -> Answer:
    """List the hosts: address, state, processes, and whether Ray's head believes them alive.

    Example:

        mottle testbed status --json
    """
    from mottle.clusters.testbed import Testbed

    bed = Testbed.attach(name)
    alive = bed.alive() if bed.has_ray and bed.hosts[bed.head] == "up" else []
    rows = [
        {"host": host, "address": bed.address(host), "state": state, "processes": len(bed.pids(host)), "alive": host in alive}
        for host, state in bed.hosts.items()
    ]
    lines = [
        f"{row['host']:<8} {row['address']:<15} {row['state']:<7} {row['processes']:>3} processes, "
        + ("a living Ray node" if row["alive"] else "no Ray node")
        for row in rows
    ]
    return Answer({"name": name, "ray_address": bed.ray_address, "hosts": rows}, "\n".join(lines))


def kill(host: Host, name: Name = _DEFAULT, as_json: Json = False) -> Answer:
    """Pull the plug: SIGKILL to every process of a host.

    Example:

        mottle testbed kill h2
    """
    return _fault("kill", host, name)


def start(host: Host, name: Name = _DEFAULT, as_json: Json = False) -> Answer:
    """Start Ray again on a host that was killed.

    Example:

        mottle testbed start h2
    """
    return _fault("start", host, name)


def pause(host: Host, name: Name = _DEFAULT, as_json: Json = False) -> Answer:
    """Let everything on a host stand still.

    Example:

        mottle testbed pause h2
    """
    return _fault("pause", host, name)


def resume(host: Host, name: Name = _DEFAULT, as_json: Json = False) -> Answer:
    """Let a paused host go on; Ray is started again there if the host was declared dead meanwhile.

    Example:

        mottle testbed resume h2
    """
    return _fault("resume", host, name)


def cut(host: Host, name: Name = _DEFAULT, as_json: Json = False) -> Answer:
    """Take a host's network cable out.

    Example:

        mottle testbed cut h2
    """
    return _fault("cut", host, name)


def heal(host: Host, name: Name = _DEFAULT, as_json: Json = False) -> Answer:
    """Put a host's cable in again; Ray is started again there if the host was declared dead meanwhile.

    Example:

        mottle testbed heal h2
    """
    return _fault("heal", host, name)


COMMANDS: tuple[Callable[..., Answer], ...] = (up, down, status, kill, start, pause, resume, cut, heal)


def _fault(what: str, host: str, name: str) -> Answer:
    from mottle.clusters.testbed import Testbed

    bed = Testbed.attach(name)
    getattr(bed, what)(host)
    return _answer(bed, f"{host} is {bed.hosts[host]}")


def _answer(bed: Any, text: str) -> Answer:
    return Answer({"ray_address": bed.ray_address, "hosts": bed.hosts}, text)


def _on_head(bed: Any) -> str:
    """What a person types to run a command on the head."""
    wanted = {name: value for name, value in bed.environment(bed.head).items() if name.startswith("RAY_")}
    variables = [f"{name}={shlex.quote(value)}" for name, value in sorted(wanted.items()) if "health" not in name]
    path = shlex.quote(sys.exec_prefix)
    return shlex.join(bed.command(bed.head, ["env"])) + f" {' '.join(variables)} PATH={path}/bin:$PATH"

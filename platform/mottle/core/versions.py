"""Versions that all machines of a cluster must agree on. Objects travel pickled between them: what one writes another must read."""

import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("ray", "torch", "mottle")
MISSING = "not installed"
SCRIPT = (
    "import json, platform\n"
    "from importlib.metadata import PackageNotFoundError, version\n"
    "def of(name):\n"
    "    try:\n        return version(name)\n"
    f"    except PackageNotFoundError:\n        return {MISSING!r}\n"
    f"print(json.dumps({{'python': platform.python_version(), **{{name: of(name) for name in {PACKAGES!r}}}}}))\n"
)
"""For another machine's Python, with nothing of ours installed there."""

Versions = Mapping[str, str]


def here() -> dict[str, str]:
    """Of this process."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = MISSING
    return found


def parse(said: str) -> dict[str, str]:
    """What `SCRIPT` printed, whatever a login shell printed before it.

    Raises:
        ValueError: nothing of that form.
    """
    for line in reversed(said.splitlines()):
        if line.startswith("{"):
            return {str(name): str(value) for name, value in json.loads(line).items()}
    raise ValueError(f"wanted versions as one JSON object, got {said.strip()[-200:]!r}")


def mismatches(found: Mapping[str, Versions], wanted: Versions) -> list[str]:
    """A sentence for everything in which a host differs; empty where all agree.

    Args:
        found: versions by host.
        wanted: of the machine that the run is started from.
    """
    return [
        f"host {host}: {_title(name)} {came}, and here {theirs}; {_remedy(name, theirs)}"
        for host, versions in found.items()
        for name, theirs in wanted.items()
        if not _agree(name, came := versions.get(name, MISSING), theirs)
    ]


def _agree(name: str, one: str, other: str) -> bool:
    """The last number of Python may differ; builds of torch for CPU and CUDA are one version."""
    if name == "python":
        return one.split(".")[:2] == other.split(".")[:2]
    return one.split("+")[0] == other.split("+")[0]


def _title(name: str) -> str:
    return name if name == "torch" else name.capitalize()


def _remedy(name: str, wanted: str) -> str:
    if name == "python":
        return f"make that host's environment with Python {'.'.join(wanted.split('.')[:2])}"
    if name == "mottle":
        return "install the same wheel of Mottle there"
    return f'run `pip install "{name}=={wanted.split("+")[0]}"` there'

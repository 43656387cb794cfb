"""Ray's authentication token: where this process would take it from, and which variable is wrong.

Ray looks at `RAY_AUTH_MODE` first. With `token` it takes the token from `RAY_AUTH_TOKEN`, else from the file that `RAY_AUTH_TOKEN_PATH`
names, else from `~/.ray/auth_token`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_REMEDY = "copy ~/.ray/auth_token from the cluster's head, or make a new cluster's with `ray get-auth-token --generate`"


@dataclass(frozen=True)
class Source:
    """Where a token comes from."""

    name: str
    """A variable, or the default file."""
    token: str


def source(environment: Mapping[str, str], home: Path) -> Source | str:
    """The token that Ray would present, or the sentence that says which variable is wrong.

    Args:
        environment: of the process, such as `os.environ`.
        home: of its user.
    """
    mode = environment.get("RAY_AUTH_MODE")
    if mode is None:
        return "RAY_AUTH_MODE is not set; a cluster with a token answers nobody without it: export RAY_AUTH_MODE=token"
    if mode != "token":
        return f"RAY_AUTH_MODE must be token, got {mode!r}"
    if token := environment.get("RAY_AUTH_TOKEN", "").strip():
        return Source("RAY_AUTH_TOKEN", token)
    named = environment.get("RAY_AUTH_TOKEN_PATH", "")
    path = Path(named).expanduser() if named else home / ".ray" / "auth_token"
    label = "RAY_AUTH_TOKEN_PATH" if named else "the default file"
    try:
        token = path.read_text().strip()
    except OSError as error:
        return f"no token: {label} is {path}, which cannot be read ({error.strerror}); {_REMEDY}"
    if not token:
        return f"no token: {label} is {path}, which is empty; {_REMEDY}"
    return Source(f"{label}, {path}" if named else str(path), token)


def refused(environment: Mapping[str, str], home: Path) -> str:
    """The sentence for a cluster that answered `Unauthenticated`."""
    found = source(environment, home)
    if isinstance(found, str):
        return found
    hint = " (RAY_AUTH_TOKEN goes before every file)" if found.name == "RAY_AUTH_TOKEN" else ""
    return f"the cluster has another token than {found.name}{hint}; {_REMEDY}"

"""Starting a Ray of our own on a machine that is busy. Ray itself is replaced: only what is tried how often matters here."""

import re
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import ray

from mottle.actors.fleet import CrewError
from mottle.core.errors import ConfigError
from mottle.sdk.attaching import RunGoneError, attach
from mottle.sdk.local import START_ATTEMPTS, ensure_ray, start_local


class Busy:
    """A Ray that gives up a number of times, and then starts."""

    def __init__(self, times: int, error: Exception | None = None) -> None:
        self.left = times
        self.starts: list[int] = []
        self.cleared = 0
        self._error = error or Exception("The current node timed out during startup. This could happen because ...")

    def init(self, **options: Any) -> None:
        self.starts.append(options["num_cpus"])
        if self.left:
            self.left -= 1
            raise self._error

    def shutdown(self) -> None:
        self.cleared += 1


def replaced(monkeypatch: pytest.MonkeyPatch, busy: Busy) -> Busy:
    monkeypatch.setattr(ray, "init", busy.init)
    monkeypatch.setattr(ray, "shutdown", busy.shutdown)
    return busy


def test_a_ray_that_gave_up_is_cleared_away_and_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = replaced(monkeypatch, Busy(START_ATTEMPTS - 1))
    start_local(5)
    assert (busy.starts, busy.cleared) == ([5] * START_ATTEMPTS, START_ATTEMPTS - 1)


def test_a_machine_that_stays_too_busy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    replaced(monkeypatch, Busy(START_ATTEMPTS))
    with pytest.raises(CrewError, match="this machine is too busy"):
        start_local(1)


def test_another_error_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = replaced(monkeypatch, Busy(9, ValueError("num_cpus must be an integer")))
    with pytest.raises(ValueError, match="num_cpus"):
        start_local(1)
    assert len(busy.starts) == 1


# --- a cluster that is running already --------------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """No Ray in this process, no token in its environment or home."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr("mottle.sdk.local.knock", lambda address: None)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def refusing(message: str) -> Any:
    def init(**options: Any) -> None:
        raise RuntimeError(message)

    return init


def test_a_missing_token_is_told_before_ray_would_end_the_process(elsewhere: pytest.MonkeyPatch) -> None:
    elsewhere.setenv("RAY_AUTH_MODE", "token")
    elsewhere.setattr(ray, "init", refusing("never asked"))
    with pytest.raises(ConfigError, match=r"no token: the default file is .*auth_token, which cannot be read"):
        ensure_ray((), "10.0.0.5:6379")


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "RAY_AUTH_MODE is not set; a cluster with a token answers nobody without it"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "x"}, "another token than RAY_AUTH_TOKEN"),
    ],
)
def test_a_refused_token_is_told_with_its_variable(elsewhere: pytest.MonkeyPatch, environment: dict[str, str], said: str) -> None:
    for name, value in environment.items():
        elsewhere.setenv(name, value)
    elsewhere.setattr(ray, "init", refusing("RpcError: Unauthenticated: InvalidAuthToken"))
    with pytest.raises(ConnectionError, match=said):
        ensure_ray((), "10.0.0.5:6379")


def test_a_head_that_is_gone_is_told_within_seconds_with_where_its_address_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray remembers the last cluster that was started on a machine, and would try for minutes to reach it."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refusing("never asked"))
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    nobody = f"nobody can be asked for 'digits': nobody answers as Ray's head at {address}"
    began = time.monotonic()
    with pytest.raises(RunGoneError, match=re.escape(nobody)):
        attach("digits", address=address)
    monkeypatch.setattr("ray._private.services.canonicalize_bootstrap_address", lambda auto: address)
    for environment, source in (("", "as Ray remembers the last one"), ("auto", "RAY_ADDRESS says so")):
        monkeypatch.setenv("RAY_ADDRESS", environment)
        with pytest.raises(RunGoneError, match=rf"{address}; .* \({source}"):
            attach("digits")
    assert time.monotonic() - began < 5

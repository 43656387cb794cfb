"""What is said of machines that cannot be used. No network: the words of ssh and Ray are literal."""

from pathlib import Path

import pytest

from mottle.clusters import joining, tokens
from mottle.clusters.reach import Login, explain, hosts_of, login_of
from mottle.core import versions
from mottle.core.errors import ConfigError

HERE = {"python": "3.11.7", "ray": "2.60.0", "torch": "2.13.0+cpu", "mottle": "0.1.0"}
LOGIN = Login(user="mottle", key="/keys/id")


# --- versions -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alike", [{}, {"python": "3.11.14"}, {"torch": "2.13.0+cu128"}])
def test_hosts_that_agree_are_not_spoken_of(alike: dict[str, str]) -> None:
    assert versions.mismatches({"b": {**HERE, **alike}}, HERE) == []


@pytest.mark.parametrize(
    ("name", "came", "sentence"),
    [
        ("python", "3.12.1", "host b: Python 3.12.1, and here 3.11.7; make that host's environment with Python 3.11"),
        ("ray", "2.59.0", 'host b: Ray 2.59.0, and here 2.60.0; run `pip install "ray==2.60.0"` there'),
        ("torch", "2.12.0", 'host b: torch 2.12.0, and here 2.13.0+cpu; run `pip install "torch==2.13.0"` there'),
        ("mottle", "not installed", "host b: Mottle not installed, and here 0.1.0; install the same wheel of Mottle there"),
    ],
)
def test_a_host_with_another_version_is_named_with_what_to_do(name: str, came: str, sentence: str) -> None:
    assert versions.mismatches({"a": HERE, "b": {**HERE, name: came}}, HERE) == [sentence]


def test_the_question_of_another_python_is_answered_as_here(capsys: pytest.CaptureFixture[str]) -> None:
    exec(versions.SCRIPT, {})  # our own text
    assert versions.parse("Welcome!\n" + capsys.readouterr().out) == versions.here()
    with pytest.raises(ValueError, match="wanted versions as one JSON object, got 'Welcome!'"):
        versions.parse("Welcome!\n")


# --- ssh ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("complaint", "words"),
    [
        ("ssh: connect to host h port 22: Connection timed out", "host h does not answer: it is off"),
        ("ssh: connect to host h port 22: No route to host", "no machine of that address is up"),
        ("ssh: connect to host h port 22: Connection refused", "nothing listens on port 22: start sshd"),
        ("ssh: Could not resolve hostname h: Name or service not known", "cannot be resolved"),
        ("mottle@h: Permission denied (publickey).", "refuses user mottle with /keys/id; put the public half"),
        ("Warning: Identity file /keys/id not accessible: No such file.", "no private key that ssh can read"),
        ('Load key "/keys/id": invalid format\nmottle@h: Permission denied (publickey).', "no private key that ssh can read"),
        ("@ WARNING: UNPROTECTED PRIVATE KEY FILE! @\nPermission denied", "run `chmod 600 /keys/id`"),
        ("Connection closed by 10.0.0.1 port 22", "closes the connection"),
        ("something new", "host h: something new"),
        ("", "said nothing"),
    ],
)
def test_what_ssh_says_is_said_in_words(complaint: str, words: str) -> None:
    assert words in explain("h", LOGIN, complaint)


def test_the_hosts_and_the_login_of_a_launcher_file() -> None:
    data = {
        "provider": {"type": "local", "head_ip": "a", "worker_ips": ["b", "c"]},
        "auth": {"ssh_user": "me", "ssh_private_key": "/keys/id", "ssh_proxy_command": "nc %h %p"},
    }
    assert hosts_of(data) == ["a", "b", "c"]
    assert hosts_of({"provider": {"type": "aws"}}) == []
    login = login_of(data)
    assert login.command("b", "true")[-4:] == ["-p", "22", "me@b", "true"]
    assert "ProxyCommand=nc %h %p" in login.command("b", "true")


# --- tokens ---------------------------------------------------------------------------------------------------------------------------


def test_the_variable_that_is_wrong_is_named(tmp_path: Path) -> None:
    token = {"RAY_AUTH_MODE": "token"}
    missing = tmp_path / "nothing"
    empty = tmp_path / "empty"
    empty.touch()
    assert "RAY_AUTH_MODE is not set" in str(tokens.source({}, tmp_path))
    assert "RAY_AUTH_MODE must be token, got 'disabled'" in str(tokens.source({"RAY_AUTH_MODE": "disabled"}, tmp_path))
    assert f"the default file is {tmp_path}/.ray/auth_token, which cannot be read" in str(tokens.source(token, tmp_path))
    assert f"RAY_AUTH_TOKEN_PATH is {missing}" in str(tokens.source({**token, "RAY_AUTH_TOKEN_PATH": str(missing)}, tmp_path))
    assert "which is empty" in str(tokens.source({**token, "RAY_AUTH_TOKEN_PATH": str(empty)}, tmp_path))


def test_the_token_is_taken_in_rays_order(tmp_path: Path) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("default\n")
    (tmp_path / "named").write_text("named\n")
    named = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "named")}
    found = [tokens.source(each, tmp_path) for each in ({"RAY_AUTH_MODE": "token"}, named, {**named, "RAY_AUTH_TOKEN": "direct"})]
    assert [each.token for each in found if isinstance(each, tokens.Source)] == ["default", "named", "direct"]
    assert "the cluster has another token than RAY_AUTH_TOKEN " in tokens.refused({**named, "RAY_AUTH_TOKEN": "direct"}, tmp_path)
    assert f"another token than RAY_AUTH_TOKEN_PATH, {tmp_path}/named" in tokens.refused(named, tmp_path)


# --- running clusters -----------------------------------------------------------------------------------------------------------------


def test_what_ray_says_of_a_cluster_is_said_in_words(tmp_path: Path) -> None:
    def said(text: str) -> str:
        return joining.explain("h:6379", text, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "x"}, tmp_path)

    mismatch = (
        "RuntimeError: Version mismatch: The cluster was started with:\n    Ray: 2.59.0\n    Python: 3.12.1\n"
        "This process on Ray was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n"
    )
    assert said(mismatch).endswith("than this process has: Ray 2.59.0 and 2.60.0, Python 3.12.1 and 3.11.7")
    assert "another token than RAY_AUTH_TOKEN" in said("ray.exceptions.AuthenticationError: Unauthenticated: InvalidAuthToken")
    assert "nobody answers as Ray's head at h:6379" in said("RuntimeError: Failed to connect to GCS at h:6379")
    assert "nobody answers" in said("ConnectionRefusedError: [Errno 111] Connection refused")
    assert said("ValueError: other").endswith("cannot be used: ValueError: other")


def test_an_address_without_a_port_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"HOST:PORT, such as 10\.0\.0\.5:6379, got '10\.0\.0\.5'"):
        joining.look("10.0.0.5")

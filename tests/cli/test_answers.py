"""What all commands share: exit codes, one JSON object, messages without tracebacks, help with examples."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
from ray.exceptions import RayTaskError
from typer.main import get_command

from mottle.actors.fleet import CrewError
from mottle.cli.answers import Answer, Code, command, told
from mottle.cli.main import app
from mottle.core.errors import ConfigError, MottleError
from mottle.placement import InfeasibleError, ProblemError

GROUPS = ("workers", "study", "testbed", "clusters", "fleet")
COMMANDS = {
    (*path, name): each
    for path, group in ([(), get_command(app)], *([(name,), get_command(app).commands[name]] for name in GROUPS))  # type: ignore[attr-defined]
    for name, each in group.commands.items()
    if not hasattr(each, "commands")
}


def test_these_are_the_commands() -> None:
    """The surface is a decision: a new command is added here and in the docs."""
    names = {" ".join(path) for path in COMMANDS}
    assert names == {
        "new",
        "train",
        "chaos",
        "attach",
        "resume",
        "status",
        "report",
        "export",
        "place",
        "capture",
        "workers list",
        "workers add",
        "workers remove",
        "simulate",
        "calibrate",
        "tune",
        "fleet record",
        "study robustness",
        "clusters check",
        "clusters join",
        *(f"testbed {name}" for name in ("up", "down", "status", "kill", "start", "pause", "resume", "cut", "heal")),
    }


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_takes_json_and_its_help_has_examples(path: tuple[str, ...], mottle) -> None:
    assert "--json" in {flag for parameter in COMMANDS[path].params for flag in parameter.opts}
    shown = mottle(*path, "--help")
    assert shown.code == 0
    assert f"mottle {' '.join(path)} " in shown.out.split("Example")[1]


def test_the_help_of_the_whole_says_the_exit_codes_and_the_docs_agree(mottle) -> None:
    shown = " ".join(mottle("--help").out.split())
    assert "Exit codes: 0 done; 1 it failed; 2 bad input; 130 interrupted by Ctrl-C." in shown
    assert "--install-completion" in shown
    docs = (Path(__file__).resolve().parents[2] / "docs" / "jobs.md").read_text()
    for code in Code:
        assert f"| {int(code)} | " in docs


def test_no_command_shows_the_help(mottle) -> None:
    assert mottle().out == mottle("--help").out


def test_the_version_is_the_installed_one(mottle) -> None:
    assert mottle("--version").out == f"mottle {version('mottle')}\n"
    assert mottle("--version", "--json").data == {"version": version("mottle")}


def test_the_command_answers_without_torch_or_ray_until_it_needs_them() -> None:
    code = "import sys, mottle.cli.main; print(sorted({'torch', 'ray', 'pandas', 'pyarrow'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_completion_knows_the_commands() -> None:
    """What a shell asks when the tab key is pressed."""
    environment = {"_MOTTLE_COMPLETE": "complete_bash", "COMP_WORDS": "mottle re", "COMP_CWORD": "1", "PATH": "/usr/bin:/bin"}
    code = "from mottle.cli.main import app; app(prog_name='mottle')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.split() == ["resume", "report"]


# --- errors ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "nowhere.yaml"),
        ("resume", "nowhere"),
        ("status", "nowhere"),
        ("report", "nowhere"),
        ("export", "nowhere"),
        ("place", "nowhere.json"),
        ("clusters", "check", "nowhere.yaml"),
        ("place", "nowhere.json", "--coarsen", "guardet"),
        ("study", "robustness", "--rules", "medain"),
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_message_and_with_json_one_object(
    arguments: tuple[str, ...], mottle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = mottle(*arguments)
    assert (plain.code, plain.out) == (2, "")
    assert plain.err.startswith("mottle: ")
    assert "Traceback" not in plain.err
    answer = mottle(*arguments, "--json")
    assert answer.code == 2
    assert answer.data["exit_code"] == 2
    assert answer.data["error"] in plain.err.replace("mottle: ", "")
    assert list(tmp_path.iterdir()) == []


def test_an_option_that_does_not_exist_is_told_before_anything_begins(mottle) -> None:
    outcome = mottle("status", "x", "--jason")
    assert (outcome.code, outcome.out) == (2, "")
    assert "--json" in outcome.err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ConfigError("wrong"), Code.BAD_INPUT, "wrong"),
        (ProblemError(["a", "b"]), Code.BAD_INPUT, "- a\n- b"),
        (FileNotFoundError(2, "No such file or directory", "x"), Code.BAD_INPUT, "x: No such file or directory"),
        (OSError("plain"), Code.BAD_INPUT, "plain"),
        (InfeasibleError(["too big"]), Code.FAILED, "no placement was found\n- too big"),
        (MottleError("no"), Code.FAILED, "no"),
        (RayTaskError("start", "a page of traceback", CrewError("1 of 2 workers came")), Code.FAILED, "1 of 2 workers came"),
        (RayTaskError("start", "a page of traceback", ConfigError("wrong")), Code.BAD_INPUT, "wrong"),
    ],
)
def test_an_error_has_a_message_and_a_code(error: Exception, code: Code, message: str) -> None:
    assert told(error) == (message, code)


def test_our_own_bugs_keep_their_traceback() -> None:
    @command
    def broken(as_json: bool) -> Answer:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken(as_json=True)


def test_an_interrupt_is_130(capsys: pytest.CaptureFixture[str]) -> None:
    @command
    def interrupted(as_json: bool) -> Answer:
        raise KeyboardInterrupt

    with pytest.raises(typer.Exit) as caught:
        interrupted(as_json=True)
    assert caught.value.exit_code == 130
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"error": "interrupted", "exit_code": 130}
    assert shown.err == "mottle: interrupted\n"

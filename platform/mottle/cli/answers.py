"""How every command answers: text for people or one JSON object for programs, and an exit code that means one thing.

A command is a function that returns an `Answer` or raises. A user's mistake becomes one message on standard error, without a traceback; a
traceback is for our own bugs. With `--json` standard output is exactly one JSON object, `{"error": ...}` where something went wrong.
"""

import functools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Any

import typer

from mottle.core.errors import ConfigError, MottleError


class Code(IntEnum):
    """Exit codes of every command."""

    OK = 0
    FAILED = 1
    """The input was sound, and what it asked for could not be done: a run that failed, a model that fits on no device."""
    BAD_INPUT = 2
    """What was asked for cannot be: an unknown option, a wrong key, a folder without a run. Nothing was begun."""
    INTERRUPTED = 130
    """Ctrl-C."""


CODES_HELP = "Exit codes: 0 done; 1 it failed; 2 bad input; 130 interrupted by Ctrl-C."

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output and nothing else there.")]


@dataclass(frozen=True)
class Answer:
    """What a command has to say at its end."""

    data: Mapping[str, Any]
    """For `--json`."""
    text: str = ""
    """For people; empty where the command has shown everything itself."""
    code: Code = Code.OK


class BadInputError(ConfigError):
    """A command was asked for something that cannot be."""


def command(function: Callable[..., Answer]) -> Callable[..., None]:
    """Make a command of a function with an `as_json` argument: print its answer, turn its errors into messages and codes."""

    @functools.wraps(function)
    def run(*arguments: Any, **options: Any) -> None:
        as_json = bool(options.get("as_json"))
        try:
            answer = function(*arguments, **options)
        except KeyboardInterrupt:
            answer = _error("interrupted", Code.INTERRUPTED)
        except Exception as error:
            found = told(error)
            if found is None:
                raise
            answer = _error(*found, _faults(error))
        if as_json:
            typer.echo(json.dumps(answer.data, indent=1))
        elif answer.text:
            typer.echo(answer.text)
        if answer.code is not Code.OK:
            raise typer.Exit(int(answer.code))

    return run


def say(message: str) -> None:
    """A line for people while a command works; on standard error, so that standard output stays the command's answer."""
    print(message, file=sys.stderr, flush=True)


def _error(message: str, code: Code, faults: Sequence[Mapping[str, str]] = ()) -> Answer:
    lines = message.splitlines()
    say("\n  ".join(["mottle:", *lines]) if len(lines) > 1 else f"mottle: {message}")
    data = {"error": message, "exit_code": int(code)}
    return Answer({**data, "faults": list(faults)} if faults else data, code=code)


def _faults(error: BaseException) -> list[dict[str, str]]:
    """What is wrong with a job file, piece by piece."""
    found = getattr(error, "faults", ())
    return [{"where": fault.where, "key": fault.key, "message": fault.message} for fault in found]


def told(error: BaseException) -> tuple[str, Code] | None:
    """Message and exit code of an error that is the user's or the world's; None for one that only our bug can cause.

    What Ray wraps around an error of ours is taken off. The classes are looked up here, for importing them takes a second that a command
    which succeeds need not spend.
    """
    from ray.exceptions import RayError

    from mottle.checkpoint.parts import CheckpointError
    from mottle.observe import MissingDependencyError, RecordDamagedError, ResultFormatError
    from mottle.placement import InfeasibleError, ProblemError, UndecidedError

    cause = getattr(error, "cause", None) if isinstance(error, RayError) else None
    error = cause if isinstance(cause, Exception) else error
    if isinstance(error, InfeasibleError | UndecidedError):
        return f"no placement was found\n{error}", Code.FAILED
    if isinstance(error, ConfigError | ProblemError | CheckpointError | MissingDependencyError | RecordDamagedError | ResultFormatError):
        return str(error), Code.BAD_INPUT
    if isinstance(error, MottleError | RayError):
        return str(error), Code.FAILED
    if isinstance(error, OSError):
        return (f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)), Code.BAD_INPUT
    return None

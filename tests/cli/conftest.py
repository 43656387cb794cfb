"""Calling the command as a user does, in this process."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from typer.testing import CliRunner

from mottle.cli.main import app


@dataclass
class Outcome:
    """What a call left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> dict[str, Any]:
        """Standard output as the one JSON object that it must be."""
        return dict(json.loads(self.out))


Mottle = Callable[..., Outcome]


@pytest.fixture
def mottle() -> Mottle:
    """`mottle("train", "job.yaml")`; what is no user's mistake comes out as the exception that it is."""

    def call(*arguments: object) -> Outcome:
        result = CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return call


@pytest.fixture
def own_modules() -> Iterator[None]:
    """Takes away again what a job file puts in front of the path, and the modules it loads from there."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    folders = [folder for folder in sys.path if folder not in path]
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if any((getattr(sys.modules[name], "__file__", None) or "").startswith(folder) for folder in folders):
            del sys.modules[name]

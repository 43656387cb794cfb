"""Libraries that only some users need: imported at first use, with an error that says what to install."""

import importlib
from typing import Any


class MissingDependencyError(ImportError):
    """An optional library is not installed."""


def require(module: str, wanted_by: str, install: str) -> Any:
    """Imports `module`.

    Raises:
        MissingDependencyError: it, or something it needs, is not installed; names `wanted_by` and the command to run.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(f"{wanted_by} needs {error.name}, which is not installed; run: {install}", name=error.name) from error


def require_plots(module: str, wanted_by: str) -> Any:
    """`require` for what Mottle's extra `plots` brings."""
    return require(module, wanted_by, 'pip install "mottle[plots]"')

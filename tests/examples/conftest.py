"""The examples are scripts beside each other, imported as a user's own: from their folder. Notebooks run in kernels of their own."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[2] / "examples"

# Left there: the actors of a run look for modules where the process that starts them does.
sys.path[:0] = [str(EXAMPLES / each) for each in ("digits", "gpt", "supernet")]


@pytest.fixture(scope="module")
def outputs_of(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Any]]:
    """The module's `NOTEBOOK` run from top to bottom, from an empty folder, with a Ray of its own; what the one cell that contains some
    code gave."""
    folder = tmp_path_factory.mktemp("empty")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        notebook = nbformat.read(EXAMPLES / request.module.NOTEBOOK, as_version=4)
        NotebookClient(notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()

    def outputs(code: str) -> list[Any]:
        (cell,) = [cell for cell in notebook.cells if cell.cell_type == "code" and code in cell.source]
        return list(cell.outputs)

    return outputs

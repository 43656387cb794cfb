"""The five-minute tour runs from top to bottom, from an empty folder."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples" / "quickstart.ipynb"

pytestmark = pytest.mark.ray


def outputs_of(notebook: Any, code: str) -> list[Any]:
    """What the one cell that contains `code` gave."""
    (cell,) = [cell for cell in notebook.cells if cell.cell_type == "code" and code in cell.source]
    return list(cell.outputs)


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The notebook after a run in a kernel of its own, which starts a Ray of its own."""
    folder = tmp_path_factory.mktemp("empty")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        notebook = nbformat.read(NOTEBOOK, as_version=4)
        NotebookClient(notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


def test_it_is_kept_without_outputs() -> None:
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert len(cells) >= 5
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)


def test_the_run_shows_itself_with_the_worker_that_came_later(executed: Any) -> None:
    (first,) = outputs_of(executed, "trainer.start()")
    assert "quickstart" in first["data"]["text/html"]
    (last,) = outputs_of(executed, "run.watch")
    html = last["data"]["text/html"]
    assert "<b>w2</b>" in html
    assert "(100.0 %)" in html
    assert "0 lost · 0 duplicated" in html


def test_the_model_is_trained_and_taken_home(executed: Any) -> None:
    (shapes,) = outputs_of(executed, "run.parameters()")
    assert "'layers.6.weight': (10, 512)" in shapes["data"]["text/plain"]
    read, written = outputs_of(executed, "load_state_dict")[0]["text"].splitlines()
    agree = [a == b for a, b in zip(read.split()[1:], written.split()[1:], strict=True)]
    assert sum(agree) >= 8


def test_the_accuracy_is_plotted(executed: Any) -> None:
    assert any("image/png" in output.get("data", {}) for output in outputs_of(executed, "curve.plot"))

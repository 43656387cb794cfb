"""The tour of sweeps runs from top to bottom, from an empty folder."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples" / "tune_quickstart.ipynb"

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


def test_a_wrong_name_is_told_with_the_nearest(executed: Any) -> None:
    (said,) = outputs_of(executed, "optimizer.lrr")
    assert "did you mean 'lr'?" in said["text"]


def test_three_trials_ran_and_the_best_ones_model_is_what_was_measured(executed: Any) -> None:
    (table,) = outputs_of(executed, "grid.get_dataframe()")
    assert table["data"]["text/html"].count("<tr") == 1 + 3
    (said,) = [each for each in outputs_of(executed, "load_state_dict") if each.output_type == "stream"]
    measured, here = (float(part.split()[-1]) for part in said["text"].split(","))
    assert measured == pytest.approx(here, abs=0.02)
    assert measured > 0.5

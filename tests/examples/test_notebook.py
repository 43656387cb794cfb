"""What the five-minute tour shows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

NOTEBOOK = "quickstart.ipynb"

pytestmark = pytest.mark.ray


def test_the_run_shows_itself_with_the_worker_that_came_later(outputs_of: Callable[[str], list[Any]]) -> None:
    (first,) = outputs_of("trainer.start()")
    assert "quickstart" in first["data"]["text/html"]
    (last,) = outputs_of("run.watch")
    html = last["data"]["text/html"]
    assert "<b>w2</b>" in html
    assert "(100.0 %)" in html
    assert "0 lost · 0 duplicated" in html


def test_the_model_is_trained_and_taken_home(outputs_of: Callable[[str], list[Any]]) -> None:
    (shapes,) = outputs_of("run.parameters()")
    assert "'layers.6.weight': (10, 512)" in shapes["data"]["text/plain"]
    read, written = outputs_of("load_state_dict")[0]["text"].splitlines()
    agree = [a == b for a, b in zip(read.split()[1:], written.split()[1:], strict=True)]
    assert sum(agree) >= 8


def test_the_accuracy_is_plotted(outputs_of: Callable[[str], list[Any]]) -> None:
    assert any("image/png" in output.get("data", {}) for output in outputs_of("curve.plot"))


@pytest.mark.parametrize("notebook", (Path(__file__).parents[2] / "examples").glob("*.ipynb"), ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs(notebook: Path) -> None:
    cells = [cell for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
    assert len(cells) >= 5
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)

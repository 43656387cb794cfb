"""The page of a sweep, the table on a terminal, and the best job's file."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from mottle.core.errors import ConfigError
from mottle.sdk import jobfile
from mottle.tune.pictures import coordinates, page_html, slice_figure
from mottle.tune.ranking import Row
from mottle.tune.sweep import check_best_file, job_text
from mottle.tune.watching import Display

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
ROWS = [
    Row(trial="trial 0", state="done", values={"optimizer.lr": 0.001, "strategy": "sync"}, metrics={"test_loss": 0.5, "samples": 1000}),
    Row(
        trial="trial 1",
        state="stopped",
        values={"optimizer.lr": 0.5, "strategy": {"async": None}},
        metrics={"test_loss": 0.75, "samples": 10},
    ),
    Row(trial="trial 2", state="failed", values={"optimizer.lr": 9.0, "strategy": "<b>"}, error="diverged: test_loss is nan"),
]


def test_axes_are_logarithmic_where_numbers_spread_and_named_where_they_are_names() -> None:
    lr, strategy, loss = coordinates(ROWS[:2], ["optimizer.lr", "strategy"], "test_loss").data[0].dimensions
    assert (list(lr.ticktext), lr["values"]) == (["0.001", "0.01", "0.1", "1"], pytest.approx((-3.0, -0.30103)))
    assert (list(strategy["values"]), list(strategy.ticktext)) == ([0, 1], ["sync", "async"])
    assert list(loss["values"]) == [0.5, 0.75]
    wide, named = (slice_figure(ROWS[:2], key, "test_loss") for key in ("optimizer.lr", "strategy"))
    assert (wide.layout.xaxis.type, named.layout.xaxis.type) == ("log", "category")
    assert list(wide.data[0].y) == [0.5, 0.75]


def test_the_page_has_a_table_and_all_figures_and_trusts_no_text() -> None:
    page = page_html("space <i>on</i> job", ROWS, "test_loss", "min")
    assert page.count('class="plotly-graph-div"') == 3
    assert "3 trials, 1 failed; the best is trial 0 with test_loss 0.5" in page
    assert "diverged: test_loss is nan" in page
    assert "<i>on</i>" not in page
    assert "&lt;b&gt;" in page
    assert 'src="http' not in page


def test_a_sweep_without_results_has_a_page_all_the_same() -> None:
    assert "1 trials, 1 failed" in page_html("none", ROWS[2:], "test_loss", "min")


def test_where_nothing_is_repainted_each_trial_is_a_line_when_it_is_over() -> None:
    out = io.StringIO()
    with Display(Console(file=out, width=200), "test_loss", "min") as display:
        display.show([ROWS[0], Row(trial="trial 1", state="running", values={"optimizer.lr": 0.5, "strategy": "async"})])
        display.show(ROWS)
        display.show(ROWS)
    lines = out.getvalue().splitlines()
    assert lines == [
        "trial 0 done: optimizer.lr 0.001, strategy sync; test_loss 0.5 after 1,000 samples",
        "trial 1 stopped: optimizer.lr 0.5, strategy async; test_loss 0.75 after 10 samples",
        "trial 2 failed: optimizer.lr 9, strategy <b>; diverged: test_loss is nan",
    ]


def test_on_a_terminal_the_best_comes_first() -> None:
    out = io.StringIO()
    console = Console(file=out, width=120, force_terminal=True, _environ={"TERM": "xterm"})
    with Display(console, "test_loss", "max") as display:
        display.show(ROWS)
        display.finish(ROWS)
    assert out.getvalue().rindex("trial 1") < out.getvalue().rindex("trial 0") < out.getvalue().rindex("trial 2")


def test_the_best_job_is_a_job_file_beside_the_one_that_was_searched(tmp_path: Path) -> None:
    job = jobfile.read(DIGITS / "async.yaml")
    text = job_text(job, ROWS[0], "test_loss")
    file = tmp_path / "best.yaml"
    file.write_text(text)
    read = jobfile.read(file)
    assert text.startswith("# Written by mottle tune: trial 0 of a sweep over async.yaml, test_loss 0.5 after 1000 samples.\n")
    assert (read.spec.optimizer, read.spec.strategy) == ({"sgd": {"lr": 0.001, "momentum": 0.5}}, "sync")
    assert read.spec.fleet == job.spec.fleet
    check_best_file(DIGITS / "async.best.yaml", job)
    for wrong, message in (
        (tmp_path / "x.yaml", "written beside it"),
        (DIGITS / "async.yaml", "take the place"),
        (DIGITS / "sync.yaml", "no sweep wrote"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_best_file(wrong, job)

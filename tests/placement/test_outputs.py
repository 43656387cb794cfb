"""What a user sees of a plan: files, words, pictures, traces; and that none of it needs torch."""

import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from mottle.placement import (
    Problem,
    bounds,
    draw,
    explain,
    explain_bounds,
    load_plan,
    place,
    place_file,
    save_problem,
    trace_events,
)
from mottle.placement.errors import ProblemError
from mottle.placement.generate import block_problem


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, mottle.placement; print(sorted({'torch', 'ray', 'plotly', 'pandas', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_command_writes_what_was_asked_for_and_prints_nothing(tmp_path: Path, e3: Problem, capsys: pytest.CaptureFixture[str]) -> None:
    save_problem(e3, tmp_path / "e3.json")
    report = place_file(
        tmp_path / "e3.json",
        out=tmp_path / "plan.json",
        algorithm="m-sct",
        with_explanation=True,
        with_bounds=True,
        picture=tmp_path / "plan.html",
        trace=tmp_path / "trace.json",
    )
    assert capsys.readouterr() == ("", "")
    written = json.loads((tmp_path / "plan.json").read_text())
    assert written["assignment"] == {"b": "G", "a": "G", "c": "G", "d": "G", "e": "G", "f": "C"}
    assert written["priority"] == ["b", "a", "c", "d", "e", "f"]
    assert written["result"]["makespan"] == 9
    assert load_plan(tmp_path / "plan.json").makespan == 9
    assert "step time 9 ticks" in report.explanation
    assert "lower bound 7 ticks, at most 1.286 times the optimum" in report.explanation
    assert "critical path" in report.bounds
    assert "<html>" in (tmp_path / "plan.html").read_text()[:200]
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    quiet = place_file(tmp_path / "e3.json")
    assert (quiet.explanation, quiet.bounds) == ("", "")
    with pytest.raises(ProblemError, match="without 'assignment'"):
        load_plan(tmp_path / "e3.json")


def test_the_explanation_shows_devices_candidates_and_notes(e3: Problem) -> None:
    plan = place(e3)
    text = explain(plan, bounds(e3))
    rows = [line.split() for line in text.splitlines()]
    assert ["G", "4", "7", "100%", "0", "10", "100"] in rows
    assert ["C", "2", "7", "100%", "0", "5", "100"] in rows
    assert ["m-sct,", "none", "9", "2", "original"] in rows
    assert "note: optimal: every schedule was covered" in text
    assert "SCT relaxation  none: transfers are longer than ops (rho = 3 > 1)" in explain_bounds(bounds(e3))


def test_the_trace_holds_every_op_transfer_and_change_of_memory(e3: Problem) -> None:
    plan = place(e3, "m-sct")
    events = trace_events(plan)
    kinds = [event["ph"] for event in events]
    assert kinds.count("X") == 6
    assert (kinds.count("b"), kinds.count("e")) == (1, 1)
    slice_d = next(event for event in events if event["ph"] == "X" and event["name"] == "d")
    assert (slice_d["tid"], slice_d["ts"], slice_d["dur"]) == (0, 0.004, 0.002)
    levels = [event["args"]["bytes"] for event in events if event["ph"] == "C" and event["name"] == "memory of G"]
    assert max(levels) == plan.simulation.dynamic_peaks["G"] == 13


def test_the_picture_has_a_row_of_ops_for_every_device_and_its_memory_over_time() -> None:
    plan = place(block_problem(Random(0), 3, 3, weights=False, share=0.6))
    figure = draw(plan)
    bars = [trace for trace in figure.data if trace.type == "bar"]
    curves = [trace for trace in figure.data if trace.type == "scatter" and trace.name == "in use"]
    assert len(bars) == 4  # three devices and the transfers
    assert sum(len(trace.x) for trace in bars[:3]) == len(plan.problem.ops)
    assert len(bars[3].x) == len(plan.simulation.transfers)
    assert [max(curve.y) for curve in curves] == list(plan.simulation.dynamic_peaks.values())
    assert all(curve.x[-1] == plan.makespan for curve in curves)

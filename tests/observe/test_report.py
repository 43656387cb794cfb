"""The report: what is drawn is what was recorded, on one page that needs no network."""

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mottle.observe import (
    MissingDependencyError,
    RunData,
    RunEvent,
    RunRecord,
    curves,
    figures,
    read_run,
    report_html,
    report_png,
    write_report,
)
from mottle.storage import Folder


class Page(HTMLParser):
    """What a browser would load, and the text a reader sees."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.heads: list[str] = []
        self.num_scripts = 0
        self._in = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in = tag
        self.num_scripts += tag == "script"
        self.loads += [value for name, value in attrs if name in ("src", "href") and value]

    def handle_data(self, data: str) -> None:
        if self._in == "h2" and data.strip():
            self.heads.append(data.strip())


@pytest.fixture(scope="module")
def run(run_dir: Path) -> RunData:
    return read_run(run_dir)


def test_the_page_is_whole_in_itself_and_carries_plotly_once(run_dir: Path, baseline_dir: Path, tmp_path: Path) -> None:
    path = write_report(run_dir, baseline=baseline_dir, out=tmp_path / "report.html")
    text = path.read_text()
    page = Page()
    page.feed(text)
    assert page.loads == []
    assert len(re.findall(r"plotly\.js v\d", text)) == 1
    assert page.heads == [
        "Test accuracy over time",
        "What became of every update",
        "Throughput of each worker",
        "Staleness",
        "Where each worker's time went",
        "Workers",
        "The run in numbers",
        "Passes over the data",
        "Events",
    ]
    assert "comparison: 9.1 %" in text
    assert "w1 killed" in text
    assert "w4, w5 joined" in text


def test_a_run_without_a_result_says_so_and_shows_what_there_is(tmp_path: Path, write_run: Callable[..., object]) -> None:
    write_run(tmp_path, compact=False, ended=False)
    path = write_report(tmp_path)
    assert path == tmp_path / "report.html"
    page = Page()
    page.feed(path.read_text())
    assert "This run has no result" in path.read_text()
    assert "What became of every update" in page.heads
    assert "The run in numbers" not in page.heads


def test_contradictions_stand_on_top(run: RunData) -> None:
    assert run.result is not None
    broken = replace(run, result=replace(run.result, updates=replace(run.result.updates, lost=3), notes=("no gate",)))
    text = report_html(broken)
    assert text.index("3 acknowledged updates were lost") < text.index("Test accuracy over time")
    assert "no gate" in text
    assert "contradict" not in report_html(run)


def test_names_and_reasons_cannot_become_part_of_the_page(tmp_path: Path) -> None:
    bad = "</script><img src=x onerror=alert(1)>$x_1$"
    record = RunRecord(tmp_path)
    record.noticed(RunEvent(t_s=5.0, kind="killed", worker=bad, text=bad))
    record.decided(t_s=1.0, work_id=bad, worker=bad, samples=1, staleness=0, verdict="rejected", reason=bad)
    record.delivered(t_s=1.0, worker=bad, samples=1)
    record.measured(t_s=9.0, samples=1, version=1, values={bad: 1.0})
    record.flush()
    text = write_report(tmp_path).read_text()
    clean = Page()
    clean.feed(text)
    assert clean.loads == []
    assert "<img src=x" not in text
    labels = figures.timeline_figure(read_run(tmp_path)).to_plotly_json()["layout"]["yaxis"]["ticktext"]
    assert labels == ["&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;$x_1$"]  # plotly draws tags that stand in a label
    report_png(tmp_path)


def test_an_empty_beginning_is_reported_too(tmp_path: Path) -> None:
    record = RunRecord(tmp_path)
    record.noticed(RunEvent(t_s=0.0, kind="joined", worker="w0", text="cpu"))
    record.flush()
    assert "Workers" in write_report(tmp_path).read_text()
    report_png(tmp_path)


def test_a_remote_run_needs_a_place_to_write_to(tmp_path: Path) -> None:
    from pyarrow import fs

    remote = Folder(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "run")
    with pytest.raises(ValueError, match="give out="):
        write_report(remote)


def test_the_picture_has_its_size(run_dir: Path, baseline_dir: Path, tmp_path: Path) -> None:
    path = report_png(run_dir, baseline=baseline_dir, out=tmp_path / "picture.png")
    with Image.open(path) as image:
        assert image.size == (1800, 1140)
        assert len(image.convert("RGB").getcolors(1 << 24)) > 200


def test_without_plotly_the_error_names_the_extra(run: RunData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(MissingDependencyError, match=r'the report needs plotly.*run: pip install "mottle\[plots\]"'):
        report_html(run)


def test_every_update_is_one_tick_until_there_are_too_many(run: RunData) -> None:
    ticks = curves.verdict_ticks(run)
    assert len(ticks) == len(run.timeline)
    many = replace(run, timeline=pd.concat([run.timeline] * 20, ignore_index=True))
    binned = curves.verdict_ticks(many)
    assert len(binned) < len(many.timeline) / 10
    assert binned["updates"].sum() == len(many.timeline)
    assert binned.groupby("verdict")["updates"].sum().to_dict() == many.timeline["verdict"].value_counts().to_dict()


@settings(max_examples=30, deadline=None)
@given(gaps_s=st.lists(st.floats(0.01, 2.0), min_size=1, max_size=30), samples=st.integers(1, 64))
def test_the_area_under_a_rate_is_the_samples(gaps_s: list[float], samples: int) -> None:
    times_s = np.cumsum(gaps_s)
    throughput = pd.DataFrame({"t_s": times_s, "worker": "w0", "samples": samples})
    empty = throughput.iloc[:0]
    data = RunData("run", None, empty.assign(verdict="", staleness=0), empty.assign(name=""), throughput, ())
    table = curves.rates(data, num_bins=17)
    assert (table["w0"] * float(times_s[-1]) / 17).sum() == pytest.approx(samples * len(gaps_s))


def test_the_rate_of_a_worker_is_level_between_its_deliveries_and_ends_with_it(run: RunData) -> None:
    table = curves.rates(run)
    slow, killed, late = table["w3"].dropna(), table["w1"], table["w4"]
    assert slow.between(40, 90).all()
    assert killed.loc[6.5:].isna().all()
    assert late.loc[:10].isna().all()
    assert killed.loc[1:5].between(180, 320).all()


def test_staleness_is_counted_by_verdict_in_at_most_forty_bars(run: RunData) -> None:
    counts = curves.staleness_counts(run)
    assert counts.to_numpy().sum() == len(run.timeline)
    assert counts.loc[0].sum() == (run.timeline["staleness"] == 0).sum()
    wide = replace(run, timeline=run.timeline.assign(staleness=run.timeline["staleness"] * 1000))
    assert len(curves.staleness_counts(wide)) <= 41
    assert curves.staleness_counts(wide).to_numpy().sum() == len(run.timeline)


def test_the_crew_changes_are_found_with_and_without_notices(run: RunData) -> None:
    assert [moment.text for moment in curves.moments(run)] == ["w1 killed", "w4, w5 joined"]
    assert [moment.text for moment in curves.moments(replace(run, notices=()))] == ["w1 killed", "w4, w5 joined"]
    crowd = tuple(RunEvent(t_s=5.0, kind="left", worker=f"w{i}", text="") for i in range(5))
    assert [moment.text for moment in curves.moments(replace(run, notices=crowd))] == ["w0, w1, w2 and 2 more left"]


@settings(deadline=None)
@given(st.lists(st.floats(0, 100), max_size=40))
def test_texts_over_the_marks_never_overlap(times_s: list[float]) -> None:
    marked = [curves.Moment(t_s, "killed" if i % 3 else "joined", (f"w{i}",)) for i, t_s in enumerate(times_s)]
    chosen = curves.labelled(marked, 100.0, 0.01)
    spans = sorted((middle_s - len(moment.text) / 2, middle_s + len(moment.text) / 2) for middle_s, moment in chosen)
    assert all(before[1] < after[0] for before, after in pairwise(spans))
    assert all(low_s >= 0 and high_s <= 100 for low_s, high_s in spans)
    assert bool(spans) == bool(times_s)


def test_a_large_crew_is_drawn_as_a_map_and_the_cut_is_said(tmp_path: Path) -> None:
    record = RunRecord(tmp_path)
    for i in range(60):
        record.delivered(t_s=1.0 + i / 100, worker=f"w{i}", samples=4)
        record.decided(t_s=1.0 + i / 100, work_id=i, worker=f"w{i}", samples=4, staleness=i, verdict="accepted", reason="")
    record.flush()
    data = read_run(tmp_path)
    assert figures.throughput_figure(data).data[0].type == "heatmap"
    assert len(figures.throughput_figure(data).data[0].y) == figures.MAX_ROWS
    assert "The first 40 of 60 workers are drawn." in report_html(data)


def test_accounting_bars_add_up_to_the_time_present(run: RunData) -> None:
    assert run.result is not None
    figure = figures.accounting_figure(run)
    lengths = {worker: sum(bar.x[i] for bar in figure.data) for i, worker in enumerate(figure.data[0].y)}
    present = {worker: end_s - start_s for worker, (start_s, end_s) in curves.presence(run).items()}
    assert lengths == pytest.approx(present)


def test_importing_the_package_loads_nothing_optional() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", "import mottle.observe, sys; print(*sys.modules)"], capture_output=True, text=True, check=True, timeout=60
    )
    assert not {"plotly", "matplotlib", "torch", "ray", "wandb", "mlflow", "tensorboard"} & set(loaded.stdout.split())

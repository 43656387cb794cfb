"""The terminal's view: what is printed, how often, in which order, and with which control codes."""

import io
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from mottle.observe import EVENT_KINDS, Display, RunEvent, Snapshot, UpdateCounts, WorkerRow
from mottle.observe.speed import Speed
from mottle.observe.views import live_view


def a_worker(id_: str = "w0", **changes: object) -> WorkerRow:
    return replace(WorkerRow(id=id_, device="cpu", state="computing", samples=320, samples_per_s=64.0, staleness=2, accepted=10), **changes)


def a_snapshot(**changes: object) -> Snapshot:
    plain = Snapshot(run="demo", strategy="zeno++", codec="bf16", samples=500, total_samples=1000, epoch=0, version=10, wall_s=5.0)
    return replace(plain, **changes)


def a_console(*, terminal: bool, width: int = 112, height: int = 40, encoding: str = "utf-8") -> Console:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n", write_through=True)
    return Console(
        file=file,
        force_terminal=terminal,
        width=width,
        height=height,
        color_system="truecolor" if terminal else None,
        legacy_windows=False,
        _environ={},
    )


def written(console: Console) -> str:
    return console.file.buffer.getvalue().decode()  # type: ignore[attr-defined]  # the TextIOWrapper made above


def rendered(view: object, width: int = 112) -> str:
    console = a_console(terminal=False, width=width)
    console.print(view)
    return written(console)


def test_a_file_gets_plain_lines_without_control_codes() -> None:
    console = a_console(terminal=False)
    event = RunEvent(t_s=1.5, kind="killed", worker="w1", text="its process is gone")
    with Display(console) as display:
        display.show(a_snapshot(samples=0, wall_s=0.0))
        display.show(a_snapshot(events=(event,), metrics={"test_accuracy": 0.912}, workers=(a_worker(), a_worker("w1", state="killed"))))
        display.finish(a_snapshot(events=(event,), workers=(a_worker(),)), report="runs/demo/report.html")
    text = written(console)
    assert "\x1b" not in text
    assert "\r" not in text
    assert "     1.5 s  ✕  killed           w1        its process is gone\n" in text
    assert "500 / 1,000 samples (50.0 %), 100 samples/s, 5.0 s left, test accuracy 91.2 %, 1 workers\n" in text
    assert "runs/demo/report.html" in text


def test_progress_lines_in_a_file_come_every_tenth_or_every_half_minute() -> None:
    console = a_console(terminal=False)
    with Display(console) as display:
        for samples in range(1001):
            display.show(a_snapshot(samples=samples, wall_s=samples * 0.01))
    assert written(console).count("progress") == 11  # the first, then 10 % to 100 %
    console = a_console(terminal=False)
    with Display(console) as display:
        for second in range(100):
            display.show(a_snapshot(samples=1, total_samples=None, wall_s=float(second)))
    assert written(console).count("progress") == 4  # 0, 30, 60 and 90 s


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=12))
def test_every_event_is_printed_once_and_in_order(steps: list[tuple[int, int]]) -> None:
    """Whatever number of events comes between two snapshots, and however many old ones a snapshot still carries."""
    console = a_console(terminal=False)
    events: tuple[RunEvent, ...] = ()
    with Display(console) as display:
        for num_new, num_kept in steps:
            events += tuple(RunEvent(t_s=1.0, kind="joined", worker=None, text=f"<{len(events) + i}>") for i in range(num_new))
            carried = events[max(0, len(events) - num_new - num_kept) :]
            display.show(a_snapshot(events=carried, events_before=len(events) - len(carried)))
    told = [line.split("<")[1].split(">")[0] for line in written(console).splitlines() if "<" in line]
    assert told == [str(i) for i in range(len(events))]


def test_events_that_no_snapshot_carried_are_counted() -> None:
    console = a_console(terminal=False)
    with Display(console) as display:
        display.show(a_snapshot(events=(RunEvent(t_s=1.0, kind="joined", worker="w0", text="here"),), events_before=7))
    assert "7 events passed too fast" in written(console)


def test_the_live_area_repaints_and_events_stand_above_it() -> None:
    console = a_console(terminal=True)
    events = tuple(RunEvent(t_s=float(i), kind="joined", worker=f"w{i}", text="here") for i in range(3))
    with Display(console) as display:
        for num in range(1, 4):
            display.show(a_snapshot(events=events[:num], wall_s=float(num), workers=(a_worker(),)))
    text = written(console)
    assert "\x1b[2K" in text  # erases and paints again
    assert [text.count(f"\x1b[1mw{i}") for i in range(1, 3)] == [1, 1]


def test_foreign_text_cannot_command_the_terminal_or_write_markup() -> None:
    hostile = "[red]x[/red]\x1b[2J\x07\r\nw9 accepted"
    worker = a_worker(hostile, device=hostile, state=hostile)
    event = RunEvent(t_s=0.0, kind="warning", worker=hostile, text=hostile)
    for terminal in (True, False):
        console = a_console(terminal=terminal)
        with Display(console) as display:
            display.show(
                a_snapshot(
                    run=hostile,
                    strategy=hostile,
                    codec=hostile,
                    workers=(worker,),
                    events=(event,),
                    notes=(hostile,),
                    metrics={hostile: 1.0},
                )
            )
            display.finish(a_snapshot(run=hostile, workers=(worker,), events=(event,), notes=(hostile,)))
        text = written(console)
        assert "\x1b[2J" not in text
        assert "\x07" not in text
        assert "[red]" in text


def test_a_narrow_table_leaves_out_the_device_and_cuts_no_number() -> None:
    worker = a_worker(samples=1_234_567, samples_per_s=1234.0, rejected=99_999)
    text = rendered(live_view(a_snapshot(workers=(worker,)), Speed(), max_rows=5, narrow=True), width=80)
    assert "1,234,567" in text
    assert "99,999" in text
    assert "…" not in text
    assert "cpu" not in text


def test_many_workers_are_cut_to_the_ones_in_trouble_and_the_rest_is_counted() -> None:
    workers = tuple(a_worker(f"w{i:02d}", rejected=5 if i == 37 else 0, state="left" if i == 0 else "computing") for i in range(40))
    text = rendered(live_view(a_snapshot(workers=workers), Speed(), max_rows=6))
    assert "w37" in text
    assert "w00" not in text
    assert "… and 35 more: 34 computing, 1 left" in text


def test_unselected_has_a_column_only_where_a_rule_leaves_some() -> None:
    assert "unselected  rejected" not in rendered(live_view(a_snapshot(workers=(a_worker(),)), Speed(), max_rows=5))
    assert "unselected  rejected" in rendered(live_view(a_snapshot(workers=(a_worker(unselected=1),)), Speed(), max_rows=5))


def test_all_counts_of_updates_are_shown_zeros_too() -> None:
    counts = UpdateCounts(accepted=1, unselected=2, rejected=3, discarded=4, in_flight=5)
    text = rendered(live_view(a_snapshot(updates=counts), Speed(), max_rows=5))
    assert "1 accepted · 2 unselected · 3 rejected · 4 discarded" in text
    assert "5 in flight · 0 lost · 0 duplicated" in text
    assert counts.acknowledged == 15


@pytest.mark.parametrize("terminal", [True, False])
def test_a_console_without_unicode_gets_ascii(terminal: bool) -> None:
    console = a_console(terminal=terminal, encoding="ascii")
    with Display(console) as display:
        for number, kind in enumerate(EVENT_KINDS):
            display.show(a_snapshot(events_before=number, events=(RunEvent(t_s=0.0, kind=kind, worker=None, text="é"),)))  # type: ignore[arg-type]  # a member of EVENT_KINDS
        display.finish(a_snapshot(workers=(a_worker(),)))
    assert all(kind.split("_")[0] in written(console) for kind in EVENT_KINDS)
    assert "o computing" in written(console)


def test_speed_is_that_of_the_latest_window_and_the_end_follows_from_it() -> None:
    speed = Speed(window_s=10.0)
    assert math.isnan(speed.per_s)
    for second in range(31):
        speed.saw(a_snapshot(samples=10 * min(second, 20) + 30 * max(0, second - 20), wall_s=float(second)))
    assert speed.per_s == pytest.approx(30.0)
    assert speed.eta_s(a_snapshot(samples=700)) == pytest.approx(10.0)
    assert math.isnan(speed.eta_s(a_snapshot(total_samples=None)))

"""The page of figures: its rows come from scripts, and a script's new rows take the place of its old ones."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
TABLE = runpy.run_path(str(ROOT / "benchmarks" / "table.py"))  # benchmarks is a folder of scripts, not of the package
HEAD, PAGE, replaced, rows_of = (TABLE[name] for name in ("HEAD", "PAGE", "replaced", "rows_of"))
OLD = f"before\n\n{HEAD}\n| --- |\n| a | 1 | | `python benchmarks/a.py`, d |\n| b | 2 | | `python benchmarks/b.py --n 3`, d |\n\nafter\n"


def test_new_rows_take_the_place_of_the_same_script_s_old_ones_and_touch_nothing_else():
    page = replaced(OLD, "a", ["| x |", "| y |"])
    assert page == OLD.replace("| a | 1 | | `python benchmarks/a.py`, d |", "| x |\n| y |")


def test_rows_of_a_script_that_had_none_come_last_in_the_table():
    assert replaced(OLD, "c", ["| z |"]) == OLD.replace("--n 3`, d |\n", "--n 3`, d |\n| z |\n")


def test_only_lines_that_are_rows_are_taken_from_what_a_script_prints():
    (row,) = rows_of("round 0: 3 s\n| updates | 300/s | 300 |\nmore\n", "python benchmarks/updates.py")
    assert re.fullmatch(r"\| updates \| 300/s \| 300 \| `python benchmarks/updates\.py`, \d{4}-\d\d-\d\d \|", row)


def test_a_page_without_the_table_is_an_error_that_shows_its_head():
    with pytest.raises(ValueError, match="has no table that begins with"):
        replaced("nothing here\n", "a", ["| x |"])


def test_every_command_of_the_page_is_a_script_that_exists():
    commands = re.findall(r"`python (benchmarks/\w+\.py)", PAGE.read_text())
    assert len(commands) > 10
    assert [name for name in commands if not (ROOT / name).is_file()] == []

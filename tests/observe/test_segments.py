"""A table that grows in numbered segments: no row lost, none twice, whatever the moment a process dies."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mottle.observe import RecordDamagedError
from mottle.observe.segments import SegmentedTable, iter_tables, read_table
from mottle.storage import Folder

SCHEMA = pa.schema([pa.field("n", pa.int64()), pa.field("word", pa.string())])


def numbers(folder: Folder) -> list[int]:
    return read_table(folder, "rows", SCHEMA)["n"].to_pylist()


def put(table: SegmentedTable, *rows: int) -> None:
    for row in rows:
        table.append((row, None))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["append", "flush", "compact", "die", "die while compacting"]), min_size=6, max_size=25))
@example(["append", "flush", "die while compacting", "append", "flush", "compact"])
@example(["append", "compact", "append", "flush", "die", "append", "die while compacting", "die while compacting"])
def test_every_flushed_row_is_read_once_and_in_order(steps: list[str]) -> None:
    with TemporaryDirectory() as where:
        folder = Folder.at(where)
        table, written, pending = SegmentedTable(folder, "rows", SCHEMA), [], []
        for number, step in enumerate(steps):
            if step == "append":
                put(table, number)
                pending.append(number)
            elif step == "die":
                table, pending = SegmentedTable(folder, "rows", SCHEMA), []
            else:
                segments = {path.name: path.read_bytes() for path in Path(where, "rows").glob("*.arrow")}
                table.flush() if step == "flush" else table.compact()
                written, pending = written + pending, []
                if step == "die while compacting":  # after the parquet file stood, before the segments were removed
                    Path(where, "rows").mkdir(exist_ok=True)
                    for name, content in segments.items():
                        Path(where, "rows", name).write_bytes(content)
                    table = SegmentedTable(folder, "rows", SCHEMA)
            assert numbers(folder) == written
            assert table.num_pending == len(pending)


def test_rows_wait_for_storage_that_fails_and_are_written_once_it_is_back(tmp_path: Path) -> None:
    blocked = tmp_path / "run"
    blocked.write_text("a file stands where the folder should be")
    table = SegmentedTable(Folder.at(blocked), "rows", SCHEMA)
    put(table, 1, 2)
    with pytest.raises(OSError):
        table.flush()
    assert table.num_pending == 2
    blocked.unlink()
    put(table, 3)
    table.flush()
    assert numbers(Folder.at(blocked)) == [1, 2, 3]


def test_a_torn_last_segment_is_left_out_with_a_warning_and_its_number_used_again(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    table = SegmentedTable(folder, "rows", SCHEMA)
    for row in (1, 2):
        put(table, row)
        table.flush()
    last = tmp_path / "rows" / "00001.arrow"
    last.write_bytes(last.read_bytes()[:-20])
    with pytest.warns(RuntimeWarning, match="00001.arrow is torn"):
        assert numbers(folder) == [1]
    table = SegmentedTable(folder, "rows", SCHEMA)
    put(table, 3)
    table.flush()
    assert numbers(folder) == [1, 3]


def test_a_torn_segment_with_others_after_it_is_an_error_that_names_it(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    table = SegmentedTable(folder, "rows", SCHEMA)
    for row in (1, 2):
        put(table, row)
        table.flush()
    (tmp_path / "rows" / "00000.arrow").write_bytes(b"")
    with pytest.raises(RecordDamagedError, match=r"00000\.arrow cannot be read"):
        numbers(folder)


def test_a_file_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    newer = SCHEMA.with_metadata({b"mottle.format": b"2"})
    with Folder.at(tmp_path).child("rows").writing("00000.arrow") as stream, pa.ipc.new_file(stream, newer) as writer:
        writer.write_table(newer.empty_table())
    with pytest.raises(RecordDamagedError, match="format 2; this Mottle reads format 1"):
        list(iter_tables(Folder.at(tmp_path), "rows"))


def test_what_was_half_written_is_not_seen(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    with pytest.raises(TypeError), folder.writing("a.txt") as stream:
        stream.write("no bytes")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt.part"]
    assert folder.names() == []
    assert not folder.has("a.txt")


def test_going_back_keeps_what_the_caller_keeps_and_counts_on(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    table = SegmentedTable(folder, "rows", SCHEMA)
    put(table, 1, 2, 3)
    table.compact(keep=lambda rows: rows.filter(pc.field("n") <= 2))
    put(table, 30)
    table.flush()
    assert (tmp_path / "rows" / "00001.arrow").exists()
    assert numbers(folder) == [1, 2, 30]


def test_any_filesystem_will_do(tmp_path: Path) -> None:
    folder = Folder(pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem()), "bucket/run")
    table = SegmentedTable(folder, "rows", SCHEMA)
    put(table, 1)
    table.compact()
    assert numbers(folder) == [1]
    assert Folder.at(f"file://{tmp_path}/bucket/run").has("rows.parquet")
    assert not folder.is_local

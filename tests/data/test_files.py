"""Parquet and Arrow IPC files: blocks, columns as tensors, memory, pickling, and broken or wrong input."""

import datetime
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mottle.data import ArrowFiles, DataError, Loader, Positions, build


def table(num_rows: int, first: int = 0) -> pa.Table:
    rows = np.arange(first, first + num_rows)
    return pa.table(
        {
            "row": rows,
            "weight": (rows / 2).astype(np.float32),
            "even": rows % 2 == 0,
            "name": pa.array([f"row {row}" for row in rows], pa.string()),
            "pair": pa.array([[row, -row] for row in rows], pa.list_(pa.int32(), 2)),
            "image": pa.ExtensionArray.from_storage(
                pa.fixed_shape_tensor(pa.float32(), (2, 3)),
                pa.FixedSizeListArray.from_arrays(pa.array(np.arange(num_rows * 6, dtype=np.float32)), 6),
            ),
        }
    )


def write_parquet(path: Path, data: pa.Table, rows_a_group: int = 4) -> str:
    pq.write_table(data, path, row_group_size=rows_a_group)
    return str(path)


def write_arrow(path: Path, data: pa.Table, rows_a_batch: int = 4, *, stream: bool = False, compression: str | None = None) -> str:
    make = ipc.new_stream if stream else ipc.new_file
    with make(path, data.schema, options=ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(data, max_chunksize=rows_a_batch)
    return str(path)


def ids(*rows: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array(rows, dtype=np.int64)


def write_kind(kind: str, folder: Path, data: pa.Table) -> str:
    if kind == "parquet":
        return write_parquet(folder / "a.parquet", data)
    return write_arrow(folder / "a.arrow", data, stream="stream" in kind, compression="zstd" if "compressed" in kind else None)


KINDS = ("parquet", "arrow file", "compressed arrow file", "arrow stream")


@pytest.mark.parametrize("kind", KINDS)
def test_rows_come_as_tensors_in_the_order_asked_for(kind: str, tmp_path: Path) -> None:
    source = build(write_kind(kind, tmp_path, table(10)))
    assert (source.num_rows, source.block_sizes.tolist()) == (10, [4, 4, 2])
    batch = source.fetch(ids(9, 0, 5, 9))
    assert batch["row"].tolist() == [9, 0, 5, 9]
    assert batch["weight"].dtype == torch.float32
    assert batch["even"].tolist() == [False, True, False, False]
    assert batch["name"] == ["row 9", "row 0", "row 5", "row 9"]
    assert batch["pair"].tolist() == [[9, -9], [0, 0], [5, -5], [9, -9]]
    assert (batch["image"].shape, batch["image"][1].tolist()) == ((4, 2, 3), [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_may_be_written_to_without_changing_the_data(kind: str, tmp_path: Path) -> None:
    source = build(write_kind(kind, tmp_path, table(10)))
    source.fetch(ids(3))["weight"].add_(1)
    assert source.fetch(ids(3))["weight"].tolist() == [1.5]


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_travels_without_its_data_and_opens_the_files_again(kind: str, tmp_path: Path) -> None:
    source = build(write_kind(kind, tmp_path, table(4000)))
    source.fetch(ids(*range(0, 4000, 40)))
    shipped = pickle.dumps(source)
    assert len(shipped) < 20_000 + 16 * source.block_sizes.size
    assert pickle.loads(shipped).fetch(ids(3999, 1))["row"].tolist() == [3999, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_uses_every_row_once(kind: str, tmp_path: Path) -> None:
    loader = Loader(build(write_kind(kind, tmp_path, table(37))), seed=1)
    rows = torch.cat([loader.load(Positions(0, start, min(start + 5, 37)))["row"] for start in range(0, 37, 5)])
    assert sorted(rows.tolist()) == list(range(37))
    assert rows.tolist() != list(range(37))


def test_uncompressed_local_arrow_is_mapped_and_mixed_widely_and_the_rest_by_the_cache(tmp_path: Path) -> None:
    mapped = build(write_arrow(tmp_path / "a.arrow", table(40)))
    squeezed = build(write_arrow(tmp_path / "b.arrow", table(40), compression="lz4"))
    parquet = build(ArrowFiles(paths=write_parquet(tmp_path / "c.parquet", table(40)), cache_blocks=3))
    assert (mapped.window_blocks, squeezed.window_blocks, parquet.window_blocks) == (10, 4, 3)
    before = pa.total_allocated_bytes()
    wide = pa.table({"x": np.zeros(1_000_000)})
    big = build(write_arrow(tmp_path / "big.arrow", wide, 100_000))
    del wide
    big.fetch(np.arange(0, 1_000_000, 50_000))
    assert pa.total_allocated_bytes() - before < 1_000_000, "8 MB of rows were read where they lie"


def test_going_through_an_epoch_decodes_each_row_group_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = build(write_parquet(tmp_path / "a.parquet", table(80), 5))
    decoded: list[int] = []
    read = pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda self, group, **k: (decoded.append(group), read(self, group, **k))[1])
    loader = Loader(source, seed=0)
    for start in range(0, 80, 7):
        loader.load(Positions(0, start, min(start + 7, 80)))
    assert sorted(decoded) == list(range(16))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=4), group=st.integers(1, 5), data=st.data())
def test_rows_are_numbered_through_files_and_blocks(sizes: list[int], group: int, data: st.DataObject, tmp_path: Path) -> None:
    starts = np.cumsum([0, *sizes])
    paths = [write_parquet(tmp_path / f"{i}.parquet", table(n, int(starts[i])), group) for i, n in enumerate(sizes)]
    if not sum(sizes):
        with pytest.raises(DataError, match="at least one row"):
            build(paths)
        return
    rows = data.draw(st.lists(st.integers(0, sum(sizes) - 1), min_size=1, max_size=12))
    assert build(paths).fetch(ids(*rows))["row"].tolist() == rows


def test_directories_globs_lists_uris_and_filesystems_find_the_same_files(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    write_parquet(tmp_path / "a.parquet", table(3))
    write_arrow(tmp_path / "deep" / "b.arrow", table(3, 3))
    write_parquet(tmp_path / "deep" / "er" / "c.pq", table(3, 6))
    (tmp_path / "_SUCCESS").write_text("")
    (tmp_path / ".hidden.parquet").write_text("")
    (tmp_path / "notes.txt").write_text("not data")
    sub = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    everything = ids(*range(9))
    for paths, filesystem in [
        (tmp_path, None),
        (tmp_path.as_uri(), None),
        ("", sub),
        ([tmp_path / "a.parquet", tmp_path / "deep" / "b.arrow", str(tmp_path / "deep/er/c.pq")], None),
        (f"{tmp_path}/**/*.[ap]*", None),
        (["a.parquet", "deep/**/*.arrow", "deep/**/*.pq"], sub),
    ]:
        source = ArrowFiles(paths=paths, filesystem=filesystem).build()
        assert source.fetch(everything)["row"].tolist() == list(range(9)), paths
        assert pickle.loads(pickle.dumps(source)).fetch(everything)["row"].tolist() == list(range(9)), paths
    assert build(f"{tmp_path}/deep/*.arrow").num_rows == 3
    assert build(f"{(tmp_path / 'deep').as_uri()}/*/c.*").num_rows == 3
    assert build(f"{tmp_path}/deep/**").num_rows == 6
    assert build([tmp_path / "deep/er/c.pq", tmp_path / "a.parquet"]).fetch(ids(0))["row"].tolist() == [6], "a list keeps its order"


def test_remote_filesystems_are_read_block_by_block(tmp_path: Path) -> None:
    """A subtree filesystem is not known to be local, so it takes the way of S3 and the like."""
    write_arrow(tmp_path / "a.arrow", table(10))
    source = ArrowFiles(paths="a.arrow", filesystem=pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())).build()
    assert source.window_blocks == 4
    assert source.fetch(ids(9, 1))["name"] == ["row 9", "row 1"]


def test_columns_are_chosen_and_ordered(tmp_path: Path) -> None:
    for path in (write_parquet(tmp_path / "a.parquet", table(5)), write_arrow(tmp_path / "a.arrow", table(5))):
        assert list(ArrowFiles(paths=path, columns=("name", "row")).build().fetch(ids(1))) == ["name", "row"]
        with pytest.raises(DataError, match=r"no column nome in .*it has row, weight"):
            ArrowFiles(paths=path, columns=("nome",)).build()


def test_a_collate_fn_gets_rows_as_dicts(tmp_path: Path) -> None:
    source = build(
        write_parquet(tmp_path / "a.parquet", table(9)), lambda rows: (torch.stack([r["image"] for r in rows]), [r["name"] for r in rows])
    )
    image, names = source.fetch(ids(8, 2), [0, 1])
    assert (image.shape, names) == ((2, 2, 3), ["row 8", "row 2"])


def test_ragged_categorical_nested_and_other_columns(tmp_path: Path) -> None:
    day = datetime.date(2024, 2, 29)
    data = pa.table(
        {
            "ragged": pa.array([[1.0], [], [2.0, 3.0]] * 2),
            "kind": pa.array(["a", None, "b", "c", "a", "d"]).dictionary_encode(),
            "nested": pa.array([[[1, 2], [3, 4]]] * 6, pa.list_(pa.list_(pa.int8(), 2), 2)),
            "day": [day] * 6,
            "half": np.arange(6, dtype=np.float16),
            "words": [["x", "y"]] * 6,
        }
    )
    for path in (write_parquet(tmp_path / "a.parquet", data, 2), write_arrow(tmp_path / "a.arrow", data, 2)):
        batch = build(path).fetch(ids(5, 1, 2))
        assert [value.tolist() for value in batch["ragged"]] == [[2.0, 3.0], [], [2.0, 3.0]]
        assert batch["kind"] == ["d", None, "b"]
        assert (batch["nested"].shape, batch["nested"].dtype) == ((3, 2, 2), torch.int8)
        assert batch["day"] == [day] * 3
        assert batch["half"].tolist() == [5, 1, 2]
        assert batch["words"] == [["x", "y"]] * 3


@pytest.mark.parametrize("column", [pa.array([1, None]), pa.array([[1, 2], None], pa.list_(pa.int32(), 2)), pa.array([[1], None])])
def test_a_null_in_a_numeric_column_is_named(column: pa.Array, tmp_path: Path) -> None:
    source = build(write_parquet(tmp_path / "a.parquet", pa.table({"x": column})))
    assert source.fetch(ids(0))["x"][0] is not None
    with pytest.raises(DataError, match="column 'x' has 1 nulls among 2"):
        source.fetch(ids(0, 1))


def test_rows_out_of_range_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs rows from 0 to 4, got 7"):
        build(write_parquet(tmp_path / "a.parquet", table(5))).fetch(ids(1, 7))


def test_what_cannot_be_read_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    (tmp_path / "empty.parquet").write_bytes(b"")
    (tmp_path / "cut.parquet").write_bytes(Path(write_parquet(tmp_path / "whole.parquet", table(9))).read_bytes()[:200])
    (tmp_path / "nothing").mkdir()
    squeezed = write_arrow(tmp_path / "s.arrows", table(9), stream=True, compression="zstd")
    for paths, message in [
        (tmp_path / "a.csv", "neither Parquet nor Arrow IPC .*convert it"),
        (tmp_path / "empty.parquet", "neither Parquet nor Arrow IPC"),
        (tmp_path / "cut.parquet", "begins like a parquet but cannot be read"),
        (tmp_path / "nothing", "no data file in directory"),
        (tmp_path / "absent.parquet", "no file or directory"),
        (f"{tmp_path}/*.orc", r"no file matches .*\*.orc"),
        ("nosuch://bucket/x", "no filesystem for nosuch://bucket/x"),
        ([tmp_path / "whole.parquet", f"{tmp_path}/w*.parquet"], "whole.parquet comes 2 times"),
        (squeezed, "compressed or remote Arrow stream"),
        (write_parquet(tmp_path / "none.parquet", table(0)), "at least one row, got 1 files without any"),
    ]:
        with pytest.raises(DataError, match=message):
            build(paths)
    with pytest.raises(DataError, match="at least one path"):
        ArrowFiles(paths=[]).build()


def test_files_with_other_columns_are_refused(tmp_path: Path) -> None:
    paths = [write_parquet(tmp_path / "a.parquet", table(3)), write_parquet(tmp_path / "b.parquet", pa.table({"row": ["text"]}))]
    with pytest.raises(DataError, match=r"same columns .*b.parquet has row: string"):
        build(paths)


@pytest.mark.parametrize("kind", ["parquet", "arrow file"])
def test_a_file_that_changed_since_the_run_began_is_found_out(kind: str, tmp_path: Path) -> None:
    shipped = pickle.dumps(build(write_kind(kind, tmp_path, table(10))))
    write_kind(kind, tmp_path, table(9))
    with pytest.raises(DataError, match=r"changed since the run began: it had 10 rows in 3 blocks, now 9 in 3"):
        pickle.loads(shipped).fetch(ids(0))

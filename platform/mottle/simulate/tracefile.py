"""Speed traces as CSV files with the columns `at_s,sample_s`: from that moment on a sample takes that long."""

import csv
from pathlib import Path

from mottle.simulate.checked import FieldError
from mottle.simulate.speed import Trace
from mottle.storage.document import DocumentError, Fault

COLUMNS = ["at_s", "sample_s"]


def read_trace(file: str | Path) -> Trace:
    """Read a trace.

    Raises:
        DocumentError: cannot be read, other columns, or rows that are no numbers or cannot be, each with its line.
    """
    name = str(file)
    header, *rows = _cells(file) or [[]]
    if [cell.strip() for cell in header] != COLUMNS:
        raise DocumentError([Fault(f"{name}:1", "", f"wanted the header {','.join(COLUMNS)}, got {','.join(header) or 'nothing'}", 1)])
    pairs: list[tuple[float, float]] = []
    faults: list[Fault] = []
    for line, row in enumerate(rows, start=2):
        try:
            at_s, sample_s = map(float, row)
            pairs.append((at_s, sample_s))
        except ValueError:
            faults.append(Fault(f"{name}:{line}", "", f"wanted two numbers, got {','.join(row) or 'an empty line'}", line))
    if faults:
        raise DocumentError(faults)
    try:
        return Trace(at_s=tuple(at_s for at_s, _ in pairs), sample_s=tuple(sample_s for _, sample_s in pairs))
    except FieldError as error:
        raise DocumentError([_fault(name, field, message) for field, message in error.wrong]) from error


def write_trace(file: str | Path, trace: Trace) -> None:
    """Write a file that `read_trace` reads."""
    rows = [f"{at_s:.6f},{sample_s:.9g}" for at_s, sample_s in zip(trace.at_s, trace.sample_s, strict=True)]
    Path(file).write_text("\n".join([",".join(COLUMNS), *rows]) + "\n", encoding="utf-8")


def _cells(file: str | Path) -> list[list[str]]:
    try:
        with open(file, newline="", encoding="utf-8") as stream:
            return list(csv.reader(stream))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not UTF-8 text ({error.reason})"
        raise DocumentError([Fault(str(file), "", f"cannot be read: {reason}")]) from error


def _fault(name: str, field: str, message: str) -> Fault:
    """What `Trace` says of `row 3` is of line 4 of the file."""
    row, colon, rest = message.removeprefix("row ").partition(": ")
    if colon and row.isdecimal():
        return Fault(f"{name}:{int(row) + 1}", field, rest, int(row) + 1)
    return Fault(name, field, message)

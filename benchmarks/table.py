"""The table of `docs/benchmarks.md`: a script prints its rows with `tell`, `python -m benchmarks` puts them where its old ones were."""

import datetime
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
HEAD = "| what | measured | aim | command, day |"
SIGN = "| "


def tell(what: str, measured: str, aim: str = "") -> None:
    """Print one row: what was measured, the figures with their units, and what was wanted."""
    print(f"{SIGN}{what} | {measured} | {aim} |", flush=True)


def rows_of(output: str, command: str) -> list[str]:
    """The rows that a script printed, with the command that repeats them and today's date."""
    return [f"{line} `{command}`, {datetime.date.today()} |" for line in output.splitlines() if line.startswith(SIGN)]


def replaced(page: str, name: str, rows: list[str]) -> str:
    """The page with these rows where those of `benchmarks/NAME.py` were, or at the table's end.

    Raises:
        ValueError: the page has no such table.
    """
    lines = page.splitlines()
    if HEAD not in lines:
        raise ValueError(f"{PAGE.name} has no table that begins with {HEAD!r}; put the line back, with one of dashes below it")
    first = lines.index(HEAD) + 2
    last = next((number for number, line in enumerate(lines[first:], first) if not line.startswith("|")), len(lines))
    old = [number for number, line in enumerate(lines[first:last], first) if f"`python benchmarks/{name}.py" in line]
    at = old[0] if old else last
    kept = [(number, line) for number, line in enumerate(lines) if number not in old]
    before, after = [line for number, line in kept if number < at], [line for number, line in kept if number >= at]
    return "\n".join([*before, *rows, *after]) + "\n"

"""How numbers, names and times are written wherever a user sees them: terminal, notebook and report."""

import math
import re
from collections.abc import Mapping

GONE = frozenset({"left", "killed", "gone"})
"""Worker states after which a worker is no longer part of the crew."""

# C0 and C1 control codes (escape sequences that repaint a terminal) and the marks that reverse the order of text.
# Worker names and reasons may come from hosts that nobody trusts.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]+")


def clean(text: str) -> str:
    """`text` on one line, with everything that could command a terminal or reorder text replaced by U+FFFD."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text.replace("\n", " ").replace("\t", " "))


def count(number: int) -> str:
    """12,345."""
    return f"{number:,d}"


def rate(per_s: float) -> str:
    """Three significant figures without an exponent: 1,240 or 12.4 or 0.31; `-` when there is none."""
    if not math.isfinite(per_s):
        return "-"
    if per_s >= 100:
        return f"{per_s:,.0f}"
    return f"{per_s:.1f}" if per_s >= 1 or per_s == 0 else f"{per_s:.2f}"


def versions(number: float) -> str:
    """A staleness: 2 or, for a mean, 2.4."""
    return f"{number:.1f}".removesuffix(".0") if math.isfinite(number) else "-"


def duration(seconds: float) -> str:
    """8.4 s, 1:05 (minutes) or 2:03:09 (hours); rounded before it is split, so never 0:60."""
    if not math.isfinite(seconds):
        return "-"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def percent(share: float) -> str:
    """96.7 %, rounded down so that 99.96 % never reads as all of it."""
    if not math.isfinite(share):
        return "not a number"
    return f"{math.floor(share * 1000 + 1e-9) / 10:.1f} %"


def metric(name: str, number: float | None) -> str:
    """The value of a metric: accuracies (of one model too: `test_accuracy/1`) as a percentage, others to four significant figures."""
    if number is None or not math.isfinite(number):
        return "not a number"
    return percent(number) if name.partition("/")[0].endswith("accuracy") else f"{number:.4g}"


def label(name: str) -> str:
    """`test_accuracy` as a reader says it: test accuracy."""
    return clean(name).replace("_", " ")


def ordered_metrics(metrics: Mapping[str, float | None]) -> list[tuple[str, float | None]]:
    """Test accuracy first, then other test metrics, then the rest by name: the order of importance to a reader."""
    return sorted(metrics.items(), key=lambda item: (item[0] != "test_accuracy", not item[0].startswith("test_"), item[0]))


def bytes_size(number: int) -> str:
    """Binary units: 312 MiB."""
    size = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"

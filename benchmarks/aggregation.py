"""Time and memory of the robust rules against a plain mean of the same matrix, in one process, interleaved.

    python benchmarks/aggregation.py [--rows 25] [--coordinates 2000000 10000000] [--repeats 7] [--only phocas ...] [--json FILE]

Times are medians; `ratio` is against `updates.mean(0)` timed in the same loop, so that a busy machine hits both alike. `extra` is the peak
of resident memory during a call beyond input and result, as a share of the input; the aim is a tenth at most. byzfl and Flower are timed
where they are installed, see `benchmarks/libraries.py`; neither is a dependency.
"""

import argparse
import ctypes
import gc
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import libraries
import torch
from table import tell
from torch import Tensor

from mottle import aggregation
from mottle.aggregation.kernels import toolchain

Aggregate = Callable[[Tensor], object]

LARGEST_EXTRA = 0.1
"""Memory beside input and result, as a share of the input."""


@dataclass(frozen=True)
class Contender:
    name: str
    aggregate: Aggregate
    target: float | None
    """Largest ratio to the mean that it should have."""
    compiled: bool = True


@dataclass(frozen=True)
class Result:
    name: str
    rows: int
    coordinates: int
    seconds: float
    mean_seconds: float
    ratio: float
    target: float | None
    extra: float | None


def specs(num_rows: int) -> dict[str, tuple[Any, float]]:
    """Rules with a fifth of faulty rows (as many as Bulyan allows), and their targets."""
    f = num_rows // 5
    most = min(f, (num_rows - 3) // 4)
    coordinate, gram, both = 1.3, 3.0, 5.0
    return {
        "mean": ("mean", coordinate),
        "median": ("median", coordinate),
        "trimmed_mean": ({"trimmed_mean": {"trim": f}}, coordinate),
        "phocas": ({"phocas": {"trim": f}}, coordinate),
        "mea_med": ({"mea_med": {"num_byzantine": f}}, coordinate),
        "krum": ({"krum": {"num_byzantine": f}}, gram),
        "multi_krum": ({"multi_krum": {"num_byzantine": f}}, gram),
        "geometric_median": ("geometric_median", gram),
        "rfa": ({"rfa": {"z0": "mean"}}, gram),
        "centered_clipping": ({"centered_clipping": {"radius": 100.0}}, gram),
        "bulyan": ({"bulyan": {"num_byzantine": most}}, both),
        "nnm+median": ({"nnm": {"num_byzantine": f, "inner": "median"}}, both),
    }


def contenders(num_rows: int) -> list[Contender]:
    ours = [Contender(name, aggregation.build(spec), target) for name, (spec, target) in specs(num_rows).items()]
    eager = [
        Contender(f"{name} (no compiler)", aggregation.build(spec), 5.0, compiled=False)
        for name, (spec, target) in specs(num_rows).items()
        if target == 1.3
    ]
    return [*ours, *eager, *others(num_rows)]


def others(num_rows: int) -> list[Contender]:
    """Every rule of every library that is installed."""
    f = num_rows // 5
    return [
        Contender(f"{library.name}: {name}", partial(_unweighted, make(f)), None)
        for library in libraries.installed()
        for name, make in library.rules.items()
        if name != "bulyan" or 4 * f + 3 <= num_rows
    ]


def _unweighted(aggregate: libraries.Aggregate, rows: Tensor) -> Tensor:
    return aggregate(rows, None)


def seconds(aggregate: Aggregate, rows: Tensor) -> float:
    start = time.perf_counter()
    aggregate(rows)
    return time.perf_counter() - start


def measure(contender: Contender, rows: Tensor, repeats: int) -> Result:
    kernels = nullcontext() if contender.compiled else toolchain.disabled()
    with kernels:
        contender.aggregate(rows)
        if contender.compiled:
            toolchain.settle()
        contender.aggregate(rows)
        extra = extra_memory(contender.aggregate, rows)
        pairs = [(seconds(lambda x: x.mean(0), rows), seconds(contender.aggregate, rows)) for _ in range(repeats)]
    mean_s, own_s = (statistics.median(column) for column in zip(*pairs, strict=True))
    num_rows, num_coordinates = rows.shape
    return Result(contender.name, num_rows, num_coordinates, own_s, mean_s, own_s / mean_s, contender.target, extra)


def extra_memory(aggregate: Aggregate, rows: Tensor) -> float | None:
    """Peak beyond input and result, as a share of the input; None where the kernel does not tell."""
    _give_back()
    with _peak_reset() as possible:
        before = _status("VmRSS")
        result = aggregate(rows)
        peak = _status("VmHWM")
    if not possible or before is None or peak is None:
        return None
    result_bytes = result.nbytes if isinstance(result, Tensor) else 0
    return max(0, peak - before - result_bytes) / rows.nbytes


def _give_back() -> None:
    """What earlier calls left to the allocator goes back to the system (glibc), so that its second use is seen."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@contextmanager
def _peak_reset() -> Iterator[bool]:
    """Linux: writing 5 to clear_refs sets the peak of resident memory back to what is resident now."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        yield False
    else:
        yield True


def _status(key: str) -> int | None:
    path = Path("/proc/self/status")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":")), None)


def show(result: Result) -> str:
    missed = [
        *(["time"] if result.target is not None and result.ratio > result.target else []),
        *(["memory"] if result.target is not None and result.extra is not None and result.extra > LARGEST_EXTRA else []),
    ]
    target = "" if result.target is None else f"{result.target:5.1f} {'MISSED ' + ' and '.join(missed) if missed else 'ok'}"
    extra = "" if result.extra is None else f"{result.extra:7.1%}"
    return f"{result.coordinates:>10,} {result.name:<32} {result.seconds * 1e3:9.1f} ms {result.ratio:7.2f}x  {extra:>8}  {target}"


def tell_all(results: list[Result], rows: int) -> None:
    """A row of the table for each aim, and one for memory."""
    own = [result for result in results if result.target is not None]
    groups = {(result.target, "no compiler" in result.name) for result in own}
    for target, eager in sorted(groups):
        names = dict.fromkeys(result.name for result in own if (result.target, "no compiler" in result.name) == (target, eager))
        ratios = {name: " / ".join(f"{result.ratio:.2f}" for result in own if result.name == name) for name in names}
        sizes = " / ".join(f"{size / 1e6:g} M" for size in dict.fromkeys(result.coordinates for result in own))
        kind = "without a compiler" if eager else "compiled"
        what = f"rules {kind}, n={rows}, d={sizes}, against `mean(0)` in turns, medians"
        tell(what, ", ".join(f"{name.removesuffix(' (no compiler)')} {ratio}" for name, ratio in ratios.items()), f"{target:g}")
    extras = [result.extra for result in own if result.extra is not None]
    if extras:
        tell("memory of a rule beyond input and result, largest share of the input", f"{max(extras):.1%}", f"{LARGEST_EXTRA:.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=25)
    parser.add_argument("--coordinates", type=int, nargs="+", default=[2_000_000, 10_000_000])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", nargs="*", help="names that must occur in a contender's name")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    chosen = [each for each in contenders(arguments.rows) if not arguments.only or any(word in each.name for word in arguments.only)]
    machine = platform.processor() or platform.machine()
    print(f"{arguments.rows} rows, float32, {torch.get_num_threads()} threads, torch {torch.__version__}, {machine}")
    print(f"{'d':>10} {'rule':<32} {'time':>12} {'ratio':>8}  {'extra':>8}  target")
    results: list[Result] = []
    for num_coordinates in arguments.coordinates:
        rows = torch.randn(arguments.rows, num_coordinates, generator=torch.Generator().manual_seed(arguments.seed))
        for contender in chosen:
            results.append(measure(contender, rows, arguments.repeats))
            print(show(results[-1]), flush=True)
    tell_all(results, arguments.rows)
    if toolchain.problem():
        print(f"compiled kernels are missing: {toolchain.problem()}")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")


if __name__ == "__main__":
    main()

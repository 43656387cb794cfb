"""Time and memory of the robust rules against a plain mean of the same matrix, in one process, interleaved.

    python benchmarks/aggregation.py [--rows 25] [--coordinates 2000000 10000000] [--repeats 7] [--only phocas ...] [--json FILE]

Times are medians; `ratio` is against `updates.mean(0)` timed in the same loop, so that a busy machine hits both alike. `extra` is the peak
of resident memory during a call beyond input and result, as a share of the input. byzfl and Flower are timed where they are installed
(`pip install byzfl flwr`; neither is a dependency).
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mottle import aggregation
from mottle.aggregation.kernels import toolchain

Aggregate = Callable[[Tensor], object]


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
    return [*ours, *eager, *_byzfl(num_rows // 5), *_flower(num_rows // 5)]


def _byzfl(f: int) -> list[Contender]:
    try:
        byzfl = import_module("byzfl")
    except ImportError:
        return []
    made = {
        "Average": {},
        "Median": {},
        "TrMean": {"f": f},
        "MeaMed": {"f": f},
        "Krum": {"f": f},
        "MultiKrum": {"f": f},
        "GeometricMedian": {},
        "CenteredClipping": {},
    }
    rules = {name: getattr(byzfl, name)(**options) for name, options in made.items() if hasattr(byzfl, name)}
    with_torch = [Contender(f"byzfl {name} (torch)", rule, None) for name, rule in rules.items()]
    with_numpy = [Contender(f"byzfl {name} (numpy)", lambda rows, rule=rule: rule(rows.numpy()), None) for name, rule in rules.items()]
    return [*with_torch, *with_numpy]


def _flower(f: int) -> list[Contender]:
    try:
        module = import_module("flwr.server.strategy.aggregate")
    except ImportError:
        return []
    found: list[Contender] = []
    if hasattr(module, "aggregate_krum"):
        found.append(Contender("Flower krum", lambda rows: module.aggregate_krum([([row], 1) for row in rows.numpy()], f, 0), None))
    if hasattr(module, "aggregate_median"):
        found.append(Contender("Flower median", lambda rows: module.aggregate_median([([row], 1) for row in rows.numpy()]), None))
    if hasattr(module, "aggregate_trimmed_avg"):
        share = f / 25
        found.append(
            Contender("Flower trimmed", lambda rows: module.aggregate_trimmed_avg([([row], 1) for row in rows.numpy()], share), None)
        )
    return found


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
    """Peak beyond input and result, as a share of the input; None where the kernel does not tell.

    What the allocator had resident before and uses again is not seen, so it is a lower bound by a few megabytes.
    """
    with _peak_reset() as possible:
        before = _status("VmRSS")
        result = aggregate(rows)
        peak = _status("VmHWM")
    if not possible or before is None or peak is None:
        return None
    result_bytes = result.nbytes if isinstance(result, Tensor) else 0
    return max(0, peak - before - result_bytes) / rows.nbytes


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
    target = "" if result.target is None else f"{result.target:5.1f} {'ok' if result.ratio <= result.target else 'MISSED'}"
    extra = "" if result.extra is None else f"{result.extra:7.1%}"
    return f"{result.coordinates:>10,} {result.name:<32} {result.seconds * 1e3:9.1f} ms {result.ratio:7.2f}x  {extra:>8}  {target}"


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
    if toolchain.problem():
        print(f"compiled kernels are missing: {toolchain.problem()}")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")


if __name__ == "__main__":
    main()

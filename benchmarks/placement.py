"""Placement: time and memory on large graphs, quality against the optimum on small ones, and the lessons on coarsening.

    python benchmarks/placement.py [--parts scale quality lessons] [--graphs 1000] [--json FILE]

`scale` runs every row in a fresh process, so that its peak of resident memory is its own. `place` is what a caller waits for with the
problem in memory, canonical order included; `repair` is after losing the first of eight devices. CPU seconds stand next to
wall-clock ones, because on a shared machine the latter measure the neighbours. `quality` counts problems that the optimum
(branch and bound, which agrees with the integer program; see the tests) can place.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from table import tell

from mottle.placement import (
    InfeasibleError,
    Problem,
    SmallShape,
    block_problem,
    bounds,
    layered_problem,
    load_problem,
    place,
    repair,
    save_problem,
    small_problem,
)
from mottle.placement.branch import branch_and_bound
from mottle.placement.coarsen import COARSENINGS
from mottle.placement.lower_bounds import critical_path, work_bound

UNEQUAL = (1000, 500, 2000, 1500)
SHAPES: dict[str, Callable[[int], Problem]] = {
    "layered": lambda n: layered_problem(Random(0), n, 8, speeds=UNEQUAL),
    "operators": lambda n: block_problem(Random(0), n // 49, 8, speeds=UNEQUAL),
    "layers": lambda n: block_problem(Random(0), n // 25, 8, weights=False, speeds=UNEQUAL),
    "layers-tight": lambda n: block_problem(Random(0), n // 25, 8, weights=False, speeds=UNEQUAL, share=0.16),
}
TARGETS_S = {10_000: 1.0, 100_000: 20.0}
REPAIR_TARGET_S = 0.3
MEMORY_TARGET_BYTES = 1 << 30


@dataclass(frozen=True)
class Scale:
    """One large problem."""

    shape: str
    ops: int
    edges: int
    read_s: float
    place_s: float
    place_cpu_s: float
    repair_s: float
    repair_cpu_s: float
    peak_bytes: int
    makespan_over_bound: float
    repaired_over_bound: float
    moved_share: float
    algorithm: str
    skipped: list[str]


def measure_scale(shape: str, num_ops: int) -> Scale:
    problem = SHAPES[shape](num_ops)
    path = Path(f"/tmp/mottle-placement-{shape}-{num_ops}.json")
    save_problem(problem, path)
    start = time.perf_counter()
    problem = load_problem(path)
    read_s = time.perf_counter() - start
    path.unlink()
    fresh = problem.with_devices(problem.devices)  # compiles the graph again: `place` below pays for all of it
    wall, cpu = time.perf_counter(), time.process_time()
    plan = place(fresh.with_devices(fresh.devices))
    place_s, place_cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    wall, cpu = time.perf_counter(), time.process_time()
    after = repair(plan, problem.devices[1:])
    repair_s, repair_cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    return Scale(
        shape=shape,
        ops=len(problem.ops),
        edges=len(problem.edges),
        read_s=read_s,
        place_s=place_s,
        place_cpu_s=place_cpu_s,
        repair_s=repair_s,
        repair_cpu_s=repair_cpu_s,
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        makespan_over_bound=plan.makespan / _bound(problem),
        repaired_over_bound=after.plan.makespan / _bound(after.plan.problem),
        moved_share=len(after.moved) / len(problem.ops),
        algorithm=plan.algorithm,
        skipped=[note for note in plan.notes if "skipped" in note or "stopped" in note],
    )


def _bound(problem: Problem) -> int:
    return max(critical_path(problem.graph), work_bound(problem.graph))


def report_scale(sizes: list[int]) -> list[dict[str, Any]]:
    heads = "".join(f"{head:>8}" for head in ("ops", "edges", "read", "place", "(cpu)", "repair", "(cpu)"))
    print(f"{'shape':14}{heads}{'peak MiB':>9}{'/bound':>8}  algorithm")
    rows = []
    of_size: dict[int, list[dict[str, Any]]] = {num_ops: [] for num_ops in sizes}
    for num_ops in sizes:
        for shape in SHAPES:
            command = [sys.executable, __file__, "--one", shape, str(num_ops)]
            row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            rows.append(row)
            of_size[num_ops].append(row)  # shapes have about as many
            times = "".join(f"{row[key]:8.3f}" for key in ("read_s", "place_s", "place_cpu_s", "repair_s", "repair_cpu_s"))
            print(
                f"{shape:14}{row['ops']:8}{row['edges']:8}{times}{row['peak_bytes'] / 2**20:9.0f}{row['makespan_over_bound']:8.3f}"
                f"  {row['algorithm']}; after losing a device {row['repaired_over_bound']:.3f}, {row['moved_share']:.0%} moved"
            )
    for num_ops in sizes:
        here = of_size[num_ops]
        peak = max(row["peak_bytes"] for row in here) / 2**20
        place, repaired = (span([row[key] for row in here]) for key in ("place_cpu_s", "repair_cpu_s"))
        aim = f"{TARGETS_S[num_ops]:g} s" if num_ops in TARGETS_S else ""
        tell(f"`auto` placement of {num_ops:,} ops on 8 devices", f"{place} s of processor time, {peak:.0f} MiB", f"{aim}, 1 GiB")
        tell(
            f"repair of a {num_ops:,}-op plan after losing a device",
            f"{repaired} s of processor time",
            f"{REPAIR_TARGET_S} s at 10,000 ops",
        )
    return rows


def span(values: list[float]) -> str:
    """From the least to the largest."""
    return f"{min(values):.2f}-{max(values):.2f}"


def report_quality(num_graphs: int) -> dict[str, object]:
    """5-8 ops, 2-3 devices, budgets of 40-70 % of the total need; all features mixed."""
    ratios: dict[str, list[float]] = {name: [] for name in ("auto", "m-etf", "m-sct", "heft", "m-topo")}
    feasible = 0
    for seed in range(num_graphs):
        rng = Random(seed)
        shape = SmallShape(ops=(5, 8), share=(0.4, 0.7), unequal=rng.random() < 0.5, outputs=rng.random() < 0.5, groups=rng.random() < 0.3)
        problem = small_problem(rng, shape)
        best = branch_and_bound(problem.graph).placement
        if best is None:
            continue
        feasible += 1
        optimum = max(s + problem.graph.k_rows[i][d] for i, (s, d) in enumerate(zip(best.start, best.device, strict=True)))
        for name, row in ratios.items():
            try:
                row.append(place(problem, name).makespan / optimum)
            except InfeasibleError:
                continue
    print(f"{num_graphs} small graphs with tight memory, {feasible} of them feasible")
    print(f"{'algorithm':10}{'placed':>8}{'mean':>8}{'worst':>8}   (makespan / optimum)")
    for name, row in ratios.items():
        print(f"{name:10}{len(row) / feasible:8.1%}{statistics.mean(row):8.3f}{max(row):8.3f}")
    auto = ratios["auto"]
    tell(
        f"`auto` against the optimum on {feasible} small tight graphs",
        f"mean {statistics.mean(auto):.3f}, worst {max(auto):.3f}, {len(auto) / feasible:.1%} placed",
        "1.05, 1.5, 95 %",
    )
    return {
        "feasible": feasible,
        **{name: {"placed": len(row), "mean": statistics.mean(row), "worst": max(row)} for name, row in ratios.items()},
    }


def report_lessons() -> list[dict[str, object]]:
    """Operator graphs: raw greedy against one device. Layer graphs: what the paper rule costs."""
    rows: list[dict[str, object]] = []
    for name, problem in {
        "operators, a chain": block_problem(Random(1), 4, 4, branches=1, share=2),
        "operators, 4 branches": block_problem(Random(1), 12, 4, share=2),
        "layers, 4 branches": block_problem(Random(1), 12, 4, weights=False, share=2),
    }.items():
        row: dict[str, object] = {"graph": name, "ops": len(problem.ops), "bound": bounds(problem).makespan}
        row["single"] = place(problem, "single").makespan
        for rule in COARSENINGS:
            for algorithm in ("m-etf", "m-sct", "heft"):
                row[f"{algorithm}, {rule}"] = place(problem, algorithm, coarsen=rule).makespan
        row["auto"] = place(problem, budget_s=None).makespan
        rows.append(row)
    for key in rows[0]:
        print(f"{key:18}" + "".join(f"{row[key]!s:>24}" for row in rows))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=["scale", "quality", "lessons"], default=["scale", "quality", "lessons"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[10_000, 100_000])
    parser.add_argument("--graphs", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=2, metavar=("SHAPE", "OPS"), help="measure one row and print it as JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(asdict(measure_scale(options.one[0], int(options.one[1])))))
        return
    results: dict[str, object] = {"python": platform.python_version(), "machine": platform.processor() or platform.machine()}
    if "scale" in options.parts:
        results["scale"] = report_scale(options.sizes)
    if "quality" in options.parts:
        results["quality"] = report_quality(options.graphs)
    if "lessons" in options.parts:
        results["lessons"] = report_lessons()
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

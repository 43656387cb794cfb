"""Random placement problems of many shapes, on which `auto` is held against every other placer.

    python benchmarks/placement_fuzz.py [--seeds 0 600] [--ops 3000] [--slow 1.5]

A problem is written as pg1 and read back, then placed by `auto` within its default budget of a second. It is a fault of `auto` when another
placer, with any coarsening, is faster or fits where it finds nothing; when the simulator, read anew, disagrees with the plan; when a lower
bound is above it; or when it takes more than `--slow` seconds of processor time (busy neighbours make those longer). Faults are printed
with their seed, and the exit code is 1 if there are any. With `--ops` all problems have about so many ops and eight devices.
"""

import argparse
import json
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from table import tell

from mottle.placement import InfeasibleError, Problem, ProblemError, bounds, place, simulate
from mottle.placement.coarsen import COARSENINGS
from mottle.placement.pg1 import parse_file

Edges = list[tuple[int, int]]
BASELINES = ("single", "m-topo", "layer-split", "round-robin", "random")
LISTS = ("heft", "m-etf", "m-sct")


# --- shapes: edges among n ops ----------------------------------------------------------------------------------------------------------


def chain(rng: Random, n: int) -> Edges:
    return [(i, i + 1) for i in range(n - 1)]


def fork_join(rng: Random, n: int) -> Edges:
    return [edge for i in range(1, n - 1) for edge in ((0, i), (i, n - 1))]


def loose(rng: Random, n: int) -> Edges:
    return []


def sparse(rng: Random, n: int) -> Edges:
    found = set()
    for j in range(1, n):
        for _ in range(rng.choice([0, 1, 1, 2, 3])):
            found.add((rng.randrange(max(0, j - rng.choice([3, 50, n])), j), j))
    return sorted(found)


def tree(rng: Random, n: int) -> Edges:
    return [((i - 1) // 2, i) for i in range(1, n)]


def reduction_tree(rng: Random, n: int) -> Edges:
    return [(n - 1 - j, n - 1 - (j - 1) // 2) for j in range(1, n)]


def grid(rng: Random, n: int) -> Edges:
    width = max(1, int(n**0.5))
    return [(i - 1, i) for i in range(n) if i % width] + [(i - width, i) for i in range(width, n)]


def mirrored_chain(rng: Random, n: int) -> Edges:
    """A backward pass after a forward pass that reads what it made."""
    return sorted({*chain(rng, n), *((i, n - 1 - i) for i in range(n // 2 - 1))})


def skips(rng: Random, n: int) -> Edges:
    return sorted({*chain(rng, n), *((0, i) for i in range(2, n, 3))})


SHAPES: tuple[Callable[[Random, int], Edges], ...] = (
    chain,
    fork_join,
    loose,
    sparse,
    tree,
    reduction_tree,
    grid,
    mirrored_chain,
    skips,
)


# --- problems ---------------------------------------------------------------------------------------------------------------------------


def make(seed: int, num_ops: int | None) -> tuple[str, dict[str, Any]]:
    """(name of the shape, pg1 object)."""
    rng = Random(seed)
    shape = SHAPES[seed % len(SHAPES)]
    n = num_ops or rng.choice([2, 3, 5, 9, 20, 60, 150, 400])
    kinds = rng.choice([["x"], ["gpu", "cpu"], ["gpu", "cpu", "tpu"]])
    unit = rng.choice([1, 1000, 10**6])
    ops = list(_ops(rng, n, kinds, unit))
    sizes = [rng.choice([0, 1, rng.randint(0, 1000) * unit]) for _ in range(n)]
    comm = [rng.choice([0, 1, rng.randint(0, 1000)]) for _ in range(n)] if rng.random() < 0.3 else None
    edges = [{"src": f"n{i}", "dst": f"n{j}", "bytes": sizes[i], **({"comm": comm[i]} if comm else {})} for i, j in shape(rng, n) if i != j]
    need = sum(op.get("perm", 0) + op.get("temp", 0) for op in ops) + sum(sizes)
    count = 8 if num_ops else rng.choice([1, 2, 3, 4, 8])
    share = rng.choice([10, 1.2, 0.7, 0.5, 0.35])
    devices: list[dict[str, Any]] = [
        {"id": f"d{d}", "class": kinds[d % len(kinds)], "mem": max(1, int(need * share * rng.choice([1, 1, 0.5, 2]))) + 1000}
        for d in range(count)
    ]
    if rng.random() < 0.4:
        for device in devices:
            device["speed_pm"] = rng.choice([1, 100, 500, 1000, 3000])
    if rng.random() < 0.2 and count > 1:
        for op in rng.sample(ops, max(1, n // 5)):
            if "group" not in op:
                op["pin"] = [device["id"] for device in rng.sample(devices, rng.randint(1, count))]
    links = {"default": {"lat": rng.choice([0, 1, 10, 1000]), "Bps": rng.choice([None, 10**6, 10**9, 10**12])}}
    modes = {"comm_mode": rng.choice(["parallel", "parallel", "parallel", "link", "device"]), "mem_mode": rng.choice(["static", "dynamic"])}
    if num_ops:
        modes["comm_mode"] = "parallel"  # contending transfers take most placers of large graphs out of any budget
    return shape.__name__, {"ops": ops, "edges": edges, "devices": devices, "links": links, "tick_ns": rng.choice([1, 1000]), **modes}


def _ops(rng: Random, n: int, kinds: list[str], unit: int) -> Iterator[dict[str, Any]]:
    times, fields = rng.choice(["int", "map", "tiny"]), rng.choice(["all", "none", "perm", "some"])
    groups = rng.choice([0, 0, 3, max(1, n // 4)])
    for i in range(n):
        base = rng.choice([0, 1]) if times == "tiny" else rng.choice([1, rng.randint(1, 100), rng.randint(1, 1000)])
        op: dict[str, Any] = {"id": f"n{i}", "time": base}
        if times == "map":
            op["time"] = {kind: int(base * rng.choice([0.3, 1, 1, 5])) for kind in kinds}
        if fields == "all" or (fields in ("perm", "some") and rng.random() < 0.7):
            op["perm"] = rng.choice([0, rng.randint(0, 1000) * unit])
        if fields == "all" or (fields == "some" and rng.random() < 0.4):
            op["temp"] = rng.randint(0, 300) * unit
        if fields == "some" and rng.random() < 0.2:
            op["out"] = rng.randint(0, 500) * unit
        if fields == "some" and rng.random() < 0.2:
            op["keep"] = True
        if groups and rng.random() < 0.3:
            op["group"] = f"g{rng.randrange(groups)}"
        yield op


# --- what is wrong with a plan ----------------------------------------------------------------------------------------------------------


def check(seed: int, num_ops: int | None, slow_s: float) -> tuple[str, str]:
    """(verdict, what there is to say)."""
    shape, data = make(seed, num_ops)
    what = f"{shape}, {len(data['ops'])} ops, {len(data['devices'])} devices, {data['comm_mode']}, {data['mem_mode']}"
    try:
        problem = parse_file(json.loads(json.dumps(data))).problem
    except ProblemError as error:
        return "refused", f"{what}: {str(error).splitlines()[0]}"
    problem.graph  # noqa: B018  # compiled here, so that `auto` is not charged for it
    began = time.process_time()
    try:
        plan = place(problem)
    except InfeasibleError:
        plan = None
    took = time.process_time() - began
    others = dict(_others(problem, large=num_ops is not None))
    if plan is None:
        return ("LOST", f"{what}: nothing found, but {others}") if others else ("infeasible", what)
    again = simulate(problem, plan.assignment, plan.priority)
    if not again.valid or again.makespan != plan.makespan:
        return "WRONG", f"{what}: {plan.makespan} ticks, the simulator says {again.makespan} (valid: {again.valid})"
    if (bound := bounds(problem).makespan) > plan.makespan:
        return "WRONG", f"{what}: {plan.makespan} ticks, below the bound {bound}"
    if worse := {name: ticks for name, ticks in others.items() if ticks < plan.makespan}:
        return "WORSE", f"{what}: auto {plan.makespan} by {plan.algorithm}, {worse}"
    return ("SLOW", f"{what}: {took:.2f} s, {plan.algorithm}") if took > slow_s else ("ok", what)


def _others(problem: Problem, *, large: bool) -> Iterator[tuple[str, int]]:
    """(placer, makespan) of all that find room."""
    runs: list[tuple[str, Any]] = [(name, None) for name in BASELINES]
    runs += [(name, rule) for rule in COARSENINGS for name in LISTS if not large or name == "heft" or rule == "guarded"]
    for name, rule in runs:
        try:
            yield f"{name}, {rule}" if rule else name, place(problem, name, coarsen=rule).makespan
        except InfeasibleError:
            continue


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs=2, type=int, default=(0, 600), metavar=("FIRST", "END"))
    parser.add_argument("--ops", type=int, help="about so many in every problem")
    parser.add_argument("--slow", type=float, default=1.5, help="seconds of processor time")
    options = parser.parse_args()
    verdicts: Counter[str] = Counter()
    for seed in range(*options.seeds):
        try:
            verdict, text = check(seed, options.ops, options.slow)
        except Exception:  # whatever breaks is a finding
            verdict, text = "BROKE", traceback.format_exc(limit=-4)
        verdicts[verdict] += 1
        if verdict.isupper():
            print(f"{verdict} seed {seed}: {text}", flush=True)
    print(dict(verdicts))
    faults = sum(count for verdict, count in verdicts.items() if verdict.isupper())
    size = f"{options.ops:,}" if options.ops else "2 to 400"
    tell(
        f"`auto` against all other placers on {verdicts.total()} random graphs of {size} ops",
        f"{faults} faults; {verdicts['infeasible']} could not be placed by any",
        "none",
    )
    sys.exit(faults > 0)


if __name__ == "__main__":
    main()

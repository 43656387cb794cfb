"""Predicted training steps of well-known models under every placer, with memory from plenty to far too little for one device.

    python benchmarks/placement_models.py [--models "GPT-2 small" ...] [--table FILE] [--json FILE]

Nothing is run: graphs, sizes and FLOPs come from fake tensors, times from the roofline of each device class, and every placement is judged
by the same simulator on the joint graph of a training step with Adam. Each device gets a share of the bytes that the whole model needs on
one device. `accelerate` (where it is installed) spreads weights by their size with `infer_auto_device_map`; its placement is judged like
the others. GPT-2, BERT and ViT are those of transformers where that is installed. Neither is needed by Mottle: `pip install transformers
accelerate` into a virtual environment that has Mottle in it. `-` did not fit. `auto` is never slower than any other column.
"""

import argparse
import json
import logging
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from table import tell
from torch import nn
from zoo import Entry, with_transformers

from mottle.placement import Capture, Device, InfeasibleError, Link, Problem, bounds, capture, place, simulate
from mottle.placement.tracing import PCIE, TICK_NS, parse_shapes

SHARES = (1.0, 0.4, 0.3)
ALGORITHMS = ("single", "layer-split", "m-topo", "m-etf", "m-sct", "heft", "auto")


@dataclass(frozen=True)
class Fleet:
    """Device classes, and how they are joined."""

    name: str
    short: str
    classes: tuple[str, ...]
    link: Link


ETHERNET = Link(round(50_000 / TICK_NS), 3_000_000_000)
FLEETS = (
    Fleet("four RTX 2080 on PCIe", "4 x RTX 2080", ("rtx2080",) * 4, PCIE),
    Fleet("A10G, V100 and two T4 on PCIe", "A10G, V100, 2 x T4", ("a10g", "v100", "t4", "t4"), PCIE),
    Fleet("A100, T4 and 64 CPU cores on 25 Gbit/s Ethernet", "A100, T4, CPU", ("a100-40gb", "t4", "cpu-64"), ETHERNET),
)


def measure(name: str, entry: Entry) -> dict[str, Any]:
    """All rows of one model."""
    start = time.process_time()
    with torch.device("meta"):
        model = entry.build().train()
    captured = capture(model, parse_shapes(entry.inputs))
    capture_s = time.process_time() - start
    flops = sum(sum(unit.cost.forward.flops.values()) for unit in captured.units)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"\n{name}: {parameters / 1e6:.1f} M parameters, {flops / 1e9:.0f} GFLOP forward, captured in {capture_s:.1f} s of CPU")
    heads = "".join(f"{head:>12}" for head in ("memory", *ALGORITHMS, "accelerate", "bound", "plan (s)"))
    rows = []
    for fleet in FLEETS:
        need = _need(captured, fleet)
        print(f"  {fleet.name}; one device needs {need / 2**30:.2f} GiB; step in ms\n{heads}")
        for share in SHARES:
            row = _row(model, entry, captured, fleet, int(need * share))
            rows.append({"fleet": fleet.name, "share": share, **row})
            times = "".join(f"{_shown(row[each]):>12}" for each in (*ALGORITHMS, "accelerate", "bound"))
            print(f"{share:>12.0%}{times}{row['plan_s']:>12.2f}", flush=True)
    return {"model": name, "parameters": parameters, "forward_flops": flops, "capture_cpu_s": capture_s, "rows": rows}


def _problem(captured: Capture, fleet: Fleet, mem: int) -> Problem:
    devices = [Device(f"{kind}-{d}", kind, mem) for d, kind in enumerate(fleet.classes)]
    return captured.problem(devices, default_link=fleet.link)


def _need(captured: Capture, fleet: Fleet) -> int:
    """Peak of the step with everything on one device."""
    roomy = _problem(captured, fleet, 1 << 50)
    return max(place(roomy, "single").simulation.peaks.values())


def _row(model: nn.Module, entry: Entry, captured: Capture, fleet: Fleet, mem: int) -> dict[str, float | None]:
    problem = _problem(captured, fleet, mem)
    row: dict[str, float | None] = {}
    for algorithm in ALGORITHMS:
        start = time.process_time()
        try:
            row[algorithm] = place(problem, algorithm).makespan * TICK_NS / 1e6
        except InfeasibleError:
            row[algorithm] = None
        row["plan_s"] = time.process_time() - start  # of the last, which is auto
    row["accelerate"] = _accelerate(model, entry, captured, problem)
    row["bound"] = bounds(problem).makespan * TICK_NS / 1e6
    return row


def _beaten(row: dict[str, Any]) -> bool:
    """Some column is faster than `auto`, or fits where it found nothing."""
    others = [row[each] for each in (*ALGORITHMS[:-1], "accelerate") if row[each] is not None]
    return bool(others) and (row["auto"] is None or row["auto"] > min(others))


def _accelerate(model: nn.Module, entry: Entry, captured: Capture, problem: Problem) -> float | None:
    """The step with the device map that accelerate makes of the weights; None: not installed, or it does not fit."""
    try:
        from accelerate import infer_auto_device_map
        from accelerate.utils import get_balanced_memory
    except ImportError:
        return None
    mem = {d: device.mem for d, device in enumerate(problem.devices)}
    whole = list(entry.whole)
    logging.disable(logging.WARNING)  # it looks for the GPUs, which need not be here
    balanced = get_balanced_memory(model, max_memory=dict(mem), no_split_module_classes=whole)
    where = infer_auto_device_map(model, max_memory=balanced, no_split_module_classes=whole)
    home, last, group_home = {}, 0, {}
    for unit in captured.units:
        path = unit.id.rpartition("/")[0] or unit.id
        fitting = [module for module in where if module == "" or path == module or path.startswith(f"{module}.")]
        if fitting:
            found = where[max(fitting, key=len)]
            if not isinstance(found, int):
                return None  # it wants the disk
            last = found
        # functional ops follow what came before, as they do in accelerate, where they run beside their input
        home[unit.id] = group_home.setdefault(unit.group or unit.id, last)
    by_group = {op.group: home[op.id] for op in problem.ops if op.id in home}
    assignment = {op.id: problem.devices[by_group[op.group]].id for op in problem.ops}
    simulation = simulate(problem, assignment)
    return simulation.makespan * TICK_NS / 1e6 if simulation.valid else None


def _short(value: float | None) -> str:
    """Three digits."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def report(rows: list[tuple[str, dict[str, Any]]]) -> None:
    """Where `auto` is beaten, and by how much it is ahead of the others, in rows in which both fit."""
    beaten = [f"{model} on {row['fleet']} at {row['share']:.0%}" for model, row in rows if _beaten(row)]
    ahead = []
    for other in ("layer-split", "accelerate", "m-topo", "m-etf", "m-sct", "heft"):
        ratios = [row[other] / row["auto"] for _, row in rows if row[other] and row["auto"]]
        if ratios:
            ahead.append(f"{other} {statistics.geometric_mean(ratios):.2f} ({len(ratios)} rows)")
    found = [row["auto"] for _, row in rows if row["auto"]]
    tell(
        f"predicted training step of {len({model for model, _ in rows})} models on {len(FLEETS)} device sets, memory 100, 40 and 30 %",
        f"`auto` beaten in {len(beaten)} of {len(rows)} rows{': ' if beaten else ''}{'; '.join(beaten)}; it fits in {len(found)}; "
        f"geometric means of others' steps over its own: {', '.join(ahead)}",
        "beaten in none",
    )


def table(rows: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """Markdown; rows in which nothing fits are left out."""
    columns = ("single", "layer-split", "m-topo", "m-etf", "m-sct", "heft", "accelerate", "auto", "bound")
    heads = (
        "model",
        "devices",
        "memory",
        "one device",
        "layer split",
        "m-TOPO",
        "m-ETF",
        "m-SCT",
        "HEFT",
        "accelerate",
        "**auto**",
        "bound",
    )
    lines = [f"| {' | '.join(heads)} |", "| " + " | ".join("---" for _ in heads) + " |"]
    for model, row in rows:
        if any(row[each] is not None for each in columns[:-1]):
            short = next(fleet.short for fleet in FLEETS if fleet.name == row["fleet"])
            cells = [model, short, f"{row['share']:.0%}", *(_short(row[each]) for each in columns)]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    zoo, release = with_transformers()
    parser.add_argument("--models", nargs="+", choices=list(zoo), default=list(zoo))
    parser.add_argument("--table", type=Path, help="write the table of docs/placement.md")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(f"GPT-2, BERT and ViT of transformers {release}" if release else "transformers is not installed: GPT-2, BERT and ViT of zoo.py")
    results = [measure(name, zoo[name]) for name in options.models]
    rows = [(result["model"], row) for result in results for row in result["rows"]]
    report(rows)
    if options.table:
        options.table.write_text("\n".join(table(rows)) + "\n", encoding="utf-8")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Predicted training steps of well-known models under every placer, with memory from plenty to far too little for one device.

    python benchmarks/placement_models.py [--models "GPT-2 small" ...] [--json FILE]

Nothing is run: graphs, sizes and FLOPs come from fake tensors, times from the roofline of each device class, and every placement is judged
by the same simulator on the joint graph of a training step with Adam. Each device gets a share of the bytes that the whole model needs on
one device. `accelerate` (where it is installed) spreads weights by their size with `infer_auto_device_map`; its placement is judged like
the others. `-` did not fit. `auto` is never slower than any other column.
"""

import argparse
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from zoo import ZOO, Entry

from mottle.placement import Capture, Device, InfeasibleError, Link, Problem, bounds, capture, place, simulate
from mottle.placement.tracing import PCIE, TICK_NS, parse_shapes

SHARES = (1.0, 0.4, 0.3)
ALGORITHMS = ("single", "layer-split", "m-topo", "m-etf", "m-sct", "heft", "auto")


@dataclass(frozen=True)
class Fleet:
    """Device classes, and how they are joined."""

    name: str
    classes: tuple[str, ...]
    link: Link


ETHERNET = Link(round(50_000 / TICK_NS), 3_000_000_000)
FLEETS = (
    Fleet("four RTX 2080 on PCIe", ("rtx2080",) * 4, PCIE),
    Fleet("A10G, V100 and two T4 on PCIe", ("a10g", "v100", "t4", "t4"), PCIE),
    Fleet("A100, T4 and 64 CPU cores on 25 Gbit/s Ethernet", ("a100-40gb", "t4", "cpu-64"), ETHERNET),
)


def measure(name: str, entry: Entry) -> dict[str, Any]:
    """All rows of one model."""
    start = time.process_time()
    with torch.device("meta"):
        model = entry.build()
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
            row = _row(model, captured, fleet, int(need * share))
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


def _row(model: nn.Module, captured: Capture, fleet: Fleet, mem: int) -> dict[str, float | None]:
    problem = _problem(captured, fleet, mem)
    row: dict[str, float | None] = {}
    for algorithm in ALGORITHMS:
        start = time.process_time()
        try:
            row[algorithm] = place(problem, algorithm).makespan * TICK_NS / 1e6
        except InfeasibleError:
            row[algorithm] = None
        row["plan_s"] = time.process_time() - start  # of the last, which is auto
    row["accelerate"] = _accelerate(model, captured, problem)
    row["bound"] = bounds(problem).makespan * TICK_NS / 1e6
    return row


def _beaten(row: dict[str, Any]) -> bool:
    """Some column is faster than `auto`, or fits where it found nothing."""
    others = [row[each] for each in (*ALGORITHMS[:-1], "accelerate") if row[each] is not None]
    return bool(others) and (row["auto"] is None or row["auto"] > min(others))


def _accelerate(model: nn.Module, captured: Capture, problem: Problem) -> float | None:
    """The step with the device map that accelerate makes of the weights; None: not installed, or it does not fit."""
    try:
        from accelerate import infer_auto_device_map
        from accelerate.utils import get_balanced_memory
    except ImportError:
        return None
    mem = {d: device.mem for d, device in enumerate(problem.devices)}
    whole = ["Block", "Bottleneck", "LSTM"]
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


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(ZOO), default=list(ZOO))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = [measure(name, ZOO[name]) for name in options.models]
    rows = [(result["model"], row) for result in results for row in result["rows"]]
    beaten = [f"{model} on {row['fleet']} at {row['share']:.0%}" for model, row in rows if _beaten(row)]
    print(f"\nauto is beaten in {len(beaten)} of {len(rows)} rows{': ' if beaten else ''}{'; '.join(beaten)}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

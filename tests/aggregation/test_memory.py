"""No rule copies its input: peak memory beside input and result is a tenth of the input at most, with a compiler and without one.

Counted by torch's own allocator, event by event: what a kernel reports as resident memory is off by megabytes on hosts with many cores.
The memory that the operating system sees is in `benchmarks/aggregation.py`, at sizes that make such errors small.
"""

import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

CODE = """
import json, sys, torch
sys.path.insert(0, sys.argv[1])
import aggregation as benchmark
from torch.profiler import ProfilerActivity, profile
from mottle import aggregation
from mottle.aggregation.kernels import toolchain

def extra_memory(call, rows):
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        result = call(rows)
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return (peak - result.nbytes) / rows.nbytes

torch.set_num_threads(1)
rows = torch.randn(24, 500_000, generator=torch.Generator().manual_seed(0))
# One rule for each way through the kernels: columns, pairs, inner products, mixing, norms and dots.
chosen = ("trimmed_mean", "mea_med", "bulyan", "geometric_median", "centered_clipping", "nnm+median")
rules = {name: benchmark.specs(24)[name][0] for name in chosen} | {"fltrust": "fltrust"}
reference, extra = rows[0].clone(), {}
for name, spec in rules.items():
    rule = aggregation.build(spec)
    call = (lambda rows, rule=rule: rule(rows, reference=reference[: rows.shape[1]]))
    with toolchain.disabled():
        call(rows[:, :5000])
        extra[name + " (no compiler)"] = extra_memory(call, rows)
    call(rows)
    toolchain.settle()
    extra[name] = extra_memory(call, rows)
extra["a copy"] = extra_memory(lambda rows: (rows * 2).mean(0), rows)
print(json.dumps(extra))
"""


def test_no_rule_needs_more_than_a_tenth_of_its_input() -> None:
    done = subprocess.run([sys.executable, "-c", CODE, str(BENCHMARKS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    extra = json.loads(done.stdout)
    assert extra.pop("a copy") > 0.99  # the measurement sees what it should
    assert len(extra) == 14
    assert {name: share for name, share in extra.items() if share > 0.1} == {}

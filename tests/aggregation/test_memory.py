"""No rule copies its input: peak memory beside input and result is a tenth of the input at most, with a compiler and without one.

Measured by the benchmark's own means in a process of its own, whose memory nothing else uses.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

CODE = """
import json, sys, torch
sys.path.insert(0, sys.argv[1])
import aggregation as benchmark
from mottle import aggregation
from mottle.aggregation.kernels import toolchain

torch.set_num_threads(1)
rows = torch.randn(24, 1_000_000, generator=torch.Generator().manual_seed(0))
# One rule for each way through the kernels: columns, pairs, inner products, mixing, norms and dots.
chosen = ("trimmed_mean", "mea_med", "bulyan", "geometric_median", "centered_clipping", "nnm+median")
rules = {name: benchmark.specs(24)[name][0] for name in chosen} | {"fltrust": "fltrust"}
reference, extra = rows[0].clone(), {}
for name, spec in rules.items():
    rule = aggregation.build(spec)
    call = (lambda rows, rule=rule: rule(rows, reference=reference[: rows.shape[1]]))
    with toolchain.disabled():
        call(rows[:, :5000])
        extra[name + " (no compiler)"] = benchmark.extra_memory(call, rows)
    call(rows)
    toolchain.settle()
    extra[name] = benchmark.extra_memory(call, rows)
extra["a copy"] = benchmark.extra_memory(lambda rows: (rows * 2).mean(0), rows)
print(json.dumps(extra))
"""


def test_no_rule_needs_more_than_a_tenth_of_its_input() -> None:
    done = subprocess.run([sys.executable, "-c", CODE, str(BENCHMARKS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    extra = json.loads(done.stdout)
    if extra["a copy"] is None:
        pytest.skip("this kernel does not tell a process's peak memory")
    assert extra.pop("a copy") > 0.9  # the measurement sees what it should
    assert len(extra) == 14
    assert {name: share for name, share in extra.items() if share > 0.1} == {}

"""Real memory in real processes: what a worker holds, and what happens at a limit of the operating system.

Each test runs a child: a limit on the address space cannot be taken back, and a peak belongs to a whole process.
"""

import json
import subprocess
import sys
import textwrap
from typing import Any

import pytest

COMMON = """
import gc, json, resource, torch
from torch import nn
from mottle.engines import TorchEngine, layout_of
torch.set_num_threads(1)

def status_bytes(field):
    line = next(line for line in open("/proc/self/status") if line.startswith(field))
    return int(line.split()[1]) * 1024

def allow(more_bytes):
    gc.collect()
    limit = status_bytes("VmSize") + more_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
"""

ALLOCATOR = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
"""Freed tensors go back to the system at once, so that what is measured is what is held, not what the allocator keeps for later."""


def child(code: str) -> dict[str, Any]:
    """Run code that prints one JSON object at its end."""
    done = subprocess.run(
        [sys.executable, "-c", COMMON + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1", **ALLOCATOR},
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_at_a_limit_of_the_address_space_the_micro_batch_is_halved_and_the_sum_is_right(where: str) -> None:
    """4 MB of activations (or of workspace in backward) a sample and 64 MB allowed: 32 at once do not fit, at most 15 do."""
    found = child(f"""
        WHERE = {where!r}

        class Workspace(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return x.clone()

            @staticmethod
            def backward(ctx, grad):
                workspace = grad.new_zeros(len(grad), 1 << 20)
                return grad + workspace[:, :1]

        class Hungry(nn.Module):
            def __init__(self):
                super().__init__()
                torch.manual_seed(0)
                self.below = nn.Linear(4, 4)
                self.norm = nn.BatchNorm1d(4, track_running_stats=True)
                self.above = nn.Linear(4, 1)

            def forward(self, x):
                x = self.below(self.norm(x))
                x = Workspace.apply(x) if WHERE == "backward" else x + x.repeat(1, 1 << 18).exp().mean(1, keepdim=True)
                return self.above(x)

        def loss(model, batch):
            return model(batch).square().mean()

        data = torch.randn(32, 4, generator=torch.Generator().manual_seed(1))

        def engine():
            model = Hungry()
            model.norm.eval()
            model.norm.train = lambda mode=True: model.norm  # batch statistics would differ between micro-batch sizes
            return TorchEngine(model, loss, layout_of(model), "cpu", 32)

        def run(engine, size):
            engine.micro_batch_size = size
            engine.zero()
            return engine.accumulate(lambda a, b: data[a:b], 0, 32, seed_of_position=int)

        reference, tried = engine(), engine()
        run(reference, 4)
        allow(64 << 20)
        done = run(tried, 32)
        difference = (tried.update() - reference.update()).abs().max() / reference.update().abs().max()
        again = run(tried, done.micro_batch_size)
        print(json.dumps({{
            "samples": done.num_samples, "size": done.micro_batch_size, "failed": done.num_out_of_memory,
            "difference": float(difference), "failed_again": again.num_out_of_memory,
        }}))
    """)
    assert found["samples"] == 32
    assert found["failed"] >= 1
    assert 1 <= found["size"] < 16
    assert found["difference"] < 1e-5
    assert found["failed_again"] == 0


def test_a_worker_holds_three_times_its_parameters() -> None:
    """Peak of a 100 MB model beyond the process before it, with activations of a few kB: parameters, accumulator, gradients."""
    found = child("""
        def loss(model, batch):
            return model(batch).square().mean()

        def small_work():  # what torch allocates once for itself is not the model's
            model = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10))
            engine = TorchEngine(model, loss, layout_of(model), "cpu", 4)
            engine.accumulate(lambda a, b: torch.ones(b - a, 10), 0, 8, seed_of_position=int)

        small_work()
        before = status_bytes("VmRSS")
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Linear(1600, 1600, bias=False) for _ in range(10)))
        layout = layout_of(model)
        num_bytes = 4 * layout.size
        engine = TorchEngine(model, loss, layout, "cpu", 2)
        for start in range(0, layout.size, 1 << 20):
            engine.load(torch.ones(min(1 << 20, layout.size - start)), start)
        engine.zero()
        engine.accumulate(lambda a, b: torch.ones(b - a, 1600), 0, 8, seed_of_position=int)
        engine.update()
        peak = status_bytes("VmHWM")
        print(json.dumps({"times": (peak - before) / num_bytes}))
    """)
    assert 2.9 < found["times"] < 3.1

"""What kind of arithmetic a process does: processes of one kind make the same bits of the same samples, and may be held to it."""

import platform
from contextlib import suppress
from pathlib import Path

import torch


def kind_of_arithmetic(*, gpu: bool) -> str:
    """Of this process, for comparison with others; empty where its results need not repeat.

    On a CPU: its model, the instruction set that torch uses, and torch itself. A GPU repeats itself only with torch's deterministic
    algorithms, since kernels add in whatever order their threads end.

    Args:
        gpu: whether the model is on the GPU.
    """
    if not gpu:
        return f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"
    if not torch.are_deterministic_algorithms_enabled():
        return ""
    return f"{torch.cuda.get_device_name(0)}, CUDA {torch.version.cuda}, torch {torch.__version__}"


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

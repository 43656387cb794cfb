"""Resident memory of this process."""

from contextlib import suppress
from pathlib import Path

import psutil


def peak_rss_bytes() -> int:
    """Largest resident memory that this process had since it began, or since `forget_peak`."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return int(psutil.Process().memory_info().rss)


def forget_peak() -> None:
    """Count from here on, where the kernel can: what earlier runs needed in this process says nothing of this one."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")

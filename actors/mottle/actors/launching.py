"""What an actor's process starts with: its environment, and Ray's options of one that computes."""

import os
import sys
from typing import Any

from mottle.actors.job import WorkerGroup


def environment() -> dict[str, Any]:
    """What the actors' processes start with.

    One thread each: the actors of a host share its cores, and torch would start a pool as wide as the host in every one. They find the
    modules that this process finds, so that a job's model may live beside its file; folders that another host lacks do no harm there.
    """
    return {
        "env_vars": {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(folder for folder in sys.path if folder),
            # Gradients are freed and allocated in every step. By default the C library gives large blocks back to the kernel each time,
            # and the fresh pages cost more than the gradients themselves.
            "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
            "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
            # Threads other than the first allocate from heaps of 64 MiB, which go back whole however high that threshold is, unless the
            # padding wanted at their top is as large. It costs addresses, not memory.
            "MALLOC_TOP_PAD_": str(64 << 20),
            # Vectors in pages of 2 MiB where the kernel lets programs choose (`transparent_hugepage` is `madvise`): copies and sums of
            # 50 MB took 15 to 40 % less on a virtual machine, for which each entry of a page table is looked up twice.
            "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
        }
    }


def options_of(group: WorkerGroup) -> dict[str, Any]:
    """Ray's, of a process that computes."""
    resources = dict(group.resources)
    options: dict[str, Any] = {
        "num_cpus": group.num_cpus,
        "num_gpus": group.num_gpus,
        "memory": resources.pop("memory", None),  # Ray has it as an option of its own and refuses it among the custom ones
        "resources": resources or None,
        "runtime_env": environment(),
    }
    if group.accelerator_type is not None:
        options["accelerator_type"] = group.accelerator_type
    if group.label_selector:
        options["label_selector"] = dict(group.label_selector)
    return options

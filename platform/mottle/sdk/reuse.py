"""Run after run on the same processes: what a notebook, a sweep or a test suite wants, where starting would take longer than training."""

from collections.abc import Iterator
from contextlib import contextmanager

from mottle.actors.reserve import RESERVE


@contextmanager
def kept_processes() -> Iterator[None]:
    """The processes of a run that ends in here wait for the next run, which begins at once instead of after seconds of imports.

    While they wait they keep the CPUs, GPUs and memory that Ray set aside for them; the end of the block gives all of it back. Modules are
    imported once in a process: what you change in a file of yours afterwards is not seen there. Detached runs are left out.

        with mottle.sdk.kept_processes():
            for lr in (0.1, 0.01):
                results.append(Trainer(..., optimizer={"sgd": {"lr": lr}}).fit())
    """
    before, RESERVE.keeping = RESERVE.keeping, True
    try:
        yield
    finally:
        RESERVE.keeping = before
        if not before:
            RESERVE.clear()

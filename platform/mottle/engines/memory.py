"""Telling "it did not fit" from every other failure."""

import torch

from mottle.core.errors import MottleError

_SIGNS = (
    "can't allocate memory",  # torch's CPU allocator
    "cannot allocate memory",  # the system's text for ENOMEM
    "out of memory",  # CUDA's runtime and driver
    "std::bad_alloc",  # C++ below torch, as it comes through torch's own translation
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "could not create a memory object",  # oneDNN
)


class SampleTooLargeError(MottleError, MemoryError):
    """A single sample does not fit into the memory of the worker."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a failure means that memory ran out, so that less at a time may work.

    torch has a type of its own for accelerators only; on the CPU and from libraries it is a `RuntimeError` known by its text.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)

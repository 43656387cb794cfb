"""Randomness inside a model: seeded per micro-batch, and the process's own left as it was."""

from contextlib import AbstractContextManager

import torch


def kept(device: torch.device) -> AbstractContextManager[None]:
    """torch's random state, of the CPU and of the device, is the same after the block as before it."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def seed(device: torch.device, value: int) -> None:
    """Seed the CPU's generator and the device's, and no other.

    Args:
        value: any integer; its low 64 bits count.
    """
    value &= 0xFFFF_FFFF_FFFF_FFFF
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(value)

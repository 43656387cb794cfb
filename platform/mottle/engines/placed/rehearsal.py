"""What a process of a gang can do, measured as it will do it: the model's ops in their order, the loss behind them, its ways to others."""

import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from mottle.engines import averages, randomness
from mottle.engines.base import Loss
from mottle.engines.batches import to_device
from mottle.engines.buffers import Buffers
from mottle.engines.placed.channel import Channel, Form
from mottle.placement.problem import Link
from mottle.placement.staging import StandIn, call_of
from mottle.placement.tracing import TICK_NS, Capture, Profile, profile

SMALL, LARGE, TRIPS = 1, 1 << 20, 10
"""Bytes of the tensors that time a link, and round trips of each."""
_TRIP = 8


def rehearse(
    captured: Capture, model: nn.Module, loss: Loss, batch: Any, num_samples: int, device: torch.device, autocast: torch.dtype | None = None
) -> Profile:
    """Times of the whole model's ops, and of the loss, on this process's device.

    Args:
        captured: of a micro-batch of `num_samples` samples.
        model: on the device; its buffers and the process's random state are afterwards as before.
        batch: one micro-batch.
    Raises:
        ConfigError: as `profile`, or the loss is none that can be differentiated.
    """
    batch, name, buffers = to_device(batch, device), type(model).__name__, Buffers(model)

    def head(answer: Any) -> Tensor:
        mean, weight = averages.differentiable(loss(StandIn(name, lambda call: answer), batch), num_samples)
        return mean * weight

    buffers.save()
    try:
        with randomness.kept(device), nullcontext() if autocast is None else torch.autocast(device.type, dtype=autocast):
            return profile(captured, model, call_of(loss, batch, name), head, device)
    finally:
        buffers.restore()


def time_link(channel: Channel, peer: int, *, begins: bool) -> Link:
    """Latency and bandwidth to another stage, which calls this at the same time; half a round trip each, medians.

    Args:
        begins: at one of the two ends.
    """
    times_ns = [_half_trip_ns(channel, peer, size, begins) for size in (SMALL, LARGE)]
    return Link(max(1, round(times_ns[0] / TICK_NS)), max(1, round((LARGE - SMALL) * 1e9 / max(1.0, times_ns[1] - times_ns[0]))))


def _half_trip_ns(channel: Channel, peer: int, size: int, begins: bool) -> float:
    tensor, form = torch.zeros(size, dtype=torch.uint8), [Form((size,), torch.uint8)]
    taken = []

    def send() -> None:
        channel.send(peer, _TRIP, [tensor])

    for _ in range(TRIPS):
        began_ns, arrive = time.perf_counter_ns(), channel.expect(peer, _TRIP, form)
        steps: tuple[Callable[[], object], ...] = (send, arrive) if begins else (arrive, send)
        for step in steps:
            step()
        channel.settle()
        taken.append(time.perf_counter_ns() - began_ns)
    return statistics.median(taken) / 2

"""DSP's schedule between processes: no stage waits for a micro-batch to come back before it goes on (placement specification, section 9).

    forward(t)    x <- before, kept; y = stage(x), without gradients; y -> after
    backward(b)   b = t - m_k; dy <- after; stage(x) again, with the parameters of now; vector-Jacobian product; dx -> before
                  after the last micro-batch of an inner step the stage takes it, by itself

So a stage learns from gradients that are m_k micro-batches late, m_k being twice the slots of the queues behind it. It can be no further
ahead than that, which bounds what waits between two stages, and room for all of it is made beforehand: so nobody waits for a reader.
Xu, Huo, Huang, CVPR 2020, arXiv 1909.02625; `mottle.placement.staging.stale` is the same rule in one process.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mottle.engines import averages
from mottle.engines.base import Fetch
from mottle.engines.placed.channel import Channel, Form
from mottle.engines.placed.passes import FIRST_TAG, Passes, gradients_of, learning
from mottle.placement.staging import Boundary

_FORWARD, _BACKWARD = FIRST_TAG, FIRST_TAG + 1
_WEIGHT = Form((), torch.float64)
"""Goes back beside the gradients: only the last stage knows it."""


class MicroBatch(NamedTuple):
    """One micro-batch."""

    low: int
    high: int
    fetch: Fetch
    seed: int
    coefficient: float
    ends_step: bool
    """An inner step is taken behind it."""


class Gone(NamedTuple):
    """What became of a round."""

    weight: float
    """By the last stage's count, which every stage hears."""
    loss_sum: float
    """Of the last stage; 0 of the others."""


def run_stale(passes: Passes, channel: Channel, batches: Sequence[MicroBatch], slots: int, step: Callable[[float], None]) -> Gone:
    """Micro-batches through one stage, all stages at once, until the last has come back.

    Args:
        slots: of each queue between two stages.
        step: takes the inner step on what has been accumulated, given its weight.
    """
    stage, last = passes.stage, passes.is_last
    late = 2 * slots * (passes.num_stages - 1 - stage)
    ahead = 2 * slots + 1
    programs = [passes.program(each.high - each.low) for each in batches]
    coming = _posted(channel, stage - 1, _FORWARD, [_forms(program.takes) for program in programs], ahead) if stage else None
    back = None if last else _posted(channel, stage + 1, _BACKWARD, [[*_learning_forms(p.gives), _WEIGHT] for p in programs], ahead)
    stash: deque[tuple[list[Tensor], Any]] = deque()
    weight = total = loss_sum = 0.0
    for t in range(len(batches) + late):
        if t < len(batches):
            each, program = batches[t], programs[t]
            taken = passes.received([] if coming is None else next(coming), program.takes)
            batch = each.fetch(each.low, each.high) if last or program.inputs else None
            stash.append((taken, batch))
            if not last:
                out = passes.forward(program, taken, batch, each.seed, learn=False)
                channel.send(stage + 1, _FORWARD, out)
        if (b := t - late) < 0:
            continue
        each, program, (taken, batch) = batches[b], programs[b], stash.popleft()
        with nullcontext() if last else passes.replaying():
            out = passes.forward(program, taken, batch, each.seed)
        if back is None:
            loss, own = averages.differentiable(out, each.high - each.low)
            loss_sum += float(loss.detach()) * own if own else 0.0
            heads: list[Tensor] = [loss * (each.coefficient * own)] if own else []
            came: list[Tensor] | list[None] = [None] * len(heads)
        else:
            *came, said = next(back)
            heads, own = learning(out, program.gives), float(said)
        if heads:
            passes.backward(heads, came)
        weight, total = weight + own, total + own
        if each.ends_step:
            step(weight)
            weight = 0.0
        if stage:
            found = gradients_of(learning(taken, program.takes))
            channel.send(stage - 1, _BACKWARD, [*found, torch.tensor(own, dtype=torch.float64)])
        channel.settle()
    return Gone(total, loss_sum)


def _posted(channel: Channel, stage: int, tag: int, forms: Sequence[Sequence[Form]], ahead: int) -> Iterator[list[Tensor]]:
    """What comes from a stage, in order; room is made for so many at once, from now on."""
    waiting = deque(channel.expect(stage, tag, each) for each in forms[:ahead])
    rest = iter(forms[ahead:])

    def arriving() -> Iterator[list[Tensor]]:
        while waiting:
            came = waiting.popleft()()
            if (following := next(rest, None)) is not None:
                waiting.append(channel.expect(stage, tag, following))
            yield came

    return arriving()


def _forms(boundary: Boundary) -> list[Form]:
    return [Form(each.shape, each.dtype) for each in boundary.tensors]


def _learning_forms(boundary: Boundary) -> list[Form]:
    return [Form(each.shape, each.dtype) for each in boundary.tensors if each.learns]

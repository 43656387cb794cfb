"""Two processes with a core and a thread each, which first look at what they can do and then run stages of a model: for `pipeline.py`."""

import multiprocessing as mp
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from zoo import GPT2, Bottleneck

from mottle.actors.channels import Formation, GlooChannel, call_store, open_store
from mottle.engines import layout_of
from mottle.engines.placed import Part, PlacedConfig, StageEngine, captured_call, rehearse, time_link
from mottle.placement import Link
from mottle.placement.staging import Cut, Member
from mottle.placement.tracing import Capture
from mottle.placement.tracing.rates import cpu_class

HOST = "127.0.0.1"
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Entry:
    """A model that takes some hundredths of a second for a micro-batch, and such a batch."""

    build: Callable[[], nn.Module]
    batch: Callable[[], Batch]

    @property
    def size(self) -> int:
        return len(self.batch()[0])


def perceptron(width: int = 512) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(8):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, width))


def residual() -> nn.Module:
    """Bottleneck blocks as in ResNet-50, fewer and narrower ones."""
    stem = [nn.Conv2d(3, 64, 3, 2, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
    sizes = [(64, 32, 1), (128, 32, 1), (128, 64, 2), (256, 64, 1), (256, 64, 1), (256, 128, 2), (512, 128, 1)]
    return nn.Sequential(*stem, *(Bottleneck(*size) for size in sizes), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 100))


ENTRIES = {
    "perceptron": Entry(perceptron, lambda: (torch.randn(256, 512), torch.randint(512, (256,)))),
    "GPT": Entry(
        partial(GPT2, vocabulary=1000, positions=64, width=256, depth=4),
        lambda: (torch.randint(1000, (4, 64)), torch.randint(1000, (4, 64))),
    ),
    "ResNet": Entry(residual, lambda: (torch.randn(4, 3, 64, 64), torch.randint(100, (4,)))),
}


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]).flatten(0, -2), batch[1].flatten())


class Pair:
    """The two processes."""

    def __init__(self, name: str) -> None:
        context = mp.get_context("spawn")
        self._store = open_store(HOST)
        ends = [context.Pipe() for _ in range(2)]
        self._ways = [here for here, _ in ends]
        self._processes = [context.Process(target=_serve, args=(name, s, self._store.port, there)) for s, (_, there) in enumerate(ends)]
        for process in self._processes:
            process.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for way in self._ways:
            way.send(None)
        for process in self._processes:
            process.join()

    def ask(self, method: str, *arguments: Any) -> list[Any]:
        """What both answer, who begin at the same time."""
        for way in self._ways:
            way.send((method, arguments))
        answers = [way.recv() for way in self._ways]
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return answers


def _serve(name: str, stage: int, port: int, way: Any) -> None:
    os.sched_setaffinity(0, {stage % (os.cpu_count() or 1)})
    torch.set_num_threads(1)
    process = _Process(ENTRIES[name], stage, port)
    while (asked := way.recv()) is not None:
        method, arguments = asked
        try:
            way.send(getattr(process, method)(*arguments))
        except Exception as error:
            way.send(error)
            raise


class _Process:
    """One of them."""

    def __init__(self, entry: Entry, stage: int, port: int) -> None:
        torch.manual_seed(0)
        self._entry, self._stage = entry, stage
        self._batch, self._model = entry.batch(), entry.build().train()
        self._captured = capture_of(entry)
        self._channel = GlooChannel(Formation(0, (0, 1), HOST, port), stage, call_store(HOST, port), HOST)

    def look(self) -> tuple[Member, Link]:
        """Times of all ops and of the way to the other, both processes at once: what they share they share in training, too."""
        found = rehearse(self._captured, self._model, cross_entropy, self._batch, self._entry.size, torch.device("cpu"))
        link = time_link(self._channel, 1 - self._stage, begins=self._stage == 0)
        return Member(cpu_class(1, 1 << 33), measured=found.units, loss=found.loss), link

    def run(self, cut: Cut, config: PlacedConfig, rounds: int) -> list[int]:
        """Nanoseconds of each round of micro-batches, the first of which is not counted."""
        part = Part(loss=cross_entropy, layout=layout_of(self._model), micro_batch_size=self._entry.size, config=config)
        engine = StageEngine(self._entry.build(), part, self._captured, cut, self._stage)
        engine.join(self._channel)
        times = []
        for _ in range(rounds + 1):
            engine.zero()
            engine.accumulate(lambda low, high: self._batch, 0, config.microbatches * self._entry.size, seed_of_position=lambda position: 0)
            times.append(engine.timing.wall_ns)
        return times[1:]


def capture_of(entry: Entry) -> Capture:
    return captured_call(entry.build(), cross_entropy, entry.batch())

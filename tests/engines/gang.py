"""A gang in one process: every stage in a thread of its own, tensors through queues."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any

import torch
from torch import Tensor, nn

from mottle.core.layout import Range
from mottle.engines import layout_of
from mottle.engines.placed import Form, Part, PlacedConfig, StageEngine, captured_call, passes
from mottle.placement import DEVICE_CLASSES
from mottle.placement.staging import Member, cut_stages


class Queues:
    """What all stages share; `end` is one stage's channel."""

    def __init__(self) -> None:
        self._of: dict[tuple[int, int, int], queue.SimpleQueue[list[Tensor]]] = {}
        self.broken = threading.Event()

    def between(self, *key: int) -> "queue.SimpleQueue[list[Tensor]]":
        """Giver, taker, tag."""
        return self._of.setdefault((key[0], key[1], key[2]), queue.SimpleQueue())  # in one go, whoever comes first

    def take(self, *key: int) -> list[Tensor]:
        while not self.broken.is_set():
            try:
                return self.between(*key).get(timeout=0.05)
            except queue.Empty:
                continue
        raise ConnectionError("another stage has failed")

    def end(self, stage: int) -> "End":
        return End(self, stage)


class End:
    """One stage's."""

    def __init__(self, queues: Queues, stage: int) -> None:
        self._queues, self._stage = queues, stage

    def send(self, stage: int, tag: int, tensors: Sequence[Tensor]) -> None:
        self._queues.between(self._stage, stage, tag).put([tensor.detach().clone() for tensor in tensors])

    def expect(self, stage: int, tag: int, forms: Sequence[Form]) -> Callable[[], list[Tensor]]:
        def arrive() -> list[Tensor]:
            came = self._queues.take(stage, self._stage, tag)
            assert [(tuple(each.shape), each.dtype) for each in came] == list(forms)
            return came

        return arrive

    def settle(self) -> None: ...


class Gang:
    """All stages of a model.

    Args:
        build: makes the model, the same one every time.
        options: of `Part` and `PlacedConfig`.
    """

    def __init__(self, build: Callable[[], nn.Module], loss: Any, example: Any, *, size: int, stages: int, **options: Any) -> None:
        of_part = {name: options.pop(name) for name in ("max_norm", "autocast") if name in options}
        self.layout = layout_of(build())
        config = PlacedConfig(stages=stages, **options)
        part = Part(loss=loss, layout=self.layout, micro_batch_size=size, config=config, **of_part)
        captured = captured_call(build(), loss, example)
        self.cut = cut_stages(captured, [Member(DEVICE_CLASSES["cpu-8"])] * stages, config.microbatches, activations=config.held)
        lock, queues = threading.RLock(), Queues()
        self._queues = queues
        self.engines = [StageEngine(build(), part, captured_call(build(), loss, example), self.cut, s, "cpu", lock) for s in range(stages)]
        for engine in self.engines:
            engine.join(queues.end(engine.stage))

    def each(self, do: Callable[[StageEngine], Any]) -> list[Any]:
        """What every stage does at once."""
        with ThreadPoolExecutor(len(self.engines)) as pool:
            futures = [pool.submit(do, engine) for engine in self.engines]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                if error := future.exception():
                    self._queues.broken.set()
                    raise error
            return [future.result() for future in futures]

    def load(self, flat_D: Tensor) -> None:
        for engine in self.engines:
            engine.load(flat_D, 0)
            engine.zero()

    def accumulate(self, fetch: Any, start: int, stop: int, **options: Any) -> float:
        """The weight."""
        done = self.each(lambda engine: engine.accumulate(fetch, start, stop, seed_of_position=lambda x: x, **options))
        return float(sum(each.weight for each in done))

    def update(self, weight: float, num_shards: int = 1) -> Tensor:
        """Put together from what the stages push."""
        shards = self.layout.cut(num_shards)
        sharing = self.engines[0].sharing(shards)
        assert all(engine.sharing(shards) == sharing for engine in self.engines)
        self.each(lambda engine: engine.share_out(engine.update(weight), sharing))
        whole_D = torch.full((self.layout.size,), torch.nan, dtype=getattr(torch, self.layout.dtype))
        for piece in sharing.pieces:
            put(whole_D, piece.range, self.engines[piece.stage].parts(piece.range.start, piece.range.stop))
        return whole_D


def put(whole_D: Tensor, run: Range, parts: list[Tensor]) -> None:
    whole_D[run.start : run.stop] = torch.cat(parts)


_LOCK = threading.Lock()


def one_at_a_time(monkeypatch: Any) -> None:
    """Tracing is not for several threads at once; in a gang every stage has a process of its own."""

    def locked(*arguments: Any) -> Any:
        with _LOCK:
            return captured_call(*arguments)

    monkeypatch.setattr(passes, "captured_call", locked)

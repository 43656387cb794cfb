"""A gang without a cluster: its followers are threads of this process, so that one can die, and come late, at the right moment."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from tests.actors import live
from torch import Tensor

from mottle import compression
from mottle.actors import gang as gangs
from mottle.actors import stage_bench, transport
from mottle.actors.gang import Gang, StageFailedError
from mottle.actors.probing import Report
from mottle.actors.seat import Seat
from mottle.core.worker import Push, RunPart
from mottle.data import Positions
from mottle.engines import TorchEngine
from mottle.engines.flat import flatten
from mottle.placement import DEVICE_CLASSES
from mottle.sdk import WorkerGroup

SAMPLES = 12


class Actor:
    """What Ray makes of an object, as far as a gang calls it."""

    def __init__(self, inner: Any) -> None:
        self._inner, self._dead = inner, threading.Event()
        self._run, self._mail = ThreadPoolExecutor(1), ThreadPoolExecutor(1)

    def __getattr__(self, method: str) -> Any:
        pool = self._run if method in ("prepare", "take", "join", "do") else self._mail

        def remote(*arguments: Any) -> "Future[Any]":
            return pool.submit(self._answer, method, arguments)

        return SimpleNamespace(remote=remote)

    def _answer(self, method: str, arguments: tuple[Any, ...]) -> Any:
        if not self._dead.is_set():
            answer = getattr(self._inner, method)(*arguments)
        if self._dead.is_set():
            raise ray.exceptions.RayActorError
        return answer

    def die(self) -> None:
        self._dead.set()


class Follower:
    """A seat in a thread; it comes when there is room."""

    def __init__(self, shard: "Shard", room: threading.Event) -> None:
        self._shard, self._room = shard, room

    def prepare(self, name: str, slot: int, job: Any, group: WorkerGroup, *_: Any) -> Report:
        self._room.wait()
        self._seat = Seat(slot, job, group, {0: [self._shard]}, "here")  # type: ignore[list-item]
        return REPORT

    def lives(self) -> None: ...

    def take(self, *arguments: Any) -> None:
        self._seat.take(*arguments)

    def join(self, *arguments: Any) -> None:
        self._seat.join(*arguments)

    def do(self, *arguments: Any) -> Any:
        return self._seat.do(*arguments)

    def mention(self, *arguments: Any) -> None: ...

    def deliver(self, *arguments: Any) -> None:
        self._seat.inbox.put(*arguments)

    def tear(self, formation: int) -> None:
        self._seat.inbox.tear(formation)


class Shard:
    """A way to the one shard of the run: version 0, and what was pushed."""

    def __init__(self, values: Tensor) -> None:
        self._values, self.pushed = values, torch.full_like(values, torch.nan)

    def ask(self, method: str, *arguments: Any, large: bool) -> Any:
        if method == "read_cut":
            return lambda: transport.publish_cut(transport.publish(self._values), arguments[2], 0)
        _, _, start, stop, _, _, _, shipped, *_ = arguments
        compression.build("identity").decode(shipped, self.pushed[start:stop])
        return lambda: None


REPORT = Report(DEVICE_CLASSES["cpu-8"], 1 << 40, "node", "here", "cpu")


@pytest.fixture
def stage_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing is not for several threads at once."""
    lock, capture_for = threading.Lock(), stage_bench.capture_for

    def locked(*arguments: Any) -> Any:
        with lock:
            return capture_for(*arguments)

    for module in (stage_bench, gangs):
        monkeypatch.setattr(module, "capture_for", locked)


def test_a_gang_without_room_for_a_lost_stage_goes_on_with_fewer_and_grows_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage_at_a_time: None
) -> None:
    group = WorkerGroup(engine={"placed": {"stages": 2, "microbatches": 2, "transport": "ray"}})
    job = live.trainer(tmp_path, live.perceptron, scaling_config=group, micro_batch_size=4).job
    torch.manual_seed(0)
    model = live.perceptron()
    shard = Shard(flatten(model, job.layout))
    made: list[Actor] = []
    room = threading.Event()
    room.set()

    def make(group: WorkerGroup, taken: Any) -> Actor:
        made.append(Actor(Follower(shard, room)))
        return made[-1]

    monkeypatch.setattr(gangs, "_make_follower", make)
    monkeypatch.setattr(gangs, "report", lambda **_: REPORT)
    monkeypatch.setattr(gangs, "ROOM_S", 0.2)
    monkeypatch.setattr(gangs, "ray", SimpleNamespace(get=get, wait=wait, kill=lambda actor: actor.die(), exceptions=ray.exceptions))
    run: Any = None
    me = SimpleNamespace(deliver=SimpleNamespace(remote=lambda *arguments: gang.deliver(*arguments)))
    gang = Gang(0, job, group, {0: []}, {0: [shard]}, None, run, me)  # type: ignore[list-item]

    wanted = TorchEngine(live.perceptron(), job.loss, job.layout, "cpu", 4)
    wanted.load(flatten(model, job.layout), 0)
    wanted.zero()
    wanted.accumulate(lambda low, high: job.loader.load(Positions(0, low, high)), 0, SAMPLES, seed_of_position=lambda position: 0)

    def order() -> int:
        """One order; the stages that did it."""
        shard.pushed.fill_(torch.nan)
        gang.load("work/0", 0)
        gang.clear(None)
        assert gang.compute(RunPart(0, 0, 0, 0, SAMPLES, 1.0), lambda: False) == SAMPLES
        gang.push(Push(0, SAMPLES))
        torch.testing.assert_close(shard.pushed, wanted.update(), rtol=1e-5, atol=1e-6)
        return len(gang.counted)

    assert order() == 2
    room.clear()
    gang.load("work/1", 0)
    gang.clear(None)
    made[0].die()
    with pytest.raises(StageFailedError, match="stage 1"):
        gang.compute(RunPart(1, 0, 0, 0, SAMPLES, 1.0), lambda: False)
    assert order() == 1
    room.set()
    wait_for([gang._coming[1]])
    assert order() == 2
    assert len(made) == 2
    gang.close()


def get(answer: Any) -> Any:
    return [get(each) for each in answer] if isinstance(answer, list) else answer.result()


def wait(answers: list[Any], timeout: float | None = None) -> tuple[list[Any], list[Any]]:
    done, waiting = wait_for(answers, timeout)
    return list(done), list(waiting)

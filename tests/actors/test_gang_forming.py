"""A gang without a cluster: its followers are threads of this process, so that one can die, and come late, at the right moment."""

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from tests.actors import live
from torch import Tensor, nn

from mottle import compression
from mottle.actors import gang as gangs
from mottle.actors import gang_cut, seat, stage_bench, transport
from mottle.actors.gang import Gang
from mottle.actors.gang_state import StageFailedError, whole_of
from mottle.actors.probing import Report
from mottle.actors.seat import Seat
from mottle.core.protocol import LocalSteps
from mottle.core.worker import Push, RunPart
from mottle.data import Positions
from mottle.engines import TorchEngine
from mottle.engines.flat import flatten
from mottle.placement import DEVICE_CLASSES, Link
from mottle.placement.tracing import Profile
from mottle.sdk import WorkerGroup

SAMPLES = 12


class Actor:
    """What Ray makes of an object, as far as a gang calls it."""

    def __init__(self, inner: Any) -> None:
        self._inner, self._dead = inner, threading.Event()
        self._run, self._mail = ThreadPoolExecutor(1), ThreadPoolExecutor(1)

    def __getattr__(self, method: str) -> Any:
        pool = self._mail if method in ("lives", "mention", "deliver", "tear") else self._run

        def remote(*arguments: Any, **options: Any) -> "Future[Any]":
            return pool.submit(self._answer, method, arguments, options)

        return SimpleNamespace(remote=remote)

    def _answer(self, method: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if not self._dead.is_set():
            try:
                answer = getattr(self._inner, method)(*arguments, **options)
            except Exception as error:
                raise ray.exceptions.RayTaskError(method, "", error).as_instanceof_cause() from error
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

    def rehearse(self) -> Profile:
        return self._seat.rehearse()

    def try_out(self, *arguments: Any) -> None:
        self._seat.try_out(*arguments)

    def time_link(self, peer: int, *, begins: bool) -> Link:
        return self._seat.time_link(peer, begins=begins)

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

    for module in (stage_bench, gang_cut, seat):
        monkeypatch.setattr(module, "capture_for", locked)


class Stand:
    """A gang in threads, and what it stands on."""

    def __init__(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_model: Callable[[], nn.Module], stages: int, **job: Any
    ) -> None:
        group = WorkerGroup(engine={"placed": {"stages": stages, "microbatches": 2, "transport": "ray"}})
        self.job = live.trainer(tmp_path, make_model, scaling_config=group, micro_batch_size=4, **job).job
        torch.manual_seed(0)
        self.model = make_model()
        self.shard = Shard(flatten(self.model, self.job.layout))
        self.made: list[Actor] = []
        self.room = threading.Event()
        self.room.set()
        monkeypatch.setattr(gangs, "_make_follower", self._make)
        monkeypatch.setattr(gangs, "report", lambda **_: REPORT)
        monkeypatch.setattr(gangs, "ROOM_S", 0.2)
        monkeypatch.setattr(gangs, "ray", SimpleNamespace(get=get, wait=wait, kill=lambda actor: actor.die(), exceptions=ray.exceptions))
        run: Any = None
        me = SimpleNamespace(deliver=SimpleNamespace(remote=lambda *arguments: self.gang.deliver(*arguments)))
        self.gang = Gang(0, self.job, group, {0: []}, {0: [self.shard]}, None, run, me)  # type: ignore[list-item]
        self.gang.form()

    def _make(self, group: WorkerGroup, taken: Any) -> Actor:
        self.made.append(Actor(Follower(self.shard, self.room)))
        return self.made[-1]

    def begin(self, work_id: int, local: LocalSteps | None = None) -> None:
        self.gang.load(f"work/{work_id}", 0)
        self.gang.begin(work_id)
        self.gang.clear(local)


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Stand]]:
    """Makes one."""
    made: list[Stand] = []

    def make(*arguments: Any, **job: Any) -> Stand:
        made.append(Stand(tmp_path, monkeypatch, *arguments, **job))
        return made[-1]

    yield make
    for each in made:
        each.room.set()  # a thread that waits for room would keep the process from ending
        each.gang.close()


@pytest.mark.usefixtures("stage_at_a_time")
def test_a_gang_without_room_for_a_lost_stage_goes_on_with_fewer_and_grows_again(stand: Callable[..., Stand]) -> None:
    here = stand(live.perceptron, 2)
    gang, job, shard, made, room, model = here.gang, here.job, here.shard, here.made, here.room, here.model
    wanted = TorchEngine(live.perceptron(), job.loss, job.layout, "cpu", 4)
    wanted.load(flatten(model, job.layout), 0)
    wanted.zero()
    wanted.accumulate(lambda low, high: job.loader.load(Positions(0, low, high)), 0, SAMPLES, seed_of_position=lambda position: 0)

    def order() -> int:
        """One order; the stages that did it."""
        shard.pushed.fill_(torch.nan)
        here.begin(0)
        assert gang.compute(RunPart(0, 0, 0, 0, SAMPLES, 1.0), lambda: False) == SAMPLES
        gang.push(Push(0, SAMPLES))
        torch.testing.assert_close(shard.pushed, wanted.update(), rtol=1e-5, atol=1e-6)
        return len(gang.counted)

    assert order() == 2
    room.clear()
    here.begin(1)
    made[0].die()
    with pytest.raises(StageFailedError, match="stage 1"):
        gang.compute(RunPart(1, 0, 0, 0, SAMPLES, 1.0), lambda: False)
    assert order() == 1
    room.set()
    wait_for([gang._coming[1]])
    assert order() == 2
    assert len(made) == 2


def four_layers() -> nn.Module:
    sizes = [live.NUM_FEATURES, 32, 32, 32, live.NUM_CLASSES]
    return nn.Sequential(*(part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.Tanh())))


@pytest.mark.usefixtures("stage_at_a_time")
def test_a_lost_stage_costs_the_inner_optimizer_its_own_part_alone(stand: Callable[..., Stand]) -> None:
    """The order comes to nothing at every stage: momentum is as it was before it, zero where it is lost, wherever the model is cut then."""
    local = LocalSteps(batch=4, optimizer={"sgd": {"lr": 0.1, "momentum": 0.9}}, steps=1)
    here = stand(four_layers, 3, strategy={"local_sgd": {"local_steps": 1}})
    gang, size = here.gang, here.job.layout.size

    def momentum(before: int) -> Tensor:
        return whole_of(gang.kept(before), size)["inner.momentum_buffer"]

    def step(work_id: int) -> None:
        gang.compute(RunPart(work_id, 0, 0, 0, 4, 1.0, local), lambda: False)

    here.begin(1, local)
    step(1)
    after_D = momentum(2)
    assert int((after_D != 0).sum()) > size / 2
    here.begin(2, local)
    step(2)
    assert torch.equal(momentum(2), after_D)  # as it was before the order
    assert not torch.equal(momentum(3), after_D)
    here.room.clear()
    lost = gang._order.index(1)
    was = dict(gang._cutting.cut.stage_of)
    here.made[0].die()
    with pytest.raises(StageFailedError):
        gang.push(Push(2, 4, local))
    here.begin(3, local)
    assert len(gang._order) == 2
    kept = {unit for unit, stage in was.items() if stage != lost}
    assert kept
    of_lost = [piece for piece in here.job.layout.slices if was[_unit_of(piece.name, was)] == lost]
    wanted_D = after_D.clone()
    for piece in of_lost:
        wanted_D[piece.start : piece.stop] = 0
    assert torch.equal(momentum(3), wanted_D)
    step(3)
    gang.forget()  # another model is in the place of this one
    here.begin(4, local)
    assert not gang.kept(4)


@pytest.mark.usefixtures("stage_at_a_time")
def test_a_process_that_is_lost_while_the_gang_forms_anew_is_left_out_too(stand: Callable[..., Stand]) -> None:
    here = stand(four_layers, 3)
    here.begin(1)
    here.room.clear()
    here.made[0].die()
    with pytest.raises(StageFailedError):
        here.gang.compute(RunPart(1, 0, 0, 0, SAMPLES, 1.0), lambda: False)
    take, second = Seat.take, here.made[1]

    def lost_on_the_way(self: Seat, *arguments: Any) -> None:
        second.die()
        take(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Seat, "take", lost_on_the_way)
        with pytest.raises(StageFailedError):
            here.begin(2)
    here.begin(3)
    assert here.gang._order == [0]
    assert here.gang.compute(RunPart(3, 0, 0, 0, SAMPLES, 1.0), lambda: False) == SAMPLES


def _unit_of(parameter: str, stage_of: Mapping[str, int]) -> str:
    """The op that reads a parameter `3.weight` is called `3/linear...`."""
    return next(unit for unit in stage_of if unit.partition("/")[0] == parameter.partition(".")[0])


def get(answer: Any) -> Any:
    return [get(each) for each in answer] if isinstance(answer, list) else answer.result()


def wait(answers: list[Any], timeout: float | None = None) -> tuple[list[Any], list[Any]]:
    done, waiting = wait_for(answers, timeout)
    return list(done), list(waiting)

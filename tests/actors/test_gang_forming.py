"""A gang without a cluster: its followers are threads of this process, so that one can die, and come late, at the right moment."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from tests.actors import live
from tests.compression.test_codecs import UsersOwn
from torch import Tensor, nn

from mottle import compression
from mottle.actors import gang as gangs
from mottle.actors import gang_cut, seat, stage_bench, transport
from mottle.actors.gang import Gang
from mottle.actors.gang_state import StageFailedError, whole_of
from mottle.actors.probing import Report
from mottle.actors.seat import Seat
from mottle.actors.stage_bench import Counted, StageBench
from mottle.core.protocol import LocalSteps
from mottle.core.worker import Push, RunPart
from mottle.data import Positions
from mottle.engines import TorchEngine
from mottle.engines.flat import flatten
from mottle.placement import DEVICE_CLASSES, Link
from mottle.placement.tracing import Profile
from mottle.sdk import WorkerGroup

SAMPLES = 12
SECOND = 1_000_000_000


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
                given = [each.result() if isinstance(each, Future) else each for each in arguments]
                answer = getattr(self._inner, method)(*given, **options)
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

    def hold(self, *arguments: Any) -> None:
        self._seat.copies.hold(*arguments)

    def copy_of(self, *arguments: Any) -> Any:
        return self._seat.copies.of(*arguments)

    def mention(self, *arguments: Any) -> None: ...

    def deliver(self, *arguments: Any) -> None:
        self._seat.inbox.put(*arguments)

    def tear(self, formation: int) -> None:
        self._seat.inbox.tear(formation)


class Shard:
    """A way to the one shard of the run: version 0, and what was pushed."""

    def __init__(self, values: Tensor, codec: Any) -> None:
        self._values, self.pushed, self._codec = values, torch.full_like(values, torch.nan), compression.build(codec)

    def ask(self, method: str, *arguments: Any, large: bool) -> Any:
        if method == "read_cut":
            return lambda: transport.publish_cut(transport.publish(self._values), arguments[2], 0)
        _, _, start, stop, _, _, _, shipped, *_ = arguments
        self._codec.decode(shipped, self.pushed[start:stop])
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
        self.shard = Shard(flatten(self.model, self.job.layout), self.job.codec)
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


LOCAL = LocalSteps(batch=4, optimizer={"sgd": {"lr": 0.1, "momentum": 0.9}}, steps=1)


class Stepping:
    """A gang of three stages that takes inner steps with momentum."""

    def __init__(self, stand: Callable[..., Stand], **job: Any) -> None:
        self.here = stand(four_layers, 3, strategy={"local_sgd": {"local_steps": 1}}, **job)
        self.gang = self.here.gang

    def momentum(self, before: int) -> Tensor:
        return whole_of(self.gang.kept(before), self.here.job.layout.size)["inner.momentum_buffer"]

    def step(self, work_id: int) -> None:
        self.here.begin(work_id, LOCAL)
        self.gang.compute(RunPart(work_id, 0, 0, 0, 4, 1.0, LOCAL), lambda: False)

    def lose(self, *followers: int) -> None:
        """These die, and there is no room for others."""
        self.here.room.clear()
        for follower in followers:
            self.here.made[follower].die()


@pytest.mark.usefixtures("stage_at_a_time")
@pytest.mark.parametrize("pushed", [False, True], ids=["in an order", "behind an order"])
def test_a_lost_stage_takes_nothing_of_the_inner_optimizer_along(stand: Callable[..., Stand], pushed: bool) -> None:
    """An order that comes to nothing does so at every stage; wherever the model is cut then, momentum is as if nobody had been lost."""
    made = Stepping(stand)
    gang = made.gang
    made.step(1)
    gang.push(Push(1, 4, LOCAL))
    after_D = made.momentum(2)
    assert int((after_D != 0).sum()) > made.here.job.layout.size / 2
    made.step(2)
    assert torch.equal(made.momentum(2), after_D)  # as it was before the order
    last_D = made.momentum(3)
    assert not torch.equal(last_D, after_D)
    if pushed:
        gang.push(Push(2, 4, LOCAL))
    made.lose(0)
    next_step: Callable[[], None] = partial(made.step, 3) if pushed else partial(gang.push, Push(2, 4, LOCAL))
    with pytest.raises(StageFailedError):
        next_step()
    made.here.begin(4, LOCAL)
    assert len(gang._order) == 2
    assert torch.equal(made.momentum(4), last_D if pushed else after_D)
    made.step(5)
    gang.forget()  # another model is in the place of this one
    made.here.begin(6, LOCAL)
    assert not gang.kept(6)


@pytest.mark.usefixtures("stage_at_a_time")
def test_a_stage_lost_in_the_first_order_of_a_new_model_brings_nothing_back_of_the_old_one(stand: Callable[..., Stand]) -> None:
    made = Stepping(stand)
    made.step(1)
    made.gang.push(Push(1, 4, LOCAL))
    made.gang.forget()
    made.step(2)
    made.lose(0)
    with pytest.raises(StageFailedError):
        made.gang.push(Push(2, 4, LOCAL))
    made.here.begin(3, LOCAL)
    assert not made.gang.kept(3)


@pytest.mark.usefixtures("stage_at_a_time")
def test_what_a_codec_held_back_of_a_lost_stage_is_sent_with_its_next_update(stand: Callable[..., Stand]) -> None:
    here = stand(four_layers, 3, codec=UsersOwn())

    def order(work_id: int) -> Tensor:
        here.begin(work_id)
        here.gang.compute(RunPart(work_id, 0, 0, 0, 4, 1.0), lambda: False)
        here.gang.push(Push(work_id, 4))
        return here.shard.pushed.clone()

    first_D = order(1)
    here.room.clear()
    here.begin(2)
    here.made[0].die()
    with pytest.raises(StageFailedError):
        here.gang.compute(RunPart(2, 0, 0, 0, 4, 1.0), lambda: False)
    torch.testing.assert_close(order(3), first_D * 1.5)  # half of the same gradient and of the half that was held back


@pytest.mark.usefixtures("stage_at_a_time")
def test_two_stages_lost_together_let_the_inner_optimizer_begin_anew_everywhere(
    stand: Callable[..., Stand], capsys: pytest.CaptureFixture[str]
) -> None:
    """Half a state beside zeros, at the step count of the other half, is worse than none: Adam's steps would be three times as long."""
    made = Stepping(stand)
    made.step(1)
    made.gang.push(Push(1, 4, LOCAL))
    made.step(2)
    made.lose(0, 1)
    with pytest.raises(StageFailedError):
        made.gang.push(Push(2, 4, LOCAL))
    made.here.begin(3, LOCAL)
    assert made.gang._order == [0]
    assert not made.gang.kept(3)
    assert "the inner optimizer begins anew" in capsys.readouterr().out


@pytest.mark.usefixtures("stage_at_a_time")
def test_a_stage_that_turns_out_slow_gives_ops_away_and_no_number_differs(
    stand: Callable[..., Stand], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twenty rounds in a row that take longer than predicted, by the times that stages tell; the inner optimizer goes along."""
    compute = StageBench.compute

    def slow(self: StageBench, *arguments: Any) -> Counted:
        done = compute(self, *arguments)
        return Counted(done.weight, 18 * SECOND if self.stage == 0 else 2 * SECOND, 20 * SECOND)

    monkeypatch.setattr(StageBench, "compute", slow)
    here = stand(four_layers, 2, strategy={"local_sgd": {"local_steps": 1}})
    gang, a_round = here.gang, 8
    local = LocalSteps(batch=10 * a_round, optimizer={"sgd": {"lr": 0.1, "momentum": 0.9}}, steps=1)

    def order(work_id: int) -> list[int]:
        here.begin(work_id, local)
        gang.compute(RunPart(work_id, 0, 0, 0, 10 * a_round, 1.0, local), lambda: False)
        gang.push(Push(work_id, 10 * a_round, local))
        return [list(gang._cutting.cut.stage_of.values()).count(stage) for stage in range(2)]

    before = order(1)
    assert order(2) == before  # 20 rounds by now
    momentum_D = whole_of(gang.kept(3), here.job.layout.size)["inner.momentum_buffer"]
    here.begin(3, local)
    assert torch.equal(whole_of(gang.kept(3), here.job.layout.size)["inner.momentum_buffer"], momentum_D)
    after = [list(gang._cutting.cut.stage_of.values()).count(stage) for stage in range(2)]
    assert after[0] < before[0]
    assert "cut anew: rounds took" in capsys.readouterr().out
    assert order(4) == after  # what it takes now is what was predicted for it, as far as 10 rounds tell


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


def get(answer: Any) -> Any:
    return [get(each) for each in answer] if isinstance(answer, list) else answer.result()


def wait(answers: list[Any], timeout: float | None = None) -> tuple[list[Any], list[Any]]:
    done, waiting = wait_for(answers, timeout)
    return list(done), list(waiting)

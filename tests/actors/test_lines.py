"""Direct lines: order, questions, who may call, and what a broken line, a goodbye and a peer that does not read come to. No Ray."""

import pickle
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from mottle.actors import lines
from mottle.actors.exchange import Door, Exchange
from mottle.actors.handshake import show_key
from mottle.actors.lines import Line, LineLostError, Message
from mottle.actors.link import Replica, ways_to
from mottle.actors.way import PATIENCE_S, Way, connect

HOST = "127.0.0.1"
KEY = b"k" * 32
SOON_S = 20.0


class Side:
    """An exchange that notes what it hears and loses; it answers questions with what was asked, twice."""

    def __init__(self) -> None:
        self.heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.lost: queue.SimpleQueue[Line] = queue.SimpleQueue()
        self.exchange = Exchange(self._hear, self.lost.put)

    def _hear(self, messages: list[Message]) -> None:
        for message in messages:
            word = message.body if isinstance(message.body, str) else ""
            if word == "fail":
                self.heard.put("failing")
                raise RuntimeError("the owner of the exchange made a mistake")
            if message.number and word != "silence":
                message.answer((message.body, message.body))
            else:
                self.heard.put(message.body)


@pytest.fixture
def sides() -> Iterator[Callable[[], Side]]:
    """Makes sides; afterwards every one is closed and no thread of theirs is left."""
    before = set(threading.enumerate())
    made: list[Side] = []

    def make() -> Side:
        made.append(Side())
        return made[-1]

    yield make
    for side in made:
        side.exchange.close()
    left = {thread for thread in set(threading.enumerate()) - before if thread.name == "lines"}
    assert not left


@pytest.fixture
def called(sides: Callable[[], Side]) -> tuple[Side, Door]:
    side = sides()
    return side, side.exchange.open(HOST, KEY)


def test_messages_arrive_in_their_order_and_whole_whatever_their_length(sides: Callable[[], Side], called: tuple[Side, Door]) -> None:
    side, door = called
    line = sides().exchange.call(door, "worker/0")
    sent = [b"x" * length for length in (0, 1, 100, 70_000, 3_000_000, 5)] * 5
    for body in sent:
        line.tell(body)
    assert [side.heard.get(timeout=SOON_S) for _ in sent] == sent


def test_both_ends_ask_and_each_gets_its_own_answers(sides: Callable[[], Side], called: tuple[Side, Door]) -> None:
    side, door = called
    mine = sides().exchange.call(door, "worker/0")
    theirs = side.exchange.line("worker/0")
    assert theirs is not None
    for asking in (mine, theirs):
        answers = [asking.ask(number) for number in range(50)]
        assert [answer.result(SOON_S) for answer in answers] == [(number, number) for number in range(50)]


def test_arrays_travel_with_their_bits(sides: Callable[[], Side], called: tuple[Side, Door]) -> None:
    line = sides().exchange.call(called[1], "worker/0")
    array = np.array([1.5, -0.0, np.nan, np.inf], dtype=np.float32)
    (first, _) = line.ask(array).result(SOON_S)
    assert first.tobytes() == array.tobytes()


def test_a_class_that_the_receiver_cannot_import_travels_by_value(sides: Callable[[], Side], called: tuple[Side, Door]) -> None:
    class Local:
        value = 7

    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(Local())
    line = sides().exchange.call(called[1], "worker/0")
    assert line.ask(Local()).result(SOON_S)[0].value == 7


def test_whoever_lacks_the_key_gets_no_line_and_is_read_no_further(sides: Callable[[], Side], called: tuple[Side, Door]) -> None:
    side, door = called
    stranger = sides()
    with pytest.raises(OSError, match=r"closed before the key was shown|reset"):
        stranger.exchange.call(Door(door.host, door.port, b"another"), "worker/0")
    with socket.create_connection((door.host, door.port), timeout=SOON_S) as rude:
        rude.recv(32)
        rude.sendall(pickle.dumps(["not a proof"]).ljust(96, b"."))
        assert rude.recv(1) == b""
    assert side.exchange.line("worker/0") is None
    stranger.exchange.call(door, "worker/1").tell("still open to those who have it")
    assert side.heard.get(timeout=SOON_S) == "still open to those who have it"


def test_the_caller_too_wants_to_see_the_key(sides: Callable[[], Side]) -> None:
    with socket.create_server((HOST, 0)) as impostor:

        def pretend() -> None:
            sock, _ = impostor.accept()
            with sock:
                sock.sendall(b"n" * 32)
                sock.recv(96)
                sock.sendall(b"p" * 32)

        thread = threading.Thread(target=pretend)
        thread.start()
        with pytest.raises(PermissionError, match="whoever answers does not hold the run's key"):
            sides().exchange.call(Door(HOST, impostor.getsockname()[1], KEY), "worker/0")
        thread.join()


def test_the_door_does_not_show_its_key() -> None:
    assert "kkk" not in repr(Door(HOST, 1, KEY))


def test_a_goodbye_is_no_loss_and_a_silent_end_is_one(sides: Callable[[], Side], called: tuple[Side, Door]) -> None:
    side, door = called
    polite, rude = sides(), sides()
    polite.exchange.call(door, "worker/0").tell("last words")
    line = rude.exchange.call(door, "worker/1")
    polite.exchange.close()
    assert side.heard.get(timeout=SOON_S) == "last words"
    line.tell("cut off")
    line.sock.shutdown(socket.SHUT_RDWR)
    lost = side.lost.get(timeout=SOON_S)
    assert (lost.name, side.heard.get(timeout=SOON_S)) == ("worker/1", "cut off")
    assert rude.lost.get(timeout=SOON_S) is line
    assert side.lost.empty()
    assert side.exchange.line("worker/1") is None


def test_whoever_waits_for_an_answer_hears_that_the_line_broke(sides: Callable[[], Side], called: tuple[Side, Door]) -> None:
    side, door = called
    line = sides().exchange.call(door, "worker/0")
    answer = line.ask("silence")
    assert side.heard.get(timeout=SOON_S) == "silence"
    side.exchange.close()
    with pytest.raises(LineLostError, match="has left"):
        answer.result(SOON_S)
    with pytest.raises(LineLostError):
        line.ask("anyone there?").result(SOON_S)


def test_nobody_waits_for_a_peer_that_does_not_read_and_in_the_end_it_is_lost(
    sides: Callable[[], Side], called: tuple[Side, Door], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "BACKLOG_BYTES", 8 << 20)
    side, door = called
    with socket.create_connection((door.host, door.port), timeout=SOON_S) as deaf:
        show_key(deaf, KEY, "worker/0")
        line = side.exchange.line("worker/0")
        assert line is not None
        while not line.broken:
            line.tell(b"x" * (1 << 20))
        assert side.lost.get(timeout=SOON_S) is line
    assert "has not read" in line.broken


def test_a_slow_reader_gets_everything(sides: Callable[[], Side], called: tuple[Side, Door]) -> None:
    """More than the connection takes at once is kept and sent on when there is room."""
    side, door = called
    with socket.create_connection((door.host, door.port), timeout=SOON_S) as slow:
        show_key(slow, KEY, "worker/0")
        line = side.exchange.line("worker/0")
        assert line is not None
        frame = lines.pack(b"y" * (32 << 20))
        line.send(frame)
        assert line.unsent
        came = bytearray()
        while len(came) < len(frame):
            came += slow.recv(1 << 20)
    assert bytes(came) == frame


def test_what_cannot_be_read_breaks_its_line_alone(sides: Callable[[], Side], called: tuple[Side, Door]) -> None:
    side, door = called
    good = sides().exchange.call(door, "worker/0")
    bad = sides().exchange.call(door, "worker/1")
    bad.send(lines._LENGTH.pack(4) + b"????")
    assert "cannot be read" in side.lost.get(timeout=SOON_S).broken
    bold = sides().exchange.call(door, "worker/2")
    bold.send(lines._LENGTH.pack(0xFFFFFFFF))
    assert "announced" in side.lost.get(timeout=SOON_S).broken
    assert good.ask(1).result(SOON_S) == (1, 1)


def test_a_mistake_of_the_owner_does_not_silence_the_lines(
    sides: Callable[[], Side], called: tuple[Side, Door], capfd: pytest.CaptureFixture[str]
) -> None:
    side, door = called
    line = sides().exchange.call(door, "worker/0")
    line.tell("fail")
    assert side.heard.get(timeout=SOON_S) == "failing"
    assert line.ask(1).result(SOON_S) == (1, 1)
    assert "made a mistake" in capfd.readouterr().err


class FakeMethod:
    """`handle.method.remote` of Ray, without an answer."""

    def __init__(self, calls: list[tuple[Any, ...]]) -> None:
        self._calls = calls

    def remote(self, *arguments: Any) -> None:
        self._calls.append(arguments)


class FakeHandle:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.read = FakeMethod(self.calls)


def test_a_way_takes_the_line_for_small_messages_and_ray_for_large_ones(sides: Callable[[], Side], called: tuple[Side, Door]) -> None:
    side, door = called
    line, trouble = connect(sides().exchange, door, "worker/0", "a shard")
    assert line is not None
    assert not trouble
    handle = FakeHandle()
    way = Way(handle, line)
    assert way.ask("read", "me", 3)() == (("read", ("me", 3)), ("read", ("me", 3)))
    way.tell("read", "told")
    assert side.heard.get(timeout=SOON_S) == ("read", ("told",))
    assert handle.calls == []
    way.ask("read", "much", large=True)
    assert handle.calls == [("much",)]


@pytest.mark.parametrize("failure", [LineLostError("gone"), TimeoutError()])
def test_a_question_over_a_line_that_fails_is_asked_again_through_ray(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    class Dead:
        def ask(self, body: Any) -> "Future[Any]":
            answer: Future[Any] = Future()
            answer.set_exception(failure)
            return answer

    waited: list[Any] = []
    monkeypatch.setattr("ray.get", lambda reference: waited.append(reference) or "from Ray")
    handle: Any = FakeHandle()
    dead: Any = Dead()
    way = Way(handle, dead)
    assert way.ask("read", "me", 3)() == "from Ray"
    assert way.ask("read", "me", 4)() == "from Ray"
    assert handle.calls == [("me", 3), ("me", 4)]
    assert PATIENCE_S > 16, "Ray needs 16 s to say that a host is gone"


def test_every_replica_has_a_way_and_those_without_a_line_are_told_of(sides: Callable[[], Side], called: tuple[Side, Door]) -> None:
    with socket.create_server((HOST, 0)) as free:
        nobody = Door(HOST, free.getsockname()[1], KEY)
    _, door = called
    shards = {0: [Replica("a", door), Replica("b", nobody)], 1: [Replica("c", None)]}
    ways, troubles = ways_to(shards, sides().exchange, "worker/0")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("calling")]
    assert {shard: [way.handle for way in each] for shard, each in ways.items()} == {0: ["a", "b"], 1: ["c"]}
    assert ways[0][0].ask("read", 1)() == (("read", (1,)),) * 2
    (trouble,) = troubles
    assert f"no direct line to shard 0 at {HOST}:{nobody.port}" in trouble


def test_where_no_connection_can_be_made_people_read_so(sides: Callable[[], Side]) -> None:
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    line, trouble = connect(sides().exchange, Door(HOST, port, KEY), "worker/3", "the coordinator")
    assert line is None
    assert trouble.startswith(f"worker/3 has no direct line to the coordinator at {HOST}:{port} (")
    assert connect(None, Door(HOST, port, KEY), "worker/3", "the coordinator") == (None, "")

"""One end of a line: messages with their length before them, whole and in order, and answers to questions.

A peer's connection takes what it takes at once; the rest is kept and sent when there is room, so nobody waits for a slow peer. A line that
would have to keep too much is broken. See `mottle.actors.exchange` for what lines are for and who reads them.
"""

import itertools
import pickle
import socket
import struct
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from ray import cloudpickle

from mottle.core.errors import MottleError

BACKLOG_BYTES = 256 << 20
"""Kept for a peer that does not read; also the longest message. Small messages are meant: this many are a peer that hangs."""

CHUNK = 1 << 18
"""Bytes read at once."""

GOODBYE = b"\0" * 4
"""A message of no length: nothing follows, and nobody was lost."""

_LENGTH = struct.Struct("!I")


class LineLostError(MottleError):
    """The process at the other end is gone, or the network between."""


@dataclass(frozen=True, slots=True)
class Message:
    """What came over a line; `answer` it if it was asked."""

    line: "Line"
    number: int
    body: Any

    def answer(self, body: Any) -> None:
        self.line.send(pack(body, -self.number))


def pack(body: Any, number: int = 0) -> bytes:
    """A message as it travels, for `Line.send`: packed once, it may go to several lines.

    Args:
        number: above 0 of a question, below 0 of its answer, 0 of what wants none.
    """
    try:
        data = pickle.dumps((number, body), protocol=5)
    except (pickle.PicklingError, AttributeError, TypeError):
        dumps: Callable[[Any], bytes] = cloudpickle.dumps
        data = dumps((number, body))  # of a class that the receiver cannot import, such as one of a notebook
    if len(data) > BACKLOG_BYTES:
        raise ValueError(f"a message over a line has at most {BACKLOG_BYTES} bytes, got {len(data)}; send it through Ray")
    return _LENGTH.pack(len(data)) + data


class Line:
    """One end of a connection. Any thread may send; the exchange's thread receives.

    Args:
        name: of the process at the other end.
        sock: connected, both ends have shown the key.
        stir: has the exchange's thread look at this line again.
    """

    def __init__(self, name: str, sock: socket.socket, stir: Callable[["Line"], None]) -> None:
        _prepare(sock)
        self.name = name
        self.sock = sock
        self.broken = ""
        """Why nothing more can be sent or received; empty while it can."""
        self.left = False
        """Whether the peer has said goodbye."""
        self._stir = stir
        self._lock = threading.Lock()
        self._backlog = bytearray()
        self._came = bytearray()
        self._numbers = itertools.count(1)
        self._asked: dict[int, Future[Any]] = {}

    def tell(self, body: Any) -> None:
        """Send, and expect no answer. Over a broken line nothing goes; the exchange tells of the loss."""
        self.send(pack(body))

    def ask(self, body: Any) -> "Future[Any]":
        """Send a question. The future fails with `LineLostError` if the line breaks before the answer has come."""
        answer: Future[Any] = Future()
        number = next(self._numbers)
        self._asked[number] = answer
        self.send(pack(body, number))
        if self.broken:
            self.give_up()
        return answer

    def send(self, frame: bytes) -> None:
        """Send what `pack` made."""
        with self._lock:
            if self.broken:
                return
            waiting = bool(self._backlog)
            if not waiting:
                frame = frame[self._write(frame) :]
            self._backlog += frame
            if len(self._backlog) > BACKLOG_BYTES:
                self.broken = f"{self.name} has not read {len(self._backlog)} bytes"
            if self.broken or (self._backlog and not waiting):
                self._stir(self)

    @property
    def unsent(self) -> bool:
        return bool(self._backlog)

    def flush(self) -> None:
        """Send more of what was kept."""
        with self._lock:
            del self._backlog[: self._write(self._backlog)]

    def _write(self, data: bytes | bytearray) -> int:
        try:
            return self.sock.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            self.broken = str(error)
            return 0

    def receive(self) -> list[Message]:
        """Messages that have come whole; answers go to those who asked."""
        try:
            data = self.sock.recv(CHUNK)
        except BlockingIOError:
            return []
        except OSError as error:
            self.broken = str(error)
            return []
        if not data:
            self.broken = "the connection was closed"
        self._came += data
        return [message for message in self._whole() if not self._settle(message)]

    def _whole(self) -> list[Message]:
        messages, at = [], 0
        while not self.left and len(self._came) >= at + _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._came, at)
            end = at + _LENGTH.size + length
            if length == 0:
                self.left, self.broken = True, f"{self.name} has left"
            elif length > BACKLOG_BYTES:
                self.broken = f"{self.name} announced a message of {length} bytes"
                break
            elif len(self._came) < end:
                break
            else:
                try:
                    messages.append(Message(self, *pickle.loads(self._came[at + _LENGTH.size : end])))
                except Exception as error:  # anything may come out of what the peer's classes do
                    self.broken = f"what {self.name} sent cannot be read: {type(error).__name__}: {error}"
                    break
            at = end
        del self._came[:at]
        return messages

    def _settle(self, message: Message) -> bool:
        """Whether it was an answer."""
        if message.number >= 0:
            return False
        if (asked := self._asked.pop(-message.number, None)) is not None:
            asked.set_result(message.body)
        return True

    def give_up(self) -> None:
        """Nothing more comes: whoever waits for an answer hears so."""
        for number in list(self._asked):
            if (asked := self._asked.pop(number, None)) is not None:
                asked.set_exception(LineLostError(f"the line to {self.name} broke: {self.broken}"))


def _prepare(sock: socket.socket) -> None:
    """Small messages go at once; a host that vanished while a line was silent is noticed within half a minute, as by Ray."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):  # Linux has all of them
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

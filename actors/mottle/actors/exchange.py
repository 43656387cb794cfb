"""Direct lines between processes of a run: authenticated, ordered, and cheap for small messages.

Ray starts, places and watches the actors and carries what is large. A call through it costs about a millisecond of processor time on both
sides together, whatever it carries; a message over a line costs about a tenth of that. So the coordinator's exchange is called by shards
and workers, a shard's by workers and the validator, and each pair has one TCP connection for all its small messages.

A line that breaks without a goodbye is a lost peer: `Exchange` says so once, and whoever owns it decides what that means. Nobody waits
for a slow peer: what its connection does not take at once is kept, and a line that would have to keep too much is broken.

Nothing is unpickled before both ends have shown that they hold the run's key, which Ray alone hands out (challenge and answer by HMAC of
fresh random numbers). What follows is not encrypted, like Ray's own traffic without TLS.
"""

import selectors
import socket
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from mottle.actors.handshake import ask_for_key, show_key
from mottle.actors.lines import CHUNK, GOODBYE, Line, Message

CONNECT_TIMEOUT_S = 10.0
"""For connecting and for showing the key; a firewall that drops packets is noticed after this long."""

STRANGERS = 64
"""Connections at a time that have not shown the key."""


@dataclass(frozen=True, slots=True)
class Door:
    """Where an exchange is called, and the key that opens it. To be handed out through Ray only."""

    host: str
    port: int
    key: bytes = field(repr=False)


class Exchange:
    """All lines of a process, read by one thread.

    Args:
        hear: called in that thread with the messages that came together, of one line in the order in which they were sent.
        lost: called in that thread with a line that broke without a goodbye, after all that came over it was heard.
    """

    def __init__(self, hear: Callable[[list[Message]], None], lost: Callable[[Line], None] = lambda line: None) -> None:
        self._hear = hear
        self._lost = lost
        self._selector = selectors.DefaultSelector()
        self._stirred: dict[Line, None] = {}
        self._awake, self._wake = socket.socketpair()
        for end in (self._awake, self._wake):
            end.setblocking(False)
        self._selector.register(self._awake, selectors.EVENT_READ)
        self._listener: socket.socket | None = None
        self._key = b""
        self._strangers = threading.BoundedSemaphore(STRANGERS)
        self._lines: dict[str, Line] = {}
        self._changed = threading.Lock()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="lines", daemon=True)
        self._thread.start()

    # --- opening ----------------------------------------------------------------------------------------------------------------------

    def open(self, host: str, key: bytes) -> Door:
        """Let others call, on a free port of an address of this host.

        Raises:
            OSError: the address is not to be had.
        """
        self._key = key
        self._listener = socket.create_server((host, 0), backlog=512, family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._rouse()
        return Door(host, self._listener.getsockname()[1], key)

    def call(self, door: Door, me: str) -> Line:
        """A line to the exchange behind a door; it knows of the line when this returns.

        Args:
            me: this process's name, at most 32 bytes; a line of that name that the other side has is replaced.
        Raises:
            OSError: nobody there, no way there, or the key is another one.
        """
        sock = socket.create_connection((door.host, door.port), timeout=CONNECT_TIMEOUT_S)
        try:
            show_key(sock, door.key, me)
            return self._add(f"{door.host}:{door.port}", sock)
        except BaseException:
            sock.close()
            raise

    def line(self, name: str) -> Line | None:
        """The line that a process of this name opened, if it stands."""
        with self._changed:
            return self._lines.get(name)

    def _add(self, name: str, sock: socket.socket, proof: bytes = b"") -> Line:
        """Take up a line; whoever gets the proof may use it, and the lock lets nobody miss it or send before the proof."""
        with self._changed:
            if self._closing:
                raise ConnectionAbortedError("this exchange is being closed")
            sock.sendall(proof)
            line = self._lines[name] = Line(name, sock, self._stir)
            self._selector.register(sock, selectors.EVENT_READ, line)
        return line

    def _admit(self, sock: socket.socket) -> None:
        """In a thread of its own: whoever connects may take its time and hold up nobody."""
        try:
            sock.settimeout(CONNECT_TIMEOUT_S)
            name, proof = ask_for_key(sock, self._key)
            self._add(name, sock, proof)
        except OSError:
            sock.close()
        finally:
            self._strangers.release()

    # --- the thread -------------------------------------------------------------------------------------------------------------------

    def _stir(self, line: Line) -> None:
        self._stirred[line] = None
        self._rouse()

    def _rouse(self) -> None:
        with suppress(OSError):  # full: the thread has enough to wake up for; or closed
            self._wake.send(b"\0")

    def _run(self) -> None:
        while not self._closing:
            heard: list[Message] = []
            for key, events in self._selector.select():
                if isinstance(key.data, Line):
                    if events & selectors.EVENT_WRITE:
                        key.data.flush()
                    if events & selectors.EVENT_READ:
                        heard += key.data.receive()
                    if key.data.broken or events & selectors.EVENT_WRITE:
                        self._stirred[key.data] = None
                elif key.fileobj is self._awake:
                    self._awake.recv(CHUNK)
                else:
                    self._accept()
            if heard:
                self._guard(self._hear, heard)
            while self._stirred:
                line, _ = self._stirred.popitem()
                self._look_at(line)

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return  # gone again
        if self._strangers.acquire(blocking=False):
            threading.Thread(target=self._admit, args=(sock,), name="line-admission", daemon=True).start()
        else:
            sock.close()

    def _look_at(self, line: Line) -> None:
        """Take leave of a broken line; else wait for room where something is left to send."""
        with self._changed:
            if line.sock.fileno() < 0:
                return
            if not line.broken:
                writing = selectors.EVENT_WRITE if line.unsent else 0
                self._selector.modify(line.sock, selectors.EVENT_READ | writing, line)
                return
            self._selector.unregister(line.sock)
            line.sock.close()
            if self._lines.get(line.name) is line:
                del self._lines[line.name]
        line.give_up()
        if not line.left:
            self._guard(self._lost, line)

    @staticmethod
    def _guard(do: Callable[[Any], None], what: Any) -> None:
        try:
            do(what)
        except Exception:
            traceback.print_exc()  # the owner's own mistake must not silence all other lines

    # --- the end ----------------------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Say goodbye on every line and let them go."""
        with self._changed:
            self._closing = True
        self._rouse()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        for line in self._lines.values():
            line.send(GOODBYE)
            line.broken = line.broken or "closed here"
            line.sock.close()
            line.give_up()
        self._lines.clear()
        for sock in (self._listener, self._awake, self._wake):
            if sock is not None:
                sock.close()
        self._selector.close()

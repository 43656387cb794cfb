"""What the processes of a run print, in the run's folder: `logs/w3.log`, `logs/shard0.log`, `logs/validator.log`, `logs/coordinator.log`.

Output is taken where the process writes it (file descriptors 1 and 2), so what C libraries say and Python's last words are there too. A
process that sees the folder which the coordinator sees, on the same host or on storage that hosts share, appends to its file itself: even a
crash leaves its last words. How it knows: the coordinator leaves a mark there that names Ray's session and job. Every other process spools
its output and sends what is new to the coordinator once a second, so a kill there may cost the last second's lines.
"""

import io
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

import ray

from mottle.storage import Folder

LOGS = "logs"
SEND_EVERY_S = 1.0
REWRITE_EVERY_S = 10.0
KEPT_BYTES = 1 << 20
"""Newest part of a log that stays where the folder cannot append (object storage), and most that is sent at once."""
_MARK = "coordinator.mark"

Send = Callable[[str, bytes], object]
"""Takes the name of a log and what is to be added to it."""


def _this_run() -> str:
    """The same in all processes of a run, another for every other run that could have left the folder."""
    context = ray.get_runtime_context()
    return f"{context.get_session_name()} {context.get_job_id()}"


class Output:
    """Where the output of this process goes."""

    def __init__(self) -> None:
        self._stop: Callable[[], None] = lambda: None

    def keep(self, run_dir: str, name: str, send: Send) -> None:
        """From here on it goes into the log of that name, of the run that has this folder.

        Args:
            run_dir: the run's folder, a path or a URI.
            name: of the log, without `.log`.
            send: for a process that does not see the folder.
        """
        self.close()
        logs = Folder.at(run_dir).child(LOGS)
        if logs.is_local and _mark_in(logs) == _this_run():
            self._redirect(f"{logs.path}/{name}.log")
        else:
            self._spool(name, send)
        print(f"{name} is process {os.getpid()} on {socket.gethostname()}", flush=True)

    def close(self) -> None:
        """Send what has not been sent yet."""
        self._stop()
        self._stop = lambda: None

    @staticmethod
    def _redirect(path: str) -> None:
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            print(f"{path} cannot be written ({error}): output stays here", flush=True)
            return
        print(f"output goes on in {path}", flush=True)
        _take_over(file)

    def _spool(self, name: str, send: Send) -> None:
        file, path = tempfile.mkstemp(prefix="mottle-", suffix=f"-{name}.log")
        os.unlink(path)  # it lives as long as this process
        os.set_inheritable(file, False)
        ended, sent = threading.Event(), 0

        def send_new() -> None:
            nonlocal sent
            while data := os.pread(file, KEPT_BYTES, sent):
                sent += len(data)
                send(name, data)

        def run() -> None:
            while not ended.wait(SEND_EVERY_S):
                send_new()
            send_new()
            os.close(file)

        _take_over(os.open(f"/proc/self/fd/{file}", os.O_WRONLY | os.O_APPEND))
        thread = threading.Thread(target=run, name="log", daemon=True)
        thread.start()

        def stop() -> None:
            ended.set()
            thread.join()

        self._stop = stop


def _take_over(file: int) -> None:
    """Standard output and standard error go to that file, for everything in this process."""
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    if not isinstance(sys.stdout, _Forgiving):
        sys.stdout, sys.stderr = _Forgiving(sys.stdout), _Forgiving(sys.stderr)


class _Forgiving(io.TextIOBase):
    """A stream whose failures stop nobody: storage that is full costs lines, where Python's own streams would raise out of every print."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True


def _mark_in(logs: Folder) -> str:
    try:
        return logs.read_text(_MARK)
    except OSError:
        return ""


class LogFiles:
    """The logs of a run, at its coordinator.

    Args:
        run_dir: the run's folder, a path, a URI or a Folder.
    """

    def __init__(self, run_dir: str | Folder) -> None:
        self._folder = Folder.at(run_dir).child(LOGS)
        self._kept: dict[str, bytes] = {}
        self._written_s: dict[str, float] = {}
        self._lock = threading.Lock()
        try:
            self._folder.write_text(_MARK, _this_run())
        except OSError as error:  # who watches is told by the record, which has the same trouble
            print(f"logs cannot be kept in {self._folder.path}: {error}", flush=True)

    def add(self, name: str, data: bytes) -> None:
        """Append to a log; where storage cannot append, its newest part is written anew every ten seconds."""
        with self._lock:
            try:
                if self._folder.is_local:
                    with open(f"{self._folder.path}/{name}.log", "ab") as stream:
                        stream.write(data)
                    return
                self._kept[name] = (self._kept.get(name, b"") + data)[-KEPT_BYTES:]
                if time.monotonic() - self._written_s.get(name, -REWRITE_EVERY_S) >= REWRITE_EVERY_S:
                    self._write(name)
            except OSError as error:
                print(f"a part of {name}.log is lost: {error}", flush=True)

    def close(self) -> None:
        """Write what is not written yet."""
        with self._lock:
            for name in self._kept:
                try:
                    self._write(name)
                except OSError as error:
                    print(f"a part of {name}.log is lost: {error}", flush=True)

    def _write(self, name: str) -> None:
        self._written_s[name] = time.monotonic()
        with self._folder.writing(f"{name}.log") as stream:
            stream.write(self._kept[name])

"""Workers of Ray that have torch and most of Mottle imported already: forked from a process that has.

    python tests/warm/fork_server.py SOCKET        serves until its standard input ends

A worker of Ray imports Ray twice, torch and Mottle before it does anything: 2.3 s of processor time, and a test on live Ray starts five or
more of them. One that is forked takes 0.4 s and is a process like any other, which can be measured, cut off and killed; it only has the
modules already. The process that the raylet started hands over its order (`sitecustomize`) and stays until the forked one has ended.
"""

import ctypes
import gc
import importlib
import json
import os
import random
import runpy
import selectors
import signal
import socket
import struct
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

PARTS = ("attacks", "checkpoint", "data", "engines", "observe", "placement", "strategies", "vectors")
PRELOADED = ("pandas", "torch", *(f"mottle.{part}" for part in PARTS))
"""Without Ray: what that reads of its environment when it is loaded cannot be told to it later."""
OWN_PATH = [sys.path[0], *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
CONTROL_GROUPS = Path("/sys/fs/cgroup")


class Server:
    """Binds its socket at once: who asks while the modules are being imported waits."""

    def __init__(self, address: str) -> None:
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(address)
        self._listening.listen(64)
        self._living: set[int] = set()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listening, selectors.EVENT_READ, self._accept)
        self._selector.register(sys.stdin, selectors.EVENT_READ, self._end)

    def serve(self) -> NoReturn:
        while True:
            for key, _ in self._selector.select():
                key.data()

    def _end(self) -> NoReturn:
        """Whoever started the server has ended. What was forked belongs to its raylet and ends with that."""
        os._exit(0)

    def _accept(self) -> None:
        asking, _ = self._listening.accept()
        order, files = _receive(asking)
        child = os.fork()
        if child == 0:
            self._selector.close()
            self._listening.close()
            _become(order, files, _process_of(asking))
        for file in files:
            os.close(file)
        ended = os.pidfd_open(child)
        self._living.add(child)

        def forget() -> None:
            self._living.remove(child)
            for each in (ended, asking):
                self._selector.unregister(each)
            os.close(ended)
            asking.close()

        def tell_how_it_ended() -> None:
            if child not in self._living:
                return  # both events came at once, and the other was first
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            with suppress(OSError):  # the asking one may have been killed at the same time
                asking.send(bytes([code if code >= 0 else 128 - code]))
            forget()

        def end_with_the_asking_one() -> None:
            if child not in self._living:
                return
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            forget()

        self._selector.register(ended, selectors.EVENT_READ, tell_how_it_ended)
        self._selector.register(asking, selectors.EVENT_READ, end_with_the_asking_one)


def _receive(asking: socket.socket) -> tuple[dict[str, Any], list[int]]:
    length, files, _, _ = socket.recv_fds(asking, 4, 3)
    missing, pieces = int.from_bytes(length, "little"), []
    while missing:
        pieces.append(asking.recv(missing))
        missing -= len(pieces[-1])
    return json.loads(b"".join(pieces)), files


def _process_of(asking: socket.socket) -> int:
    credentials = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid: int = struct.unpack("3i", credentials)[0]
    return pid


def _become(order: dict[str, Any], files: list[int], asking: int) -> NoReturn:
    """What Ray's `setup_worker.py` would become in a new interpreter with that order."""
    status = 1
    os.setsid()  # whoever ends this process's group, as a raylet may, is not to end the tests
    try:
        _move_to_the_host_of(asking)
        for standard, file in enumerate(files):
            os.dup2(file, standard)
            os.close(file)
        os.chdir(order["folder"])
        os.environ.clear()
        os.environ.update(order["environment"])
        _run_the_worker(order["argv"])
        status = 0
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _move_to_the_host_of(asking: int) -> None:
    """A host of the testbed is a share of the processors, a network, and its own files over those of `/etc`."""
    for line in Path(f"/proc/{asking}/cgroup").read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        members = CONTROL_GROUPS / controllers / group.lstrip("/") / "cgroup.procs"
        if controllers in ("cpu", "") and group != "/" and members.exists():
            members.write_text(str(os.getpid()))
    moved = [kind for kind in ("net", "mnt") if os.readlink(f"/proc/{asking}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")]
    namespaces = [os.open(f"/proc/{asking}/ns/{kind}", os.O_RDONLY) for kind in moved]
    library = ctypes.CDLL(None, use_errno=True)
    for namespace in namespaces:
        if library.setns(namespace, 0):
            raise OSError(ctypes.get_errno(), "the forked process cannot move to the host of the one that asked for it")
        os.close(namespace)


def _run_the_worker(argv: list[str]) -> None:
    from ray._private.runtime_env.context import RuntimeEnvContext
    from ray._private.utils import update_envs
    from ray._private.workers.setup_worker import parser

    settings, command = parser.parse_known_args(argv[2:])
    context = RuntimeEnvContext.deserialize(settings.serialized_runtime_env_context or "{}")
    if context.serialize() != RuntimeEnvContext(env_vars=context.env_vars).serialize():
        del os.environ["MOTTLE_TEST_FORK_SERVER"]
        os.execv(argv[0], argv)  # in another interpreter, or by a command around it
    update_envs(context.env_vars)
    random.seed()
    sys.modules["numpy"].random.seed()
    gc.enable()
    sys.argv = command
    wanted = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:] = [os.path.dirname(command[0]), *wanted, *(each for each in sys.path if each not in OWN_PATH)]
    runpy.run_path(command[0], run_name="__main__")


if __name__ == "__main__":
    server = Server(sys.argv[1])
    gc.disable()
    for module in PRELOADED:
        importlib.import_module(module)
    gc.freeze()
    server.serve()

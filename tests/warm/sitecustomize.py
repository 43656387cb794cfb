"""What every Python process that a test starts runs first: one that is about to become a worker of Ray has itself forked (`fork_server`).

All others go on at once, and so does this one where no server answers.
"""

import json
import os
import socket
import sys

SERVER = os.environ.get("MOTTLE_TEST_FORK_SERVER", "")


def _status_of_the_forked() -> int | None:
    """How the forked process has ended, once it has; None if no server answers."""
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(SERVER)
        except OSError:
            return None
        order = json.dumps({"argv": sys.orig_argv, "environment": dict(os.environ), "folder": os.getcwd()}).encode()
        socket.send_fds(server, [len(order).to_bytes(4, "little")], [0, 1, 2])
        server.sendall(order)
        return (server.recv(1) or b"\x01")[0]


if SERVER and any(each.endswith("ray/_private/workers/setup_worker.py") for each in sys.orig_argv[1:2]):
    status = _status_of_the_forked()
    if status is not None:
        os._exit(status)

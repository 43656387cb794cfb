"""The way to another actor: for what is small its line, where one stands; Ray for the rest.

Both run the same methods: what travels over a line is a method's name and its arguments.
"""

from collections.abc import Callable
from typing import Any

import ray

from mottle.actors.exchange import Door, Exchange
from mottle.actors.lines import Line, LineLostError

PATIENCE_S = 20.0
"""After this long without an answer Ray is asked as well, which knows whether the process and its host live (after about 16 s)."""


class Way:
    """How this process reaches one actor.

    Args:
        handle: Ray's.
        line: None where Ray has to carry everything.
    """

    def __init__(self, handle: Any, line: Line | None = None) -> None:
        self.handle = handle
        self.near: bool | None = None
        """Whether it reads what this process shows (`mottle.actors.nearby`); None before it was asked."""
        self._line = line

    def tell(self, method: str, *arguments: Any) -> None:
        """Call a method and expect nothing back. Calls of one way arrive in their order."""
        if self._line is None:
            getattr(self.handle, method).remote(*arguments)
        else:
            self._line.tell((method, arguments))

    def ask(self, method: str, *arguments: Any, large: bool = False) -> Callable[[], Any]:
        """Call a method; what is returned waits for its answer, and raises what `ray.get` raises.

        Where the line breaks, or stays silent for long, the same is asked again through Ray: only for methods that may be called twice.

        Args:
            large: the arguments or the answer may refer to Ray's objects, or are too long for a line.
        """
        if large or self._line is None:
            return self._ask_ray(method, arguments)
        answer = self._line.ask((method, arguments))

        def wait() -> Any:
            try:
                return answer.result(PATIENCE_S)
            except (LineLostError, TimeoutError):
                self._line = None
                return self._ask_ray(method, arguments)()

        return wait

    def _ask_ray(self, method: str, arguments: tuple[Any, ...]) -> Callable[[], Any]:
        reference = getattr(self.handle, method).remote(*arguments)
        return lambda: ray.get(reference)


def connect(exchange: Exchange | None, door: Door | None, me: str, whom: str) -> tuple[Line | None, str]:
    """A line where it can be had, and a sentence for people where it should be there and is not.

    Args:
        exchange: this process's, or None where the run has no lines.
        me, whom: names of this process and the other.
    """
    if exchange is None or door is None:
        return None, ""
    try:
        return exchange.call(door, me), ""
    except OSError as error:
        return None, (
            f"{me} has no direct line to {whom} at {door.host}:{door.port} ({error}); small messages go through Ray, which is slower. "
            "Let the hosts of the cluster connect to each other on any port"
        )


def open_door(exchange: Exchange, key: bytes, me: str) -> tuple[Door | None, str]:
    """A door at the address by which Ray knows this host, and a sentence for people where that cannot be had."""
    host = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]  # Ray leaves it unannotated
    try:
        return exchange.open(host, key), ""
    except OSError as error:
        return None, f"{me} cannot be called at {host} ({error}); small messages to it go through Ray, which is slower"

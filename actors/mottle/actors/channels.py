"""How the stages of a gang hand each other tensors: torch's gloo from process to process, or Ray's objects where that cannot be.

Both are of one formation of the gang. When a process of it is lost, or fails in the middle of a step, its channel is let go, those who
wait for it hear so, and the next formation gets channels of its own.
"""

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from mottle.core.errors import MottleError
from mottle.engines.placed import Form

gloo: Any = dist  # torch's annotations leave out the parts of it that are used here

SILENCE_S = 120.0
"""A stage whose host vanished without a goodbye is noticed after this long; one that dies, or fails, at once."""

MEETING_S = 60.0
"""For the processes of a gang to find each other."""


def open_store(host: str) -> Any:
    """Where the processes of a gang find each other; in the leader's process."""
    return gloo.TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=MEETING_S))


def call_store(host: str, port: int) -> Any:
    """The leader's store, from another process."""
    return gloo.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=MEETING_S))


class TornError(MottleError):
    """Another process of the gang is gone, or has given up the step."""


class Formation(NamedTuple):
    """One standing of a gang, for those who take part."""

    number: int
    members: tuple[int, ...]
    """Ranks of the processes that take part, one for each stage."""
    host: str
    port: int
    """Of the leader's store, where gloo's processes find each other."""


class GlooChannel:
    """One stage's end over gloo.

    Args:
        store: of the leader.
        here: address by which the others reach this process.
    Raises:
        TornError: the others did not come.
    """

    def __init__(self, formation: Formation, stage: int, store: Any, here: str) -> None:
        options = gloo.ProcessGroupGloo._Options()
        options._devices = [gloo.ProcessGroupGloo.create_device(hostname=here)]
        options._timeout = timedelta(seconds=SILENCE_S)
        mine = gloo.PrefixStore(f"formation {formation.number}", store)
        try:
            self._group = gloo.ProcessGroupGloo(mine, stage, len(formation.members), options)
        except RuntimeError as error:
            raise TornError(f"the stages of the gang did not find each other: {_first_line(error)}") from error
        self._going: deque[tuple[Any, Tensor]] = deque()

    def send(self, stage: int, tag: int, tensors: Sequence[Tensor]) -> None:
        """See `mottle.engines.placed.Channel`."""
        for tensor in tensors:
            if tensor.numel():
                here = tensor.detach().contiguous().cpu()
                self._going.append((self._torn(self._group.send, [here], stage, tag), here))

    def expect(self, stage: int, tag: int, forms: Sequence[Form]) -> Callable[[], list[Tensor]]:
        """See `mottle.engines.placed.Channel`."""
        tensors = [torch.empty(form.shape, dtype=form.dtype) for form in forms]
        coming = [self._torn(self._group.recv, [tensor], stage, tag) for tensor in tensors if tensor.numel()]

        def arrive() -> list[Tensor]:
            for each in coming:
                self._torn(each.wait)
            return tensors

        return arrive

    def settle(self) -> None:
        """See `mottle.engines.placed.Channel`."""
        while self._going:
            work, _ = self._going.popleft()
            self._torn(work.wait)

    @staticmethod
    def _torn(do: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return do(*arguments)
        except RuntimeError as error:
            raise TornError(f"the connection to another stage broke: {_first_line(error)}") from error


class Inbox:
    """What other stages sent through Ray and nobody has taken yet."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._came: dict[tuple[int, int, int], deque[Sequence[Tensor]]] = defaultdict(deque)
        self._torn = -1

    def put(self, formation: int, stage: int, tag: int, tensors: Sequence[Tensor]) -> None:
        """Take in what a stage sent."""
        with self._changed:
            self._came[formation, stage, tag].append(tensors)
            self._changed.notify_all()

    def take(self, formation: int, stage: int, tag: int) -> Sequence[Tensor]:
        """Wait for it.

        Raises:
            TornError: nothing of this formation comes any more.
        """
        key = (formation, stage, tag)
        with self._changed:
            self._changed.wait_for(lambda: self._came[key] or self._torn >= formation)
            if not self._came[key]:
                raise TornError("another stage is gone, or has given up the step")
            return self._came[key].popleft()

    def tear(self, formation: int) -> None:
        """Nothing of this formation comes any more."""
        with self._changed:
            self._torn = formation
            self._came = defaultdict(deque, {key: came for key, came in self._came.items() if key[0] > formation})
            self._changed.notify_all()


class RayChannel:
    """One stage's end over Ray's objects: copies on both sides, for hosts that have no way to each other but Ray's.

    Args:
        peers: the actor of each stage, with a method `deliver`.
        inbox: of this process.
    """

    def __init__(self, formation: Formation, stage: int, peers: Sequence[Any], inbox: Inbox) -> None:
        self._number, self._stage, self._peers, self._inbox = formation.number, stage, peers, inbox

    def send(self, stage: int, tag: int, tensors: Sequence[Tensor]) -> None:
        """See `mottle.engines.placed.Channel`."""
        here = [tensor.detach().contiguous().cpu() for tensor in tensors]
        self._peers[stage].deliver.remote(self._number, self._stage, tag, here)

    def expect(self, stage: int, tag: int, forms: Sequence[Form]) -> Callable[[], list[Tensor]]:
        """See `mottle.engines.placed.Channel`."""
        return lambda: [tensor.clone() for tensor in self._inbox.take(self._number, stage, tag)]  # an object's memory is shared

    def settle(self) -> None:
        """Ray keeps what is under way."""


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__

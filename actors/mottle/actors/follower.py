"""A follower's process: one of a gang's, which its leader made and tells what to do (`mottle.actors.gang`)."""

from typing import Any

import torch

from mottle.actors import transport
from mottle.actors.channels import Formation
from mottle.actors.exchange import Door, Exchange
from mottle.actors.gang_copies import Packed
from mottle.actors.gang_state import Patch
from mottle.actors.job import Job, WorkerGroup
from mottle.actors.link import Replica, Shards, ways_to
from mottle.actors.logs import Output
from mottle.actors.probing import Report, report
from mottle.actors.reports import RunHandle
from mottle.actors.seat import Seat
from mottle.placement import Link
from mottle.placement.staging import Cut
from mottle.placement.tracing import Profile


class Follower:
    """See above."""

    def __init__(self) -> None:
        self._output = Output()

    @transport.call(group="run")
    def prepare(self, name: str, slot: int, job: Job, group: WorkerGroup, shards: Shards, door: Door | None, run: RunHandle) -> Report:
        """Call the shards and look at the device.

        Args:
            name: of this process, on lines and logs.
            door: of the coordinator's exchange, of which only the key is used; None for a run without lines.
        """
        torch.set_num_threads(job.threads_per_worker)
        self._output.keep(job.run_dir, name.replace("/", "-"), run.log)
        self._name, self._exchange = name, None if door is None else Exchange(lambda messages: None)
        self._shards, _ = ways_to(shards, self._exchange, name)
        found = report(use_gpu=bool(group.num_gpus))
        self._seat = Seat(slot, job, group, self._shards, found.host)
        return found

    @transport.call(group="mail")
    def lives(self) -> None:
        """Answered by a process that does."""

    @transport.call(group="mail")
    def meet(self, shard: int, newcomer: Replica) -> None:
        """Know a further replica of a shard; answered once no push is under way that leaves it out."""
        ways, _ = ways_to({shard: [newcomer]}, self._exchange, self._name)
        self._shards[shard] += ways[shard]
        self._seat.bench.await_push()

    @transport.call(group="run")
    def take(self, cut: Cut, stage: int) -> None:
        """See `Seat.take`."""
        self._seat.leave()
        self._seat.take(cut, stage)

    @transport.call(group="run")
    def rehearse(self) -> Profile:
        """See `Seat.rehearse`."""
        return self._seat.rehearse()

    @transport.call(group="run")
    def try_out(self, formation: Formation, place: int, peers: list[Any]) -> None:
        """See `Seat.try_out`."""
        self._seat.try_out(formation, place, peers)

    @transport.call(group="run")
    def time_link(self, peer: int, *, begins: bool) -> Link:
        """See `Seat.time_link`."""
        return self._seat.time_link(peer, begins=begins)

    @transport.call(group="run")
    def join(self, formation: Formation, peers: list[Any]) -> None:
        """See `Seat.join`."""
        self._seat.join(formation, peers)

    @transport.call(group="run")
    def do(self, method: str, *arguments: Any) -> Any:
        """See `Seat.do`."""
        return self._seat.do(method, *arguments)

    @transport.call(group="run")
    def hold(self, rank: int, after: int, packed: list[Packed]) -> None:
        """See `Copies.hold`."""
        self._seat.copies.hold(rank, after, packed)

    @transport.call(group="run")
    def copy_of(self, rank: int, before: int) -> list[Patch] | None:
        """See `Copies.of`."""
        return self._seat.copies.of(rank, before)

    @transport.call(group="mail", answered=False)
    def mention(self, method: str, *arguments: Any) -> None:
        """Call a method of the bench that touches nothing but what is read ahead."""
        getattr(self._seat.bench, method)(*arguments)

    @transport.call(group="mail", answered=False)
    def deliver(self, formation: int, stage: int, tag: int, tensors: Any) -> None:
        """What another stage sent through Ray."""
        self._seat.inbox.put(formation, stage, tag, tensors)

    @transport.call(group="mail", answered=False)
    def tear(self, formation: int) -> None:
        """Another process of this formation is gone."""
        self._seat.inbox.tear(formation)

"""A process's place in a gang: which stage it runs at present, and its way to the others. The leader has one, and so has every follower."""

import gc
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from mottle.actors.channels import Formation, GlooChannel, Inbox, RayChannel, call_store
from mottle.actors.gang_copies import Copies
from mottle.actors.job import Job, WorkerGroup, placed_config
from mottle.actors.stage_bench import StageBench, capture_for, device_of
from mottle.actors.way import Way
from mottle.data import Positions
from mottle.engines.placed import Channel, rehearse, time_link
from mottle.engines.torch_engine import AUTOCAST
from mottle.placement import Link
from mottle.placement.staging import Cut
from mottle.placement.tracing import Profile


class Seat:
    """One process's.

    Args:
        slot: the gang's number in the crew.
        shards: ways of this process to the live replicas of each shard.
        host: address by which the others reach this process.
    """

    def __init__(self, slot: int, job: Job, group: WorkerGroup, shards: Mapping[int, list[Way]], host: str) -> None:
        self._slot, self._job, self._group, self._shards, self._host = slot, job, group, shards, host
        self._bench: StageBench | None = None
        self._trial: Channel | None = None
        self.inbox = Inbox()
        self.copies = Copies()
        """Of what other processes keep."""

    @property
    def bench(self) -> StageBench:
        assert self._bench is not None, "a process of a gang that has no stage yet"
        return self._bench

    def rehearse(self) -> Profile:
        """Times of the model's ops in this process, where it has no stage yet."""
        device, model = device_of(self._group), self._job.model()
        captured = capture_for(self._job, model)
        size = min(self._job.micro_batch_size, self._job.loader.num_positions)
        batch = self._job.loader.load(Positions(0, 0, size))
        autocast = None if self._group.autocast is None else AUTOCAST[self._group.autocast]
        return rehearse(captured, model.to(device), self._job.loss, batch, size, device, autocast)

    def try_out(self, formation: Formation, place: int, peers: Sequence[Any], store: Any = None) -> None:
        """Meet the others to time the ways to them, before anybody has a stage.

        Args:
            place: of this process among the peers.
        """
        self._trial = self._channel(formation, place, peers, store)

    def time_link(self, peer: int, *, begins: bool) -> Link:
        """See `mottle.engines.placed.time_link`; the peer does the same."""
        assert self._trial is not None, "a link is timed before the others are met"
        return time_link(self._trial, peer, begins=begins)

    def take(self, cut: Cut, stage: int) -> None:
        """Run this stage from here on; the model is made anew where it was another one."""
        if self._bench is not None and self._bench.stage == stage and self._bench.cut.divides_like(cut):
            return
        if self._bench is not None:
            self._bench.close()
            self._bench = None
            gc.collect()
        self._bench = StageBench(self._slot, self._job, self._group, self._shards, cut, stage)

    def join(self, formation: Formation, peers: Sequence[Any], store: Any = None) -> None:
        """Meet the others.

        Args:
            peers: the actor of each stage.
            store: of the leader, in the leader's process.
        Raises:
            TornError: they did not come.
        """
        self._trial = None
        self.copies.drop()
        self.bench.join(self._channel(formation, self.bench.stage, peers, store))

    def _channel(self, formation: Formation, stage: int, peers: Sequence[Any], store: Any) -> Channel:
        config = placed_config(self._group)
        assert config is not None
        if config.transport == "ray":
            return RayChannel(formation, stage, peers, self.inbox)
        if store is None:
            store = call_store(formation.host, formation.port)
        return GlooChannel(formation, stage, store, self._host)

    def do(self, method: str, *arguments: Any) -> Any:
        """Call a method of the bench. Where it fails, the way to the others is let go, so that nobody waits for this process."""
        try:
            return getattr(self.bench, method)(*arguments)
        except Exception as error:
            self.leave()
            traceback.clear_frames(error.__traceback__)  # they hold on to the connections
            gc.collect()
            raise

    def leave(self) -> None:
        """Let go of the way to the others."""
        self._trial = None
        if self._bench is not None:
            self._bench.leave()

    def close(self) -> None:
        """Let go of everything."""
        if self._bench is not None:
            self._bench.close()
        self._bench = None

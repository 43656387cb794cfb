"""The actors of a run: shards, validator and workers; taken up, accompanied to their end, and let go."""

import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray
from torch import Tensor

from mottle import strategies
from mottle.actors import hosts, placing, transport
from mottle.actors.collusion import open_channel
from mottle.actors.exchange import Door, Exchange
from mottle.actors.job import Job, WorkerGroup
from mottle.actors.lines import Line
from mottle.actors.link import Replica, Shards
from mottle.actors.reports import RunHandle
from mottle.actors.reserve import RESERVE
from mottle.actors.shard import Start
from mottle.actors.shard import line_name as shard_line
from mottle.actors.way import Way
from mottle.actors.worker import line_name as worker_line
from mottle.core import protocol as p
from mottle.core.errors import MottleError
from mottle.vectors import ShardSpec

START_TIMEOUT_S = 120.0
LEAVING_S = 2.0
RESTING_S = 5.0


class CrewError(MottleError):
    """The cluster cannot give the run what it declares as its minimum."""


class Fleet:
    """All actors of one run but the coordinator.

    Args:
        job: the run.
        run: that they tell.
        exchange: where they call.
        door: of that exchange; None for a run without lines.
        tell: gives an event to the brain.
        note: has people read a sentence.
        over: whether the run has finished, so that its workers may wait for another one.
    """

    def __init__(
        self,
        job: Job,
        run: RunHandle,
        exchange: Exchange,
        door: Door | None,
        tell: Callable[[p.Event], None],
        note: Callable[[str], None],
        over: Callable[[], bool],
    ) -> None:
        self._job = replace(job, channel=open_channel(rounds=barriered(job))) if job.collusion else job
        self._run = run
        self._exchange = exchange
        self._door = door
        self._tell = tell
        self._note = note
        self._over = over
        self._groups = {group.name: group for group in job.groups}
        self._num_in_group: dict[str, int] = defaultdict(int)
        self.next_slot = 0
        self.shards: dict[p.ReplicaId, Any] = {}
        self._doors: dict[p.ReplicaId, Door | None] = {}
        self.ways: dict[p.ReplicaId | int, Way] = {}
        """To replicas, and to workers by slot."""
        self._shards_stand = threading.Event()
        self._lost: set[p.ReplicaId] = set()
        self._strangers: set[p.ReplicaId] = set()
        """Newcomers that nobody reads from or pushes to yet."""
        self._meeting = threading.Lock()
        self._places: dict[p.ReplicaId, str] = {}
        self.workers: dict[int, Any] = {}
        self.lost_workers: dict[int, str] = {}
        """Why a worker died, by slot; also of those that never joined."""
        self._accompanying: list[threading.Thread] = []
        self._validator: Any = None
        self.peak_bytes: dict[str, list[int]] = defaultdict(list)

    # --- shards and validator ---------------------------------------------------------------------------------------------------------

    def make_shards(
        self, replicas: list[p.ReplicaId], vector: Tensor, version: p.Version, slots: Sequence[Mapping[str, Any]] | None
    ) -> None:
        """Cut the flat vector into shards and wait until they stand, and the validator with them where the job has data for it.

        Args:
            slots: optimizer state of each shard, for a run that goes on from a checkpoint.
        Raises:
            CrewError: one of them could not start.
        """
        job = self._job
        ranges = job.layout.cut(job.brain.num_shards)
        self._places, serving = hosts.spread(replicas, hosts.living()), []
        for replica in replicas:
            owned = ranges[replica.shard]
            values = transport.publish(vector[owned.start : owned.stop])
            state = slots[replica.shard] if slots else None
            shard = self.shards[replica] = placing.make_shard(self._places[replica])
            serving.append(self._serve(shard, replica, Start(values, version, state)))
        try:
            ready = ray.get(serving)
            self._doors = {replica: door for replica, (door, _) in zip(self.shards, ready, strict=True)}
            troubles = [trouble for _, each in ready for trouble in each]
            if job.test is not None or job.validation is not None:
                troubles += ray.get(self.ask_validator("ready"))
        except ray.exceptions.RayActorError as error:
            raise CrewError(f"shards and validator could not start: {reason_of(error)}") from error
        for trouble in troubles:
            self._note(trouble)
        for replica in self.shards:
            self._attend(replica)
        self._shards_stand.set()

    def _serve(self, shard: Any, replica: p.ReplicaId, start: Start | None) -> Any:
        job, owned = self._job, self._job.layout.cut(self._job.brain.num_shards)[replica.shard]
        optimizer = job.server_optimizer or job.optimizer
        spec = ShardSpec(layout=job.layout, owned=owned, optimizer=optimizer, codec=job.codec, schedule=job.schedule)
        return shard.serve.remote(job.run_dir, replica, self._run, self._door, spec, start)

    def _attend(self, replica: p.ReplicaId) -> None:
        """Talk to a replica that stands, and be told of its end."""
        shard = self.shards[replica]
        self.ways[replica] = Way(shard, self._exchange.line(shard_line(replica)))
        self._thread(self._watch_shard, replica, shard)

    def ask_validator(self, method: str, *arguments: Any) -> Any:
        """Call a method of the validator; a reference to its answer.

        It is made when it is first needed, for a run without data of its own has it write checkpoints at most.
        """
        if self._validator is None:
            self._validator = placing.make_validator()
            self._brief_validator()
        return getattr(self._validator, method).remote(self._about, *arguments)

    def _brief_validator(self) -> None:
        """What its next calls are about."""
        self._about = [ray.put((self._job, self.by_shard(), self._run))]

    def by_shard(self) -> Shards:
        """The live replicas of each shard, primary first."""
        replicas: dict[int, list[Replica]] = defaultdict(list)
        for replica in sorted(self.shards.keys() - self._lost - self._strangers):
            replicas[replica.shard].append(Replica(self.shards[replica], self._doors[replica]))
        return dict(replicas)

    def _watch_shard(self, replica: p.ReplicaId, shard: Any) -> None:
        try:
            ray.get(shard.until_closed.remote())
        except ray.exceptions.RayActorError as error:
            self._tell(p.ReplicaLost(replica, reason_of(error)))

    def lose(self, replica: p.ReplicaId) -> None:
        """A replica no longer holds what the others hold, or is gone: nobody may read from it any more."""
        self._lost.add(replica)
        if replica in self.shards:
            ray.kill(self.shards[replica])

    # --- newcomers --------------------------------------------------------------------------------------------------------------------

    def make_replica(self, replica: p.ReplicaId) -> None:
        """Start a process for a newcomer, empty, and let the others of its shard know it; nobody waits for that."""
        self._thread(self._make_replica, replica)

    def _make_replica(self, replica: p.ReplicaId) -> None:
        others = [each for each in self.shards if each.shard == replica.shard and each not in self._lost]
        try:
            self._places[replica] = hosts.apart({self._places[each] for each in others}, hosts.living())
            shard = placing.make_shard(self._places[replica])
            door, troubles = ray.get(self._serve(shard, replica, None))
            for trouble in troubles:
                self._note(trouble)
            self._strangers.add(replica)
            self.shards[replica], self._doors[replica] = shard, door
            self._attend(replica)
            ray.get([self.shards[each].meet.remote(replica, shard) for each in others])
        except ray.exceptions.RayError as error:
            self._tell(p.ReplicaLost(replica, reason_of(error)))
        else:
            self._tell(p.ReplicaCame(replica))

    def introduce(self, replica: p.ReplicaId) -> None:
        """Let workers and the validator know a newcomer that holds what the others hold; nobody waits for that."""
        self._thread(self._introduce, replica)

    def _introduce(self, replica: p.ReplicaId) -> None:
        with self._meeting:  # who connects from here on is given it anyway
            self._strangers.discard(replica)
            workers = [self.workers[slot] for slot in self.ways if isinstance(slot, int)]
            if self._validator is not None:
                self._brief_validator()
        newcomer = Replica(self.shards[replica], self._doors[replica])
        told = [worker.meet.remote(replica.shard, newcomer) for worker in workers]
        if self._validator is not None:
            told.append(self.ask_validator("ready"))
        for answer in told:
            try:
                ray.get(answer)
            except ray.exceptions.RayError:
                continue  # whoever has died pushes nothing any more
        self._tell(p.ReplicaKnown(replica))

    def lose_line(self, line: Line) -> None:
        """A process that is not heard any more is as good as dead, and is made so: Ray then tells of its end as of any other."""
        print(f"the line to {line.name} broke: {line.broken}", flush=True)
        actors = {shard_line(replica): shard for replica, shard in self.shards.items()}
        actors |= {worker_line(slot): worker for slot, worker in self.workers.items()}
        if line.name in actors:
            ray.kill(actors[line.name])

    # --- workers ----------------------------------------------------------------------------------------------------------------------

    def add_workers(self, count: int, group: str) -> list[int]:
        """Start workers of a declared group; each joins when its process and the shards stand. Returns their slots.

        Raises:
            CrewError: no such group, or more than it may have.
        """
        if group not in self._groups:
            raise CrewError(f"unknown worker group {group!r}; known: {', '.join(self._groups)}")
        wanted = self._groups[group]
        if wanted.max_count is not None and self._num_in_group[group] + count > wanted.max_count:
            raise CrewError(
                f"group {group!r} may have {wanted.max_count} workers, has {self._num_in_group[group]} and was asked for {count} more"
            )
        slots = []
        for _ in range(count):
            slot, self.next_slot = self.next_slot, self.next_slot + 1
            self._num_in_group[group] += 1
            self.workers[slot] = placing.make_worker(wanted)
            self._accompanying.append(self._thread(self._accompany, slot, wanted))
            slots.append(slot)
        return slots

    def _accompany(self, slot: int, group: WorkerGroup) -> None:
        """Bring a worker into the crew and stay with it to its end."""
        actor, rested = self.workers[slot], False
        try:
            where = ray.get(actor.where.remote())
            self._shards_stand.wait()
            with self._meeting:
                connected = actor.connect.remote(slot, self._door, self.by_shard(), self._run)
                self.ways[slot] = Way(actor)
            for trouble in ray.get(connected):
                self._note(trouble)
            self.ways[slot] = Way(actor, self._exchange.line(worker_line(slot)))
            ray.get(actor.prepare.remote(self._job, group))
            ended = actor.run.remote()
            if self._job.collusion:
                self._job.channel.join.remote(slot, group.attack is not None)
            self._tell(p.Joined(slot, where["device"], group.name))
            self.peak_bytes["worker"].append(ray.get(ended))
            ray.get(actor.rest.remote())
            rested = True
            self._tell(p.Left(slot, "dismissed"))
        except ray.exceptions.RayError as error:
            self._lost_worker(slot, reason_of(error))
        except Exception as error:
            self._lost_worker(slot, reason_of(error))
            traceback.print_exc()
        finally:
            self._num_in_group[group.name] -= 1
            if self._job.collusion:
                self._job.channel.leave.remote(slot)
            if rested and self._over():
                RESERVE.put(actor)
            else:
                ray.kill(actor)  # its resources are free for whoever comes next

    def _lost_worker(self, slot: int, reason: str) -> None:
        self.lost_workers[slot] = reason
        self._tell(p.Left(slot, f"died: {reason}", died=True))

    @staticmethod
    def _thread(target: Callable[..., None], *arguments: Any) -> threading.Thread:
        thread = threading.Thread(target=target, args=arguments, name=target.__name__, daemon=True)
        thread.start()
        return thread

    # --- the end ----------------------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Note the peak memory of the shards, then let every actor go."""
        for replica, shard in self.shards.items():
            if (peak := _rest(shard)) is not None and replica not in self._lost:
                self.peak_bytes["shard"].append(peak)
        if RESERVE.keeping:
            self._wait_for_leaving()
        if self._validator is not None:
            _rest(self._validator)
        for slot, thread in zip(self.workers, self._accompanying, strict=True):
            if thread.is_alive():
                ray.kill(self.workers[slot])
        if self._job.collusion:
            ray.kill(self._job.channel)

    def _wait_for_leaving(self) -> None:
        """Workers that are told to go do so at the next micro-batch; who takes longer does not wait for another run."""
        until_s = time.monotonic() + LEAVING_S
        for thread in self._accompanying:
            thread.join(max(0.0, until_s - time.monotonic()))


def _rest(actor: Any) -> Any:
    """Have an actor forget the run and let it go. Returns what it answered, None of one that is gone or too slow."""
    try:
        answer = ray.get(actor.rest.remote(), timeout=RESTING_S)
    except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
        ray.kill(actor)
        return None
    RESERVE.put(actor)
    return answer


def barriered(job: Job) -> bool:
    """Whether the job's strategy works in rounds."""
    return strategies.build(job.strategy, job.strategy_defaults).barriered


def reason_of(error: BaseException) -> str:
    """One sentence out of an error: Ray's messages go on for a page, with the cause at the end or inside."""
    if isinstance(error, ray.exceptions.RayTaskError):
        return f"{type(error.cause).__name__}: {error.cause}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1] if "creation task" in lines[0] else lines[0]

"""The actors of a run: shards, validator and workers; taken up, accompanied to their end, and let go."""

import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from torch import Tensor

from mottle import strategies
from mottle.actors import placing
from mottle.actors.exchange import Door, Exchange
from mottle.actors.guests import Guests, Lent, UnwantedError
from mottle.actors.hiring import Machine, hires
from mottle.actors.job import Job, WorkerGroup
from mottle.actors.lines import Line
from mottle.actors.reasons import reason_of
from mottle.actors.replicas import Replicas
from mottle.actors.reports import RunHandle
from mottle.actors.reserve import RESERVE, let_rest
from mottle.actors.shard import line_name as shard_line
from mottle.actors.slot_state import TakeUp
from mottle.actors.way import Way
from mottle.actors.worker import Working
from mottle.actors.worker import line_name as worker_line
from mottle.core import protocol as p
from mottle.core import versions
from mottle.core.errors import MottleError

START_TIMEOUT_S = 120.0
LEAVING_S = 2.0


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
        charter: see `Replicas`.
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
        charter: Any,
    ) -> None:
        self._job = job
        self._run = run
        self._exchange = exchange
        self._door = door
        self._tell = tell
        self._note = note
        self._over = over
        self._groups = {group.name: group for group in job.groups}
        self._num_in_group: dict[str, int] = defaultdict(int)
        self._vacant: dict[str, int] = defaultdict(int)
        """Workers of a group that were lost, or left a machine that was taken away, and were not replaced."""
        self._nodes: dict[int, str] = {}
        """Where workers are, by slot."""
        self._going: set[str] = set()
        """Machines that are taken away."""
        self.next_slot = 0
        self.parts: list[TakeUp] = []
        """Of a checkpoint, that workers of the first crew go on from: each from one of its group, in the order of slots."""
        self._taken: dict[int, TakeUp] = {}
        self.guests = Guests()
        self.replicas = Replicas(self._job, run, exchange, door, tell, note, charter)
        self._shards_stand = threading.Event()
        self._meeting = threading.Lock()
        self._hiring = threading.Lock()
        self.ways: dict[int, Way] = {}
        """To workers, by slot."""
        self.workers: dict[int, Any] = {}
        self.lost_workers: dict[int, str] = {}
        """Why a worker died, by slot; also of those that never joined."""
        self._accompanying: dict[int, threading.Thread] = {}
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
        try:
            self.replicas.make(replicas, vector, version, slots)
            if self._job.test is not None or self._job.validation is not None:
                for trouble in ray.get(self.ask_validator("ready")):
                    self._note(trouble)
        except ray.exceptions.RayActorError as error:
            raise CrewError(f"shards and validator could not start: {reason_of(error)}") from error
        self._shards_stand.set()

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
        self._about = [ray.put((self._job, self.replicas.by_shard(), self._run))]

    def introduce(self, replica: p.ReplicaId) -> None:
        """Let workers and the validator know a newcomer that holds what the others hold; nobody waits for that."""
        self._thread(self._introduce, replica)

    def _introduce(self, replica: p.ReplicaId) -> None:
        with self._meeting:  # who connects from here on is given it anyway
            self.replicas.admit(replica)
            workers = [self.workers[slot] for slot in self.ways]
            if self._validator is not None:
                self._brief_validator()
        told = [worker.meet.remote(replica.shard, self.replicas.known(replica)) for worker in workers]
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
        actors = {shard_line(replica): handle for replica, handle in self.replicas.handles.items()}
        actors |= {worker_line(slot): worker for slot, worker in self.workers.items()}
        if line.name in actors:
            ray.kill(actors[line.name])  # a lent one too: its owner replaces it

    # --- workers ----------------------------------------------------------------------------------------------------------------------

    def add_workers(self, count: int, group: str) -> list[int]:
        """Start workers of a declared group; each joins when its process and the shards stand. Returns their slots.

        Raises:
            CrewError: no such group, or more than it may have.
        """
        if group not in self._groups:
            raise CrewError(f"unknown worker group {group!r}; known: {', '.join(self._groups)}")
        with self._hiring:
            return self._hire(count, self._groups[group])

    def _hire(self, count: int, wanted: WorkerGroup) -> list[int]:
        group = wanted.name
        if wanted.max_count is not None and self._num_in_group[group] + count > wanted.max_count:
            raise CrewError(
                f"group {group!r} may have {wanted.max_count} workers, has {self._num_in_group[group]} and was asked for {count} more"
            )
        return [self._take(wanted) for _ in range(count)]

    def take_in(self, lent: Lent) -> None:
        """Have a worker of somebody else's in the crew, until it is let go or asked back; its owner is told in any case."""
        with self._hiring:
            self._take(self._groups[lent.group], lent)

    def _take(self, group: WorkerGroup, lent: Lent | None = None) -> int:
        slot, self.next_slot = self.next_slot, self.next_slot + 1
        self._num_in_group[group.name] += 1
        if lent is None:
            self.workers[slot] = placing.make_worker(group, slot)
        else:
            self.workers[slot] = lent.actor
            self.guests.add(slot, lent)
        if (taken := next((each for each in self.parts if each.part.group == group.name), None)) is not None:
            self.parts.remove(taken)
            self._taken[slot] = taken
        self._accompanying[slot] = self._thread(self._accompany, slot, group)
        return slot

    def machine_came(self, machine: Machine) -> None:
        """Use what has come, as far as the groups may grow; nobody waits for it."""
        hired = hires(machine, self._job.own_groups, self._num_in_group, self._vacant)
        for name, count in hired.items():
            self._vacant[name] = max(0, self._vacant[name] - count)
            self.add_workers(count, name)
        if hired:
            self._note(f"a machine came: {', '.join(f'{count} more of group {name}' for name, count in hired.items())}")

    def machine_goes(self, node: str, left_s: float | None) -> None:
        """Tell the brain of what is on a machine that will be taken away."""
        self._going.add(node)
        self._tell(p.HostDraining(node, None if left_s is None else round(left_s * 1e9)))
        for replica in self.replicas.on(node):
            self._tell(p.ReplicaDraining(replica))
        if node == ray.get_runtime_context().get_node_id():
            self._note("the coordinator's own machine will be taken away: the run can go on from its newest checkpoint then")

    def _accompany(self, slot: int, group: WorkerGroup) -> None:
        """Bring a worker into the crew and stay with it to its end."""
        self._stay_with(slot, group, lambda actor: self._bring_in(slot, group, actor))

    def _bring_in(self, slot: int, group: WorkerGroup, actor: Any) -> Any:
        """Reference to what a worker says at its end."""
        where = ray.get(actor.where.remote())
        check_versions(slot, where)
        self._nodes[slot] = where["node"]
        self._shards_stand.wait()
        self.guests.check(slot)
        with self._meeting:
            connected = actor.connect.remote(slot, self._door, self.replicas.by_shard(), self._run)
            self.ways[slot] = Way(actor)
        for trouble in ray.get(connected):
            self._note(trouble)
        self.ways[slot] = Way(actor, self._exchange.line(worker_line(slot)))
        self.guests.check(slot)
        ray.get(actor.prepare.remote(self._job, group, self._taken.get(slot)))
        self.guests.check(slot)
        ended = actor.run.remote()
        if self._job.collusion:
            self._job.channel.join.remote(slot, group.attack is not None)
        self._tell(joined(slot, where, group))
        if not self.guests.is_wanted(slot):  # since the last look
            self._tell(p.RemoveAsked(slot, at_once=True))
        return ended

    def _stay_with(self, slot: int, group: WorkerGroup, begin: Callable[[Any], Any]) -> None:
        actor, rested, trouble = self.workers[slot], False, ""
        try:
            self.peak_bytes["worker"].append(ray.get(begin(actor)))
            if slot not in self.guests:
                ray.get(actor.rest.remote())
                rested = True
            self._vacant[group.name] += self._nodes.get(slot) in self._going
            self._tell(p.Left(slot, "dismissed"))
        except UnwantedError:
            pass
        except Exception as error:
            trouble = reason_of(error)
            self._lost_worker(slot, group, trouble)
            if not isinstance(error, ray.exceptions.RayError):
                traceback.print_exc()
        finally:
            self._num_in_group[group.name] -= 1
            if self._job.collusion:
                self._job.channel.leave.remote(slot)
            if slot in self.guests:
                self.guests.give_back(slot, trouble, over=self._over())
            elif rested and self._over():
                RESERVE.put(actor)
            else:
                ray.kill(actor)  # its resources are free for whoever comes next

    def _lost_worker(self, slot: int, group: WorkerGroup, reason: str) -> None:
        self.lost_workers[slot] = reason
        self._vacant[group.name] += 1
        self._tell(p.Left(slot, f"died: {reason}", died=True))

    @staticmethod
    def _thread(target: Callable[..., None], *arguments: Any) -> threading.Thread:
        thread = threading.Thread(target=target, args=arguments, name=target.__name__, daemon=True)
        thread.start()
        return thread

    # --- another coordinator ----------------------------------------------------------------------------------------------------------

    def adopt_workers(self, found: Mapping[int, tuple[Any, Working, int]], promised: Mapping[int, str], guests: Mapping[int, Lent]) -> None:
        """Take up the workers that an earlier coordinator made.

        Args:
            found: handle, what it says of itself, and number of this attachment, by slot.
            promised: the groups of those that had not come so far, by slot: others take their places.
            guests: those of the found ones that are lent.
        """
        self._shards_stand.set()
        for slot, (actor, working, attached) in found.items():
            self.workers[slot] = actor
            if slot in guests:
                self.guests.add(slot, guests[slot])
            self.ways[slot] = Way(actor, self._exchange.line(worker_line(slot)))
            self._num_in_group[working.group] += 1
            self._nodes[slot] = working.where["node"]
            ended = actor.until_over.remote(attached)
            group = self._groups[working.group]
            self._accompanying[slot] = self._thread(self._stay_with, slot, group, lambda _, ended=ended: ended)
        for slot, name in promised.items():
            self._num_in_group[name] += 1
            self.workers[slot] = placing.make_worker(self._groups[name], slot)
            self._accompanying[slot] = self._thread(self._accompany, slot, self._groups[name])

    def adopt_validator(self, actor: Any) -> None:
        """Take up the validator that an earlier coordinator made."""
        self._validator = actor
        self._brief_validator()

    # --- the end ----------------------------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """End all at once, those too whose processes have not started yet."""
        for slot in self.workers:
            self._end(slot)
        actors = [*self.replicas.handles.values()]
        for actor in actors if self._validator is None else [*actors, self._validator]:
            ray.kill(actor)

    def _end(self, slot: int) -> None:
        """End a worker; one that is lent leaves the run and lives on."""
        if slot in self.guests:
            self.guests.unwant(slot)
            self.workers[slot].let_go.remote(self._job.run_dir)
        else:
            ray.kill(self.workers[slot])

    def close(self) -> None:
        """Note the peak memory of the shards, then let every actor go."""
        if RESERVE.keeping:
            self._wait_for_leaving()
        self.peak_bytes["shard"] += self.replicas.rest()
        if self._validator is not None:
            let_rest(self._validator) if RESERVE.keeping else ray.kill(self._validator)
        for slot, thread in self._accompanying.items():
            if thread.is_alive():
                self._end(slot)
                ray.kill(self.workers[slot])
        if self._job.collusion:
            ray.kill(self._job.channel)

    def _wait_for_leaving(self) -> None:
        """Workers that are told to go do so at the next micro-batch; who takes longer does not wait for another run."""
        until_s = time.monotonic() + LEAVING_S
        for thread in self._accompanying.values():
            thread.join(max(0.0, until_s - time.monotonic()))


def joined(slot: int, where: Mapping[str, Any], group: WorkerGroup) -> p.Joined:
    """What is told of a worker that is where it says; the kind of its arithmetic is its process's, at the group's precision."""
    kind = where["kind"] and f"{where['kind']}, {group.autocast or 'as the model is'}"
    return p.Joined(slot, where["device"], group.name, where["node"], kind)


def check_versions(slot: int, where: Mapping[str, Any]) -> None:
    """Refuse a worker whose software is another: what it unpickles, computes and sends may mean something else there.

    Args:
        where: what its process says of itself.
    Raises:
        CrewError: names everything that differs, and what to do.
    """
    if wrong := versions.mismatches({f"of worker {slot}": where.get("versions", {})}, versions.here()):
        raise CrewError(f"refused: {'; '.join(wrong)}")


def barriered(job: Job) -> bool:
    """Whether the job's strategy works in rounds."""
    return strategies.build(job.strategy, job.strategy_defaults).barriered

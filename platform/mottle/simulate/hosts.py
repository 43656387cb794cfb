"""The machines that hold the parameters: `mottle.core.shard.Shard` decides, `Numbers` computes, this carries messages."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from mottle.core import protocol as p
from mottle.core import shard as sh
from mottle.core.journal import Reported
from mottle.simulate.clock import MESSAGE, NOBODY, PULL_DONE, PUSH_ARRIVES, Action, Clock
from mottle.simulate.fleet import Servers
from mottle.simulate.network import Alive, Link, Post, arrival_ns, ns
from mottle.simulate.numbers import Numbers, Shipment

Base = tuple[Any, ...]
"""What every shard served of one version."""


@dataclass(slots=True)
class Host:
    """One replica."""

    machine: sh.Shard
    up: Link
    down: Link
    alive: bool = True
    known: bool = True
    """To those who push."""
    moved: int | None = None
    """The fragment of its last step."""
    given_ns: int = 0
    """When what its donor has sent it so far is there: that comes in order."""


@dataclass(slots=True)
class _Call:
    """A message to several replicas and what happens when all have answered; a repeated answer counts once."""

    missing: set[p.ReplicaId]
    answers: dict[p.ReplicaId, Any]
    then: Callable[[Base], None]
    failed: Action | None
    """What a refusal or a death does; None: a dead replica counts as having answered."""

    def answered(self, replica: p.ReplicaId, answer: Any, well: bool = True) -> None:
        if replica not in self.missing:
            return
        self.missing.discard(replica)
        self.answers[replica] = answer
        if not well and self.failed is not None:
            self.missing.clear()
            self.failed()
        elif not self.missing:
            self.then(tuple([self.answers[each] for each in sorted(self.answers)]))


@dataclass(slots=True)
class _Introduction:
    """Pushes that began before everybody knew a newcomer; `then`, when the last of them is through."""

    open: list[_Call]
    then: Action


@dataclass(slots=True)
class Side:
    """Who talks to the hosts: a worker with its links, or the validator, which is next to them."""

    slot: int
    alive: Alive
    up: Link
    down: Link


class Hosts:
    """All replicas.

    Args:
        replicas: that live at the start.
        version: that they hold.
        tell: takes what a shard says to the coordinator, its number, and how much of the log the shard holds then.
        step_ns: time from an order to step (of a fragment) until the version is there, asked for at every step.
        logged: whether the coordinator keeps a log.
        checks: check every machine's invariants after every event.
    """

    def __init__(
        self,
        replicas: Iterable[p.ReplicaId],
        version: p.Version,
        numbers: Numbers,
        servers: Servers,
        clock: Clock,
        post: Post,
        *,
        tell: Callable[[p.Event, Reported | None, int], None],
        step_ns: Callable[[int | None], int],
        logged: bool,
        checks: bool,
    ) -> None:
        self._numbers = numbers
        self._clock = clock
        self._post = post
        self._tell = tell
        self._step_ns = step_ns
        self._logged = logged
        self._save_ns = ns(servers.save_s)
        self._checks = checks
        self._calls: list[_Call] = []
        self._introductions: list[_Introduction] = []
        self._num_open = 32  # calls that were open at the last sweep
        self._readers: dict[tuple[p.ReplicaId, str, int], Callable[[Any, bool], None]] = {}
        self.num_facts = 0
        self._bandwidth = servers.bandwidth_bytes_per_s
        self._version = version
        self._obeying: dict[type, Callable[[p.ReplicaId, Host, Any], None]] = {
            sh.StoreRange: self._store,
            sh.Run: self._run,
            sh.SendUp: self._send_up,
            sh.Serve: self._serve,
            sh.Refuse: self._refuse,
            sh.FreeVersions: lambda replica, host, order: self._numbers.free(replica, order.numbers),
            sh.HandOver: self._hand_over,
            sh.PassOn: lambda replica, host, order: self._give(order.newcomer, order.event, 0),
        }
        self.all: dict[p.ReplicaId, Host] = {}
        for replica in sorted(replicas):
            self.add(replica, known=True)

    # --- what the coordinator does ----------------------------------------------------------------------------------------------------

    def told(self, told: p.Told, replicas: Iterable[p.ReplicaId], alive: Alive | None = None) -> None:
        """Deliver what the coordinator says, `alive` as long as it is."""
        heard = sh.Heard(told)
        for replica in replicas:
            self._post.message(partial(self._handle, replica, heard), alive)

    def add(self, replica: p.ReplicaId, *, known: bool) -> None:
        """A process for a replica; a newcomer's is not `known` before it is introduced."""
        owned, fragments = self._numbers.ranges[replica.shard], self._numbers.fragments
        machine = sh.Shard(replica, owned, version=self._version, fragments=fragments, logged=self._logged)
        self.all[replica] = Host(machine, Link(self._bandwidth), Link(self._bandwidth), known=known)

    def introduce(self, replica: p.ReplicaId, then: Action) -> None:
        """From here on everybody pushes to it as well; `then`, when no push that left it out is under way."""
        self.all[replica].known = True
        pushes = [call for call in self._calls if call.failed is None]
        self._introductions.append(_Introduction(pushes, then))
        self._look_at_introductions()

    def _look_at_introductions(self) -> None:
        for introduction in list(self._introductions):
            introduction.open = [call for call in introduction.open if call.missing]
            if not introduction.open:
                self._introductions.remove(introduction)
                introduction.then()

    def lose(self, replica: p.ReplicaId) -> None:
        """The process is gone; nobody knows yet."""
        self.all[replica].alive = False

    def found_dead(self, replica: p.ReplicaId) -> None:
        """Whoever waited for its answer waits no longer."""
        self._calls = [call for call in self._calls if call.missing]
        for call in list(self._calls):
            call.answered(replica, None, well=False)
        self._look_at_introductions()

    # --- what workers and the validator do --------------------------------------------------------------------------------------------

    def hold(self, name: str) -> bool:
        """Whether a living replica of every shard has taken something of that vector."""
        holding = {replica.shard for replica, host in self.all.items() if host.alive and name in host.machine.held}
        return len(holding) == len(self._numbers.ranges)

    def read(
        self,
        reader: str,
        number: int,
        primaries: Iterable[p.ReplicaId],
        side: Side,
        then: Callable[[Base], None],
        failed: Action,
        fragment: int | None = None,
    ) -> None:
        """Ask the primaries for a version, or a fragment of it; `then` when all of it has arrived."""
        asked = tuple(primaries)
        call = self._remember(_Call(set(asked), {}, then, failed))
        for replica in asked:
            self._readers[replica, reader, number] = partial(self._served, call, replica, side, fragment)
            self._post.message(partial(self._handle, replica, sh.ReadAsked(reader, number, fragment)))

    def _served(self, call: _Call, replica: p.ReplicaId, side: Side, fragment: int | None, values: Any, well: bool) -> None:
        answer = partial(call.answered, replica, values, well)
        host = self.all[replica]
        if not well:
            self._post.message(answer, lambda: host.alive)
            return
        time_ns = arrival_ns(self._numbers.version_bytes(replica.shard, fragment), self._clock.now_ns, side.down, host.up)
        self._post.at(time_ns, PULL_DONE, side.slot, answer, lambda: host.alive)

    def push(self, name: str, side: Side, samples: int, compute_ns: int, shipment: Shipment, then: Action) -> None:
        """Send a vector to every living replica; `then` when each has it or is known to be dead, said back to a sender that lives."""
        targets = [replica for replica, host in self.all.items() if host.alive and host.known]
        call = self._remember(_Call(set(targets), {}, lambda _: self._post.message(then, side.alive), None))
        for replica in targets:
            host = self.all[replica]
            time_ns = arrival_ns(shipment.num_bytes[replica.shard], self._clock.now_ns, side.up, host.down)
            deliver = partial(self._arrived, call, replica, name, side.slot, samples, compute_ns, shipment)
            self._post.at(time_ns, PUSH_ARRIVES, side.slot, deliver, side.alive)

    def _arrived(
        self, call: _Call, replica: p.ReplicaId, name: str, sender: int, samples: int, compute_ns: int, shipment: Shipment
    ) -> None:
        owned = self.all[replica].machine.owned_of(shipment.fragment)
        payload = shipment.payloads[replica.shard]
        said = (name, sender, owned.start, owned.stop, samples, compute_ns, payload, shipment.weight, shipment.fragment)
        self._handle(replica, sh.Pushed(*said))
        call.answered(replica, None)
        if self._introductions:
            self._look_at_introductions()

    def _remember(self, call: _Call) -> _Call:
        """Calls that are done are forgotten in bulk, once they are most of the list."""
        if len(self._calls) > 64 and len(self._calls) > 2 * self._num_open:
            self._calls = [each for each in self._calls if each.missing]
            self._num_open = len(self._calls)
        self._calls.append(call)
        return call

    # --- one replica ------------------------------------------------------------------------------------------------------------------

    def _handle(self, replica: p.ReplicaId, event: sh.ShardEvent) -> None:
        host = self.all[replica]
        if not host.alive:
            return
        self.num_facts += 1
        for order in host.machine.handle(event):
            self._obeying[type(order)](replica, host, order)
        if self._checks:
            host.machine.check()

    def _store(self, replica: p.ReplicaId, host: Host, order: sh.StoreRange) -> None:
        self._handle(replica, self._numbers.store(replica, order))

    def _run(self, replica: p.ReplicaId, host: Host, order: sh.Run) -> None:
        command, save = order.command, True
        if isinstance(command, p.Step | p.Replace):
            host.moved = command.fragment if isinstance(command, p.Step) else None
            save = host.machine.wants_saved(command)
        self._handle(replica, self._numbers.run(replica, command, save=save))
        if isinstance(command, p.Snapshot):
            saved = partial(self._handle, replica, sh.Saved(p.SnapshotDone(replica, command.checkpoint)))
            self._clock.at(self._clock.now_ns + self._save_ns, MESSAGE, NOBODY, saved)
        elif isinstance(command, p.Fetch):
            ended = sh.FetchEnded(command.name, self._numbers.fetch(replica, command))
            time_ns = arrival_ns(self._numbers.version_bytes(replica.shard), self._clock.now_ns, Link(None), host.down)
            self._post.at(time_ns, PULL_DONE, NOBODY, partial(self._handle, replica, ended), lambda: host.alive)

    def _send_up(self, replica: p.ReplicaId, host: Host, order: sh.SendUp) -> None:
        self._say(order.event, order.number, host, self._step_ns(host.moved) if type(order.event) is p.Stepped else 0)

    def _serve(self, replica: p.ReplicaId, host: Host, order: sh.Serve) -> None:
        values = self._numbers.read(replica, order.number, order.fragment)
        self._readers.pop((replica, order.reader, order.number), _nobody)(values, True)

    def _refuse(self, replica: p.ReplicaId, host: Host, order: sh.Refuse) -> None:
        self._readers.pop((replica, order.reader, order.number), _nobody)(None, False)

    def _hand_over(self, replica: p.ReplicaId, host: Host, order: sh.HandOver) -> None:
        newcomer = order.newcomer
        self._numbers.hand_over(replica, newcomer)
        self._give(newcomer, sh.TakenOver(order.holding), self._numbers.version_bytes(newcomer.shard))

    def _give(self, newcomer: p.ReplicaId, event: sh.ShardEvent, num_bytes: int) -> None:
        """Over the donor's own connection to it, where nothing is overtaken."""
        host = self.all[newcomer]
        took_ns = 0 if self._bandwidth is None else ns(num_bytes / self._bandwidth)
        host.given_ns = max(self._clock.now_ns, host.given_ns) + took_ns
        self._clock.at(host.given_ns, MESSAGE, NOBODY, partial(self._handle, newcomer, event))

    def _say(self, event: p.Event, number: int, host: Host, delay_ns: int) -> None:
        machine = host.machine
        numbered = (Reported(machine.replica, number), machine.log.stop) if self._logged else (None, 0)
        tell = partial(self._tell, event, *numbered)
        if delay_ns:
            self._post.at(self._clock.now_ns + delay_ns, PUSH_ARRIVES, NOBODY, tell, lambda: host.alive)
        else:
            self._post.message(tell, lambda: host.alive)


def _nobody(values: Any, well: bool) -> None:
    """In the place of a reader that has its answer already."""


def ring_ns(num_workers: int, num_bytes: int, links: Iterable[Link]) -> int:
    """Time of a ring all-reduce (`heterogeneous.md` 10.1); 0 for one worker."""
    links = list(links)
    if num_workers < 2:
        return 0
    slowest = min((link.bandwidth_bytes_per_s for link in links if link.bandwidth_bytes_per_s is not None), default=None)
    part_s = 0.0 if slowest is None else num_bytes / num_workers / slowest
    return ns(2 * (num_workers - 1) * (max(link.latency_ns for link in links) / 1e9 + part_s))

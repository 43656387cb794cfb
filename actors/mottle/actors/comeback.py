"""A coordinator's new process takes its run over from the one that was lost: `mottle.core.takeover` says how, this finds and asks.

The processes of the run live on meanwhile, and compute. They are found by their names, for nothing else of the coordinator is left.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from itertools import chain
from typing import Any

import ray
from ray import cloudpickle

from mottle.actors.charter import Charter, read_charter
from mottle.actors.children import Child, children
from mottle.actors.coordination import Found, Left, Session, let_call
from mottle.actors.exchange import Exchange
from mottle.actors.guests import Lent
from mottle.actors.job import Job
from mottle.actors.lines import Line, Message
from mottle.actors.logbook import entries_of
from mottle.actors.reports import RunHandle
from mottle.actors.reserve import RESERVE
from mottle.actors.shard import Fence
from mottle.actors.worker import NEW, Working
from mottle.core.takeover import Takeover, TakeoverError, longest

PATIENCE_S = 10.0
"""Whoever has not answered by then hangs, and is lost."""
GRACE_S = 0.5
"""For workers that the log does not know: most likely their processes have not started yet."""


class Ears:
    """Of an exchange that is called before there is anybody to listen: what is said meanwhile is said again."""

    def __init__(self) -> None:
        self.session: Session | None = None

    def hear(self, messages: list[Message]) -> None:
        if self.session is not None:
            self.session.hear(messages)

    def lost(self, line: Line) -> None:
        if self.session is not None:
            self.session.lost(line)


class Questions:
    """One question to many actors, asked at once."""

    def __init__(self, actors: Mapping[str, Any], ask: Callable[[Any], Any]) -> None:
        self._open = {ask(actor): name for name, actor in actors.items()}
        self.answers: dict[str, Any] = {}

    def put(self, actors: Mapping[str, Any], ask: Callable[[Any], Any]) -> None:
        """Ask further actors the same."""
        self._open |= {ask(actor): name for name, actor in actors.items()}

    def wait(self, timeout_s: float, enough: Callable[[dict[str, Any]], bool] = lambda answers: False) -> dict[str, Any]:
        """The answers of those who live, by name, when all have come, or enough of them, or the time is over."""
        until_s = time.monotonic() + timeout_s
        while self._open and not enough(self.answers) and (left_s := until_s - time.monotonic()) > 0:
            done, _ = ray.wait(list(self._open), timeout=left_s)
            for reference in done:
                name = self._open.pop(reference)
                try:
                    self.answers[name] = ray.get(reference)
                except ray.exceptions.RayError:
                    continue  # dead
        return self.answers


def come_back(me: Any, stand: Callable[[Session, str], None]) -> Charter:
    """Go on with the run of this actor.

    Args:
        me: its handle.
        stand: given the session when it may be spoken to, and the run's token.
    Raises:
        TakeoverError: there is nothing to go on from.
    """
    ears = Ears()
    exchange = Exchange(ears.hear, ears.lost)
    found = {child.name: child for child in children()}
    handles = {}
    for child in list(found.values()):
        with suppress(ValueError):  # it has just ended
            handles[child.name] = child.handle
    found = {name: found[name] for name in handles}
    adopted: set[str] = set()
    try:
        return _take_over(me, stand, ears, exchange, found, handles, adopted)
    except BaseException:
        exchange.close()
        adopted.clear()
        raise
    finally:  # whoever has no part in the run, or is not to be reached
        for name in handles.keys() - adopted:
            ray.kill(handles[name])


def _take_over(
    me: Any,
    stand: Callable[[Session, str], None],
    ears: Ears,
    exchange: Exchange,
    found: Mapping[str, Child],
    handles: Mapping[str, Any],
    adopted: set[str],
) -> Charter:
    door, trouble = let_call(exchange)
    shards = {name: handles[name] for name, child in found.items() if child.role == "shard"}
    workers = {name: handles[name] for name, child in found.items() if child.role == "worker"}
    attaching = Questions(workers, lambda worker: worker.attach.remote(door))
    epoch, fences = _fence(shards, door)
    best = longest(fence.standing for fence in fences.values())
    source = next(name for name, fence in fences.items() if fence.standing == best)
    log, charter = ray.get(shards[source].kept.remote()), _charter(shards, fences)
    if log.base is None:
        raise TakeoverError("the coordinator was lost, and its state could not be saved at the start, or it had no time to do so")
    left: Left = cloudpickle.loads(log.base.content)
    RESERVE.keeping = charter.keeping
    session = Session(charter.job, [], None, RunHandle(me, charter.run), left, exchange)
    if trouble:
        session.note(trouble)
    takeover = Takeover(left.brain, left.journal, [fence.standing for fence in fences.values()])
    session.replay(takeover, chain.from_iterable(entries_of(page, log.base.at) for page in log.pages))
    if not left.brain.started:
        raise TakeoverError("the coordinator was lost before training had begun")
    lent = _lent(charter.job)
    attaching.put({name: each.actor for name, (each, _) in lent.items()}, lambda worker: worker.attach.remote(door))
    at_work, promised = _workers(attaching, found, takeover)
    replicas = {fence.standing.replica: (shards[name], fence.door) for name, fence in fences.items()}
    wanted = {replica: each for replica, each in replicas.items() if replica in left.brain.replicas}
    validator = next((handles[name] for name, child in found.items() if child.role == "validator"), None)
    adopted |= {name for name, fence in fences.items() if fence.standing.replica in wanted} | at_work.keys()
    adopted |= {name for name, child in found.items() if child.role in ("validator", "channel")}
    heard_s, lost_s = (min(getattr(fence, name) for fence in fences.values()) for name in ("heard_s", "lost_s"))
    actors = {**handles, **{name: each.actor for name, (each, _) in lent.items()}}
    by_slot = {working.slot: (actors[name], working, number) for name, (working, number) in at_work.items()}
    guests = {at_work[name][0].slot: each for name, (each, _) in lent.items() if name in at_work}

    def listen() -> None:
        ears.session = session
        stand(session, charter.run)

    session.go_on(takeover, epoch, Found(wanted, by_slot, promised, guests, validator, log.base, heard_s, lost_s), door, listen)
    for name, (each, recall) in lent.items():
        if name not in at_work:
            each.give_back()
        elif recall is not None:  # whether the lost one heard of that is not known
            session.send_back(each.name, each.to, recall)
    return charter


def _lent(job: Job) -> dict[str, tuple[Lent, bool | None]]:
    """Workers that are lent to the run, by names of their own, and whether they were asked back (at once)."""
    if job.lender is None:
        return {}
    try:
        lent: list[tuple[Lent, bool | None]] = ray.get(job.lender.lent_to.remote(job.run_dir), timeout=PATIENCE_S)
    except ray.exceptions.RayError:
        return {}  # the fleet is gone, and with it the workers
    return {f"lent/{each.name}": (each, recall) for each, recall in lent}


def _fence(shards: Mapping[str, Any], door: Any) -> tuple[int, dict[str, Fence]]:
    """The new epoch, and what the replicas say that obey it."""
    epochs = Questions(shards, lambda shard: shard.epoch.remote()).wait(PATIENCE_S)
    serving = {name: each for name, each in epochs.items() if each is not None}
    epoch = 1 + max(serving.values(), default=0)
    fences = Questions({name: shards[name] for name in serving}, lambda shard: shard.fence.remote(epoch, door)).wait(PATIENCE_S)
    if not fences:
        raise TakeoverError("the coordinator was lost, and there is no shard that holds its log")
    return epoch, fences


def _charter(shards: Mapping[str, Any], fences: Iterable[str]) -> Charter:
    kept = Questions({name: shards[name] for name in fences}, lambda shard: shard.charter.remote())
    answers = kept.wait(PATIENCE_S, lambda answers: any(answer is not None for answer in answers.values()))
    published = next((answer for answer in answers.values() if answer is not None), None)
    if published is None:
        raise TakeoverError("the coordinator was lost, and with it every replica of shard 0, which knew the job")
    return read_charter(published)


def _workers(attaching: Questions, found: Mapping[str, Child], takeover: Takeover) -> tuple[dict[str, tuple[Working, int]], dict[int, str]]:
    """Those at work, by name; and the groups of those that are still to come, by slot."""
    members = takeover.brain.members
    here = {member.slot for member in members.all if member.state != "left"}
    attaching.wait(PATIENCE_S, lambda answers: here <= {each[0].slot for each in answers.values() if isinstance(each, tuple)})
    answers = attaching.wait(GRACE_S)
    at_work = {name: each for name, each in answers.items() if isinstance(each, tuple)}
    promised = {
        int(child.about[0]): child.about[1]
        for name, child in found.items()
        if child.role == "worker" and answers.get(name, NEW) == NEW and members.known(int(child.about[0])) is None
    }
    return at_work, promised

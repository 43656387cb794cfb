"""A worker that is a gang: its leader, which to the crew is the worker, and the followers that it made, each with a stage of the model.

The leader's machine decides as any worker's does; what a worker does at its bench, a gang does at all of its benches at once. A follower
that dies takes the order at hand with it, which goes back to the coordinator; another one is made in its place before the next order
begins. Where the cluster has no room for it, the model is cut anew for those that are left, who read their new ranges from the shards, and
again when there is room. A leader that dies takes its followers along: the gang leaves the crew as one worker.
"""

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray

from mottle import compression
from mottle.actors import hosts
from mottle.actors.channels import Formation, TornError, open_store
from mottle.actors.exchange import Door
from mottle.actors.follower import Follower
from mottle.actors.gang_copies import INNER_LOST, keepers
from mottle.actors.gang_cut import Cutting
from mottle.actors.gang_state import Patch, StageFailedError, is_inner
from mottle.actors.job import Job, WorkerGroup, placed_config
from mottle.actors.launching import options_of
from mottle.actors.link import Replica, Shards
from mottle.actors.probing import Report, report
from mottle.actors.reasons import reason_of
from mottle.actors.reports import RunHandle
from mottle.actors.seat import Seat
from mottle.actors.stage_bench import Counted
from mottle.actors.way import Way
from mottle.core import protocol as p
from mottle.core import worker as w
from mottle.placement import Link
from mottle.placement.staging import Drift
from mottle.placement.staging.drifting import STEPS

_remote: Any = ray.remote  # its annotations leave out concurrency_groups
_FOLLOWER = _remote(concurrency_groups={"mail": 1, "run": 1})(Follower)

ROOM_S = 30.0
"""A follower in the place of a lost one is waited for so long; then the others go on without it."""

MOST_PAIRS = 28
"""Pairs of processes whose links are timed, all of up to 8 processes."""


class Gang:
    """The leader's side; to a worker's session what `Bench` is.

    Args:
        slot: the worker's number in the crew.
        replicas: of the shards, for the followers to call.
        shards: the leader's own ways to them.
        door: of the coordinator's exchange.
        run: that they work for.
        me: the leader's actor, for followers that send through Ray.
        taken_up: what it goes on from.
    Raises:
        ConfigError: the model has no graph that could be cut into stages.
    """

    def __init__(
        self,
        slot: int,
        job: Job,
        group: WorkerGroup,
        replicas: Shards,
        shards: dict[int, list[Way]],
        door: Door | None,
        run: RunHandle,
        me: Any,
        taken_up: Sequence[Patch] = (),
    ) -> None:
        config = placed_config(group)
        assert config is not None
        self._slot, self._job, self._group, self._config = slot, job, group, config
        self._replicas = {shard: list(known) for shard, known in replicas.items()}
        self._door, self._run, self._me = door, run, me
        self._reports: dict[int, Report] = {0: report(use_gpu=bool(group.num_gpus))}
        """Of those that take part, by rank; the leader's is 0."""
        self._followers: dict[int, Any] = {}
        self._coming: dict[int, Any] = {}
        """Reports of followers that Ray has not started yet, by rank."""
        self._seat = Seat(slot, job, group, shards, self._reports[0].host)
        self._store: Any = None
        self._formation = Formation(0, (), self._reports[0].host, 0)
        self._cutting = Cutting(job, group, config)
        self._order: list[int] = []
        """Rank of the process in each place."""
        self._stands = False
        self._weight, self._compute_ns = 0.0, 0
        self._put_by: list[w.RunPart] = []
        self.counted: list[Counted] = []
        """Of the last round of micro-batches, by stage."""
        self._drift: Drift | None = None
        """Of the cut in force; None where nobody asks."""
        self._taken_up: list[Patch] | None = list(taken_up)
        """What stages that are about to stand go on from; None once they do, and have it themselves."""
        self._patience = STEPS
        """Rounds in a row that take too long before the cut is looked at again."""
        self._before, self._forgets = 0, False
        """The first order that nothing is kept of; and whether nothing that is kept is of use to it."""
        self._holds_back, self._entrusted = compression.remembers(compression.build(job.codec)), True
        """Whether the codec keeps something; and whether what is kept now is in a second process as well."""

    # --- standing ---------------------------------------------------------------------------------------------------------------------

    def form(self, patience_s: float | None = None) -> None:
        """Have a process for every stage, or as many as there are, cut the model for them and let them meet.

        Once `deliver` reaches this gang: its processes speak to each other meanwhile.

        Args:
            patience_s: how long those that are new are waited for; None: for ever.
        Raises:
            ConfigError: the model cannot be cut into the stages that the group declares.
            InfeasibleError: they do not fit the processes' memory.
        """
        self._bury()
        if self._taken_up is None:
            self._taken_up = self._rescue()
        self._stands = False
        for rank in range(1, self._config.stages):
            if rank not in self._followers:
                self._call(rank)
        self._admit(patience_s)
        ranks = sorted(self._reports)
        if self._cutting.wants_look(ranks):
            self._look(ranks)
        told = self._cutting.settle(self._reports)
        cut, self._order = self._cutting.cut, self._cutting.order
        formation, peers = self._next_formation(self._order)
        self._at_once(lambda stage, actor: actor.take.remote(cut, stage), lambda stage: self._seat.take(cut, stage))
        self._at_once(
            lambda stage, actor: actor.join.remote(formation, peers),
            lambda stage: self._seat.join(formation, peers, self._store),
        )
        self._all("take_up", self._taken_up)
        if self._taken_up:
            self._entrust(self._before - 1)
        self._taken_up, self._stands = None, True
        if self._watches:
            self._drift = self._cutting.watch(self._patience)
        print(f"gang of {len(self._order)} stages, formation {formation.number}: {told}", flush=True)

    def _next_formation(self, order: Sequence[int]) -> tuple[Formation, list[Any]]:
        """A further one of these ranks, and their actors."""
        if self._store is None and self._config.transport == "gloo":
            self._store = open_store(self._formation.host)
        port = 0 if self._store is None else self._store.port
        self._formation = Formation(self._formation.number + 1, tuple(sorted(order)), self._formation.host, port)
        return self._formation, [self._me if rank == 0 else self._followers[rank] for rank in order]

    def _look(self, ranks: Sequence[int]) -> None:
        """Let the processes time the ways between them, each pair by itself, and the model's ops, all at once, where that is asked for."""
        self._order = list(ranks)
        formation, peers = self._next_formation(ranks)
        self._at_once(
            lambda place, actor: actor.try_out.remote(formation, place, peers),
            lambda place: self._seat.try_out(formation, place, peers, self._store),
        )
        self._cutting.seen([self._time_link(a, b) for a, b in list(itertools.combinations(range(len(ranks)), 2))[:MOST_PAIRS]])
        if self._config.calibrate == "ops":
            found = self._at_once(lambda _, actor: actor.rehearse.remote(), lambda _: self._seat.rehearse())
            self._cutting.profiles = dict(zip(ranks, found, strict=True))

    def _time_link(self, a: int, b: int) -> Link:
        """Between two places of a formation; whoever is first begins."""
        found: list[Link] = self._at_once(
            lambda place, actor: actor.time_link.remote(a + b - place, begins=place == a),
            lambda place: self._seat.time_link(a + b - place, begins=place == a),
            only=(a, b),
        )
        return found[0]

    def _rescue(self) -> list[Patch]:
        """What the gang keeps, as it was before an order that came to nothing; of a process that is lost, from whoever has a copy."""
        found: dict[int, list[Patch]] = {0: self._seat.do("kept", self._before)}
        for rank, actor in self._living():
            try:
                found[rank] = ray.get(actor.do.remote("kept", self._before))
            except ray.exceptions.RayError:
                continue  # it has no stage any more, or died just now
        lost = set(self._order) - found.keys()
        copies = {rank: copy for rank in lost if (copy := self._copy_of(rank)) is not None}
        patches = [patch for each in (*copies.values(), *found.values()) for patch in each]
        if len(copies) < len(lost) and any(map(is_inner, patches)):
            print(INNER_LOST, flush=True)
            return [patch for patch in patches if not is_inner(patch)]
        return patches

    def _copy_of(self, rank: int) -> list[Patch] | None:
        """What a lost process kept."""
        if (own := self._seat.copies.of(rank, self._before)) is not None:
            return own
        for _, actor in self._living():
            try:
                copy: list[Patch] | None = ray.get(actor.copy_of.remote(rank, self._before))
            except ray.exceptions.RayError:
                continue  # it died just now
            if copy is not None:
                return copy
        return None

    def _living(self) -> list[tuple[int, Any]]:
        """Followers that have a stage, as far as is known."""
        return [(rank, self._followers[rank]) for rank in self._order if rank in self._followers and rank not in self._coming]

    def _bury(self) -> None:
        """Forget followers that are dead."""
        asked = {rank: follower.lives.remote() for rank, follower in self._followers.items() if rank not in self._coming}
        for rank, answer in asked.items():
            try:
                ray.get(answer)
            except ray.exceptions.RayActorError:
                del self._followers[rank]
                self._reports.pop(rank, None)
                self._cutting.forget(rank)
                self._patience = STEPS

    def _call(self, rank: int) -> None:
        """Have Ray start a follower."""
        taken = [self._reports[other].node for other in sorted(self._reports)] if self._config.hosts == "apart" else []
        follower = self._followers[rank] = _make_follower(self._group, taken)
        name = f"worker/{self._slot}.{rank}"
        self._coming[rank] = follower.prepare.remote(name, self._slot, self._job, self._group, self._replicas, self._door, self._run)
        if self._config.hosts == "apart":
            self._admit(ROOM_S)  # where it went decides where the next one may go

    def _admit(self, patience_s: float | None) -> None:
        """Followers that have come take part."""
        until_s = None if patience_s is None else time.monotonic() + patience_s
        for rank, coming in list(self._coming.items()):
            left_s = None if until_s is None else max(0.0, until_s - time.monotonic())
            if not ray.wait([coming], timeout=left_s)[0]:
                continue
            del self._coming[rank]
            try:
                self._reports[rank] = ray.get(coming)
            except ray.exceptions.RayActorError:
                del self._followers[rank]

    # --- all at once ------------------------------------------------------------------------------------------------------------------

    def _at_once(self, ask: Callable[[int, Any], Any], own: Callable[[int], Any], only: Sequence[int] | None = None) -> list[Any]:
        """What every stage answers, in order.

        Args:
            ask: a reference to a follower's answer, from its stage and actor.
            own: the leader's.
            only: of these; None: of all.
        Raises:
            The leader's own error where that is at the bottom of it, else StageFailedError.
        """
        places = {stage: rank for stage, rank in enumerate(self._order) if only is None or stage in only}
        stages = {stage: rank for stage, rank in places.items() if rank}
        answers = {stage: ask(stage, self._followers[rank]) for stage, rank in stages.items()}
        watch = threading.Thread(target=self._watch, args=(list(answers.values()),), name="gang-watch", daemon=True)
        if self._config.transport == "ray":
            watch.start()
        found: dict[int, Any] = {}
        errors: dict[int, Exception] = {}
        mine = next((stage for stage, rank in places.items() if rank == 0), None)
        if mine is not None:
            try:
                found[mine] = own(mine)
            except Exception as error:
                errors[mine] = error
                self._tear()
        for stage, answer in answers.items():
            try:
                found[stage] = ray.get(answer)
            except ray.exceptions.RayError as error:
                errors[stage] = error
                self._tear()
        if errors:
            self._stands = False
            self._blame(errors, mine)
        return [found[stage] for stage in sorted(found)]

    def _blame(self, errors: dict[int, Exception], mine: int | None) -> None:
        """Raise what is at the bottom of several errors: not that another stage was waited for in vain."""
        stage, error = min(errors.items(), key=lambda item: (isinstance(item[1], TornError), item[0]))
        if stage == mine:
            raise error
        raise StageFailedError(f"stage {stage}: {reason_of(error)}") from error

    def _watch(self, answers: list[Any]) -> None:
        """Through Ray nobody hears of a peer that is gone: tell them."""
        for answer in answers:
            try:
                ray.get(answer)
            except ray.exceptions.RayError:
                self._tear()
                return

    def _tear(self) -> None:
        """Nobody waits any more for what other stages send through Ray."""
        if self._config.transport != "ray":
            return
        self._seat.inbox.tear(self._formation.number)
        for follower in self._followers.values():
            follower.tear.remote(self._formation.number)

    def _all(self, method: str, *arguments: Any) -> list[Any]:
        """Call a method of every bench."""
        return self._at_once(lambda stage, actor: actor.do.remote(method, *arguments), lambda stage: self._seat.do(method, *arguments))

    # --- what a bench does ------------------------------------------------------------------------------------------------------------

    def deliver(self, formation: int, stage: int, tag: int, tensors: Any) -> None:
        """What a follower sent through Ray."""
        self._seat.inbox.put(formation, stage, tag, tensors)

    def close(self) -> None:
        """Let the followers go."""
        for follower in self._followers.values():
            ray.kill(follower)
        self._seat.close()

    def meet(self, shard: int, newcomer: Replica) -> None:
        """Let the followers know a further replica of a shard; return once no push is under way that leaves it out."""
        self._replicas[shard].append(newcomer)
        for follower in [each for rank, each in self._followers.items() if rank not in self._coming]:
            try:
                ray.get(follower.meet.remote(shard, newcomer))
            except ray.exceptions.RayError:
                continue  # whoever has died pushes nothing any more
        self._seat.bench.await_push()

    def load(self, reader: str, number: int) -> None:
        """Every stage reads its own ranges of a version; the gang stands again first, where it did not."""
        come = self._coming and ray.wait(list(self._coming.values()), timeout=0)[0]
        if not self._stands or come or self._is_better_cut():
            self.form(ROOM_S)
        parts = self._seat.bench.divided(reader, number)
        self._at_once(
            lambda stage, actor: actor.do.remote("load", parts[stage]),
            lambda stage: self._seat.do("load", parts[stage]),
        )

    @property
    def _watches(self) -> bool:
        """Whether rounds are held against their prediction; declared delays are in none, and with `dsp` rounds overlap."""
        return self._config.replan and not self._config.stage_delay_s and self._config.schedule != "dsp"

    def _is_better_cut(self) -> bool:
        """Whether rounds have been taking so much longer than predicted that the model is to be cut anew, and that is worth it."""
        if self._drift is None or not self._drift.due or sorted(self._reports) != sorted(self._order):
            return False
        self._patience *= 2  # whatever comes of it: what cannot be mended is not looked at again and again
        if self._cutting.improve(self._reports, self._drift):
            return True
        self._drift = self._cutting.watch(self._patience)
        return False

    def begin(self, work_id: int) -> None:
        """An order begins with what is kept when it is cleared for."""
        self._before = work_id

    def forget(self) -> None:
        """Nothing of what is kept is of use to the next order."""
        self._forgets = True

    def kept(self, before: int) -> list[Patch]:
        """What all stages kept before the first order from that one on.

        Raises:
            StageFailedError, TornError: one of them is gone.
        """
        return [patch for patches in self._all("kept", before) for patch in patches]

    def rewind(self) -> None:
        """See `Bench.rewind`."""
        self._all("rewind")

    def clear(self, local: p.LocalSteps | None) -> None:
        """See `Bench.clear`."""
        if self._forgets:
            self._all("forget")
            self._forgets = self._entrusted = False
        if not self._entrusted and self._keeps(local):  # the order before was never pushed
            self._entrust(self._before - 1)
        self._all("clear", self._before, local)
        self._weight, self._compute_ns, self._put_by = 0.0, 0, []

    def prefetch(self, epoch: int, start: int, stop: int) -> None:
        """See `Bench.prefetch`."""
        self._mention("prefetch", epoch, start, stop)

    def unfetch(self, epoch: int, start: int, stop: int) -> None:
        """See `Bench.unfetch`."""
        self._mention("unfetch", epoch, start, stop)

    def _mention(self, method: str, *arguments: Any) -> None:
        """Nobody waits for an answer, and nothing is lost where it is not heard."""
        if not self._stands:
            return
        getattr(self._seat.bench, method)(*arguments)
        for rank in self._order:
            if rank:
                self._followers[rank].mention.remote(method, *arguments)

    def compute(self, order: w.RunPart, should_stop: Callable[[], bool]) -> int:
        """See `Bench.compute`; between rounds of micro-batches the order can be stopped, with `dsp` before it begins.

        With `dsp` the inner steps of a round overlap, so its parts are put by until the last of them is here.
        """
        if self._config.schedule == "dsp":
            return 0 if should_stop() else self._compute_stale(order)
        began_ns, position = time.monotonic_ns(), order.start
        a_round = self._config.microbatches * self._job.micro_batch_size
        while position < order.stop and not should_stop():
            end = min(position + a_round, order.stop)
            self.counted = self._all("compute", order.epoch, position, end, order.coefficient, order.stop)
            self._weight += sum(each.weight for each in self.counted)
            if self._drift is not None and end - position == a_round:
                self._drift.observe(max(each.wall_ns for each in self.counted), [each.busy_ns for each in self.counted])
            position = end
        if order.step is not None and position == order.stop:
            self._all("step", order.step, self._weight)
            self._weight, self._entrusted = 0.0, False
        self._compute_ns += time.monotonic_ns() - began_ns
        return position - order.start

    def _compute_stale(self, order: w.RunPart) -> int:
        self._put_by.append(order)
        steps = [part.step for part in self._put_by if part.step is not None]
        if steps and len(steps) == steps[0].steps:
            self._flush()
        return order.stop - order.start

    def _flush(self) -> None:
        """Compute what was put by."""
        began_ns, parts = time.monotonic_ns(), self._put_by
        self._put_by = []
        if parts:
            self.counted = self._all("compute_stale", parts)
            self._entrusted = False
        self._compute_ns += time.monotonic_ns() - began_ns

    def push(self, order: w.Push) -> None:
        """See `Bench.push`; every stage sends its own ranges, once a second process has what the next order begins with."""
        self._flush()  # of an order that was cut short
        name = p.update_name(order.work_id)
        if self._keeps(order.local):
            self._all("conclude", self._weight, order.local)
            self._entrust(order.work_id)
            self._all("send", name, order.samples, self._compute_ns)
        else:
            self._all("push", name, order.samples, self._weight, self._compute_ns, order.local)
        self._before = order.work_id + 1

    def _keeps(self, local: p.LocalSteps | None) -> bool:
        """Whether stages keep anything from order to order."""
        return self._holds_back or local is not None

    def _entrust(self, after: int) -> None:
        """Have a copy of what every follower keeps in another process.

        Args:
            after: the last order that went into it.
        """
        keeper_of = keepers(self._order, {rank: report.node for rank, report in self._reports.items()})

        def ask(stage: int, actor: Any) -> Any:
            rank, packed = self._order[stage], actor.do.remote("entrusted")
            keeper = self._followers.get(keeper_of[rank])
            return packed if keeper is None else keeper.hold.remote(rank, after, packed)

        for stage, packed in enumerate(self._at_once(ask, lambda stage: None)):
            if packed is not None:
                self._seat.copies.hold(self._order[stage], after, packed)
        self._entrusted = True


def _make_follower(group: WorkerGroup, taken: Sequence[str]) -> Any:
    """A further process of a worker that is a gang: the same resources, on none of the hosts that are taken."""
    options = options_of(group)
    if taken:
        apart = {hosts.ID_LABEL: f"!in({','.join(taken)})"}
        options["label_selector"] = {**options.get("label_selector", {}), **apart}
    return _FOLLOWER.options(**options).remote()

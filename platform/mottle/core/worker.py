"""A worker as a pure machine: orders in hand, what to compute next, when to stop, push or give back.

The driver runs the engine in a thread of its own. It executes the one order that it is given at a time, and at every micro-batch boundary
asks `interrupted`. Knows no tensor, no clock and no Ray.

An order that grows until a version exists (`VersionAfter`) has a least size, which a cut does not stop: its first samples are a piece of
their own, so the driver need not know of it. Told to stop before it has begun, it still computes those.

An order of local steps is cut into pieces where its steps end; the driver takes the step that a piece names when the piece is whole. A cut
waits for the end of the step at hand, so an update is made of whole steps.

An order that sends one fragment (`LocalSteps.send`) is pushed while the next one is computed, which goes on from where it ended
(`follows`); whatever breaks that chain gives the orders behind it back. One that adopts a fragment (`adopt_after`) waits at that step until
the fragment has been read.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mottle.core.messages import message
from mottle.core.protocol import Compute, LocalSteps, Mix, Version, VersionAfter, WorkReturned

# --- facts ------------------------------------------------------------------------------------------------------------------------------


@message
class Ordered:
    compute: Compute
    epoch: int = 0


@message
class CutAsked:
    work_id: int
    epoch: int = 0


@message
class AbandonAsked:
    work_id: int
    epoch: int = 0


@message
class DismissAsked:
    epoch: int = 0


@message
class LetGo:
    """The owner of the worker's process wants it back: the same, whoever coordinates the run."""


@message
class Attached:
    """A new coordinator has taken over. These orders are open; whatever else is in hand it does not know of, or no longer wants."""

    epoch: int
    orders: tuple[Compute, ...]
    cut: tuple[int, ...]
    """Of them, those that are to be pushed as they are."""


@message
class MixAsked:
    mix: Mix
    epoch: int = 0


@message
class FragmentRead:
    """What the order is to mix in has come, or cannot be had."""

    work_id: int
    error: str = ""


@message
class SaveAsked:
    checkpoint: int
    before: int
    epoch: int = 0


@message
class Loaded:
    """The parameters of the order's base version are in place."""

    work_id: int


@message
class Computed:
    """Positions of part `part` up to `stop` are in the accumulator."""

    work_id: int
    part: int
    stop: int


@message
class PushConfirmed:
    """Every shard has its range; the accumulator is free."""

    work_id: int


@message
class WorkFailed:
    """Loading, computing or pushing failed."""

    work_id: int
    reason: str


WorkerEvent = (
    Ordered
    | CutAsked
    | AbandonAsked
    | DismissAsked
    | LetGo
    | Attached
    | MixAsked
    | FragmentRead
    | SaveAsked
    | Loaded
    | Computed
    | PushConfirmed
    | WorkFailed
)

# --- orders to the driver ---------------------------------------------------------------------------------------------------------------


@message
class LoadBase:
    """Read `version` from all shards into the worker's own memory and clear the accumulator; get ready for `local` steps."""

    work_id: int
    version: Version
    local: LocalSteps | None = None
    fragment: int | None = None
    """Read that one of several models alone."""


@message
class ClearAccumulator:
    """The wanted version is already in place, or where local steps began that may have left it; answer `Loaded`."""

    work_id: int
    local: LocalSteps | None = None


@message
class GoOn:
    """Get ready for `local` steps from where the last order ended; answer `Loaded`."""

    work_id: int
    local: LocalSteps


@message
class ReadFragment:
    """Read a fragment of a version from all shards while computing goes on; answer `FragmentRead`."""

    mix: Mix


@message
class Blend:
    """Mix in the fragment that was read."""

    mix: Mix


@message
class RunPart:
    """Add the gradient sums of positions [start, stop) of a part's epoch, one micro-batch at a time, until `interrupted`."""

    work_id: int
    part: int
    epoch: int
    start: int
    stop: int
    coefficient: float
    step: LocalSteps | None = None
    """The inner step to take once `stop` is reached."""


@message
class Push:
    """Send the update, `samples` strong, to every shard; that of one fragment while what follows is done. Answer `PushConfirmed`."""

    work_id: int
    samples: int
    local: LocalSteps | None = None
    """What was done with the samples, where it was not a gradient sum."""
    fragment: int | None = None
    """The one of several models that it is of."""


@message
class Fetch:
    """These positions come next: read them while computing."""

    epoch: int
    start: int
    stop: int


@message
class Unfetch:
    """These positions will not be computed after all: forget what was read of them."""

    epoch: int
    start: int
    stop: int


@message
class SaveState:
    """Write what is kept from order to order, as it was before the first order from `before` on, and tell the coordinator `SlotSaved`;
    nothing waits for it."""

    checkpoint: int
    before: int


@message
class Answer:
    """Tell the coordinator."""

    event: WorkReturned


@message
class Exit:
    pass


WorkerOrder = LoadBase | ClearAccumulator | GoOn | ReadFragment | Blend | RunPart | Push | Fetch | Unfetch | SaveState | Answer | Exit

_SAID = frozenset((Ordered, CutAsked, AbandonAsked, DismissAsked, SaveAsked, Attached, MixAsked))
"""What a coordinator says."""

_REMEMBERED_ENDED = 64  # orders done with, that are told apart from new ones; more than a transport can hold of repeats for one worker


@dataclass(slots=True)
class _Job:
    compute: Compute
    epoch: int
    """Of the coordinator that ordered it, or wanted it last."""
    left: deque[RunPart] = field(init=False)
    """What is still to be computed."""
    least: int = field(init=False)
    """Samples that a cut does not stop."""
    done: int = 0
    """Samples in the accumulator."""
    phase: str = "queued"  # queued, loading, computing, waiting (for a fragment), pushing
    stop: str = ""  # "", "cut" or "abandon"
    mix: Mix | None = None
    """What it adopts, once that is known."""
    mix_read: bool = False
    mix_error: str = ""
    adopted: bool = False

    def __post_init__(self) -> None:
        until = self.compute.until
        self.least = until.least if isinstance(until, VersionAfter) else 0
        self.left = deque(_pieces(self.compute, self.least))

    @property
    def must_stop(self) -> bool:
        if not self.stop:
            return False
        local = self.compute.local
        whole_steps = local is None or self.done % local.batch == 0
        return self.stop == "abandon" or (self.stop == "cut" and self.done >= self.least and whole_steps)

    @property
    def must_adopt(self) -> bool:
        """Whether what it adopts has to be mixed in before anything else."""
        local = self.compute.local
        if local is None or local.adopt_after is None or self.adopted or self.stop == "abandon":
            return False
        due = self.done % local.batch == 0 and self.done // local.batch >= local.adopt_after
        return due or not self.left or self.must_stop


def _pieces(compute: Compute, least: int) -> list[RunPart]:
    """The order's parts, cut where `least` samples are reached, or where a local step ends."""
    work_id, local = compute.work_id, compute.local
    if local is None:
        edges: Sequence[int] = (least,) if least else ()
    else:
        total = sum(len(part.lease) for part in compute.parts)
        edges = (*range(local.batch, total, local.batch), total)
    ends, pieces, before = frozenset(edges), [], 0
    for index, part in enumerate(compute.parts):
        lease = part.lease
        offset, start = lease.start - before, lease.start
        before += lease.stop - lease.start
        for edge in edges:
            if start < offset + edge < lease.stop:
                pieces.append(RunPart(work_id, index, lease.epoch, start, offset + edge, part.coefficient, local))
                start = offset + edge
        step = local if local is not None and lease.stop - offset in ends else None
        pieces.append(RunPart(work_id, index, lease.epoch, start, lease.stop, part.coefficient, step))
    return pieces


class Worker:
    """One worker of the crew."""

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self._jobs: deque[_Job] = deque()
        self._epoch = 0
        self._ended: deque[int] = deque(maxlen=_REMEMBERED_ENDED)
        self._returned: deque[WorkReturned] = deque(maxlen=_REMEMBERED_ENDED)
        """Answers given, for a coordinator that may not have heard them."""
        self._pushing: set[int] = set()
        """Orders whose fragment is being pushed while others are computed."""
        self._end_of: int | None = None
        """The order whose end the parameters are at, so that another one may go on from there."""
        self._early: dict[int, Mix] = {}
        """For orders that have not come yet."""
        self._loaded: tuple[Version, int | None] | None = None
        """The version in place, and which model of it."""
        self._leaving = False
        self._saved = 0
        """The newest checkpoint that it has saved its part of."""
        self._handlers: dict[type, Callable[[Any], list[WorkerOrder]]] = {
            Ordered: self._on_ordered,
            CutAsked: lambda e: self._on_stop(e.work_id, "cut"),
            AbandonAsked: lambda e: self._on_stop(e.work_id, "abandon"),
            DismissAsked: self._on_dismissed,
            LetGo: self._on_dismissed,
            MixAsked: self._on_mix_asked,
            FragmentRead: self._on_fragment_read,
            SaveAsked: self._on_save_asked,
            Attached: self._on_attached,
            Loaded: self._on_loaded,
            Computed: self._on_computed,
            PushConfirmed: self._on_push_confirmed,
            WorkFailed: self._on_failed,
        }

    def handle(self, event: WorkerEvent) -> list[WorkerOrder]:
        """Take one fact; return what the driver must do, in order."""
        if type(event) in _SAID:
            epoch = event.epoch  # type: ignore[union-attr]  # all of these have one
            if epoch < self._epoch:
                return []  # of a coordinator that was replaced
            self._epoch = epoch
        return self._handlers[type(event)](event)

    @property
    def orders_in_hand(self) -> int:
        return len(self._jobs)

    def interrupted(self, work_id: int) -> bool:
        """Whether the computation should stop at this micro-batch boundary."""
        job = self._job_of(work_id)
        return job is not None and job.must_stop

    # --- orders in --------------------------------------------------------------------------------------------------------------------

    def _on_ordered(self, event: Ordered) -> list[WorkerOrder]:
        compute = event.compute
        if self._leaving or compute.work_id in self._ended or self._job_of(compute.work_id) is not None:
            return []  # said twice, or too late
        job = _Job(compute, self._epoch)
        self._jobs.append(job)
        orders: list[WorkerOrder] = [Fetch(piece.epoch, piece.start, piece.stop) for piece in job.left]
        orders += self._start_next()
        if self._early and (early := self._early.pop(compute.work_id, None)) is not None:
            orders += self._on_mix_asked(MixAsked(early))
        return orders

    def _job_of(self, work_id: int) -> _Job | None:
        for job in self._jobs:
            if job.compute.work_id == work_id:
                return job
        return None

    def _start_next(self) -> list[WorkerOrder]:
        if not self._jobs:
            return [Exit()] if self._leaving else []
        job = self._jobs[0]
        if job.phase != "queued":
            return []
        local = job.compute.local
        if local is not None and local.follows is not None:
            return self._go_on_from(job, local)
        self._end_of = None
        job.phase = "loading"
        compute = job.compute
        if self._loaded == (compute.base, compute.fragment):
            return [ClearAccumulator(compute.work_id, compute.local)]
        self._loaded = None
        return [LoadBase(compute.work_id, compute.base, compute.local, compute.fragment)]

    def _go_on_from(self, job: _Job, local: LocalSteps) -> list[WorkerOrder]:
        if local.follows == self._end_of:
            job.phase = "loading"
            return [GoOn(job.compute.work_id, local)]
        return [*_unfetch(job), self._give_back(job, "the order that it goes on from came to nothing"), *self._finish()]

    def _on_stop(self, work_id: int, how: str) -> list[WorkerOrder]:
        for job in self._jobs:
            if job.compute.work_id != work_id:
                continue
            if job.phase == "queued" and (how == "abandon" or not job.least):
                self._jobs.remove(job)
                self._ended.append(work_id)
                return [*_unfetch(job), *([] if how == "abandon" else [self._give_back(job, "cut before it began")])]
            if job.phase == "waiting":
                answer = [] if how == "abandon" else [self._give_back(job, "cut while it waited for the others")]
                return [*_unfetch(job), *answer, *self._break_off()]
            if how == "abandon" or not job.stop:
                job.stop = how
        if how == "cut" and work_id in self._ended:  # whoever asks may have lost what was pushed, and wait for a sign of life
            return [Answer(WorkReturned(self.slot, work_id, "it was done before", done=True))]
        return []

    def _on_dismissed(self, event: DismissAsked | LetGo) -> list[WorkerOrder]:
        self._leaving = True
        self._jobs = deque(job for job in self._jobs if job.phase != "queued")
        for job in self._jobs:
            job.stop = "abandon"
        if self._jobs and self._jobs[0].phase == "waiting":
            return [*_unfetch(self._jobs[0]), *self._break_off()]
        return self._start_next()

    # --- fragments --------------------------------------------------------------------------------------------------------------------

    def _on_mix_asked(self, event: MixAsked) -> list[WorkerOrder]:
        mix = event.mix
        job = self._job_of(mix.work_id)
        if job is None:
            if mix.work_id not in self._ended and mix.work_id not in self._pushing and len(self._early) < _REMEMBERED_ENDED:
                self._early[mix.work_id] = mix
            return []
        if job.mix is not None:
            return []  # said twice
        job.mix = mix
        return [ReadFragment(mix)]

    def _on_fragment_read(self, event: FragmentRead) -> list[WorkerOrder]:
        job = self._job_of(event.work_id)
        if job is None or job.mix_read:
            return []
        job.mix_read, job.mix_error = True, event.error
        if job.phase != "waiting":
            return []
        job.phase = "computing"
        return self._go_on(job)

    def _on_save_asked(self, event: SaveAsked) -> list[WorkerOrder]:
        if event.checkpoint <= self._saved:
            return []  # said twice
        self._saved = event.checkpoint
        return [SaveState(event.checkpoint, event.before)]

    def _on_attached(self, event: Attached) -> list[WorkerOrder]:
        """Take up what is open, stop what is not, and say again what may not have been heard."""
        self._saved = 0  # whatever the lost one has asked for last, the new one may ask for again
        known = {compute.work_id for compute in event.orders}
        orders: list[WorkerOrder] = [Answer(answer) for answer in self._returned if answer.work_id in known]
        for job in list(self._jobs):
            work_id = job.compute.work_id
            if work_id in known:
                job.epoch = event.epoch
            elif job.epoch < event.epoch:  # else the new one has ordered it since
                orders += self._on_stop(work_id, "abandon")
                # A sign of life: whoever was overdue when the coordinator was lost is given work again.
                orders.append(self._given_back(work_id, "its order was lost with the coordinator"))
        for compute in event.orders:
            orders += self._on_ordered(Ordered(compute))
        for work_id in event.cut:
            orders += self._on_stop(work_id, "cut")
        return orders

    def _give_back(self, job: _Job, reason: str) -> Answer:
        return self._given_back(job.compute.work_id, reason)

    def _given_back(self, work_id: int, reason: str) -> Answer:
        answer = WorkReturned(self.slot, work_id, reason)
        self._returned.append(answer)
        return Answer(answer)

    # --- one job at a time ------------------------------------------------------------------------------------------------------------

    def _current(self, work_id: int, phase: str) -> _Job | None:
        job = self._jobs[0] if self._jobs else None
        return job if job is not None and job.compute.work_id == work_id and job.phase == phase else None

    def _on_loaded(self, event: Loaded) -> list[WorkerOrder]:
        job = self._current(event.work_id, "loading")
        if job is None:
            return []
        local, there = job.compute.local, (job.compute.base, job.compute.fragment)
        self._loaded = None if local is not None and local.send is not None else there  # its parameters do not go back there
        job.phase = "computing"
        return self._go_on(job)

    def _on_computed(self, event: Computed) -> list[WorkerOrder]:
        job = self._current(event.work_id, "computing")
        if job is None:
            return []
        piece = job.left.popleft()
        job.done += event.stop - piece.start
        if event.stop < piece.stop:
            job.left.appendleft(replace(piece, start=event.stop))
        return self._go_on(job)

    def _go_on(self, job: _Job) -> list[WorkerOrder]:
        if job.must_adopt:
            return self._adopt(job)
        if job.left and not job.must_stop:
            return [job.left[0]]
        unused = _unfetch(job)
        if job.stop == "abandon":
            return [*unused, *self._break_off()]
        if job.done == 0:
            return [*unused, self._give_back(job, "cut before the first micro-batch"), *self._break_off()]
        return [*unused, *self._push(job)]

    def _adopt(self, job: _Job) -> list[WorkerOrder]:
        """Mix in what has been read, or wait for it; who is told to stop meanwhile does so."""
        if job.mix_error:
            return [*_unfetch(job), self._give_back(job, job.mix_error), *self._break_off()]
        if job.mix is not None and job.mix_read:
            job.adopted = True
            return [Blend(job.mix), *self._go_on(job)]
        if job.stop == "cut":
            return [*_unfetch(job), self._give_back(job, "cut while it waited for the others"), *self._break_off()]
        job.phase = "waiting"
        return []

    def _push(self, job: _Job) -> list[WorkerOrder]:
        compute = job.compute
        push = Push(compute.work_id, job.done, compute.local, compute.fragment)
        if compute.local is None or compute.local.send is None:
            job.phase = "pushing"
            return [push]
        self._pushing.add(compute.work_id)
        self._end_of = compute.work_id
        return [push, *self._finish()]

    def _break_off(self) -> list[WorkerOrder]:
        """The order ends without an update: nothing can go on from where it stands."""
        self._end_of = None
        return self._finish()

    def _on_push_confirmed(self, event: PushConfirmed) -> list[WorkerOrder]:
        if event.work_id in self._pushing:
            self._pushing.discard(event.work_id)
            return []
        return self._finish() if self._current(event.work_id, "pushing") is not None else []

    def _on_failed(self, event: WorkFailed) -> list[WorkerOrder]:
        if event.work_id in self._pushing:
            self._pushing.discard(event.work_id)
            return [self._given_back(event.work_id, event.reason)]
        job = self._jobs[0] if self._jobs else None
        if job is None or job.compute.work_id != event.work_id:
            return []
        self._loaded = None
        answer = [] if job.stop == "abandon" else [self._give_back(job, event.reason)]
        return [*_unfetch(job), *answer, *self._break_off()]

    def _finish(self) -> list[WorkerOrder]:
        self._ended.append(self._jobs.popleft().compute.work_id)
        return self._start_next()

    # --- invariants -------------------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise AssertionError if an invariant is broken."""
        assert all(job.phase == "queued" for job in list(self._jobs)[1:]), "two jobs are under way at once"
        ids = [job.compute.work_id for job in self._jobs]
        assert len(ids) == len(set(ids))


def _unfetch(job: _Job) -> list[WorkerOrder]:
    return [Unfetch(piece.epoch, piece.start, piece.stop) for piece in job.left]

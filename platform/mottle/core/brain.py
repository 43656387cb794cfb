"""The coordinator's pure machine: membership, leases, ledger and one strategy behind one log of events.

`handle(event, now_ns=...)` takes a fact and returns orders. It knows no Ray, tensor, clock or thread: the same object runs in the live
coordinator, in the simulator and in replay, and the same events give the same orders.

What it acts on is its own record: base version, leases and so the sample count come from the order that it gave, norms and inner products
from the shards. What a worker says of itself is for display.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mottle.core import exactsum
from mottle.core import protocol as p
from mottle.core import strategy as s
from mottle.core.assessments import Assessments
from mottle.core.bases import Bases
from mottle.core.checkpoints import Checkpoints
from mottle.core.chunks import Chunks
from mottle.core.config import BrainConfig
from mottle.core.deadlines import Deadlines
from mottle.core.effects import Effects
from mottle.core.evaluations import Evaluations
from mottle.core.health import TIMER as HEALTH
from mottle.core.health import Health
from mottle.core.leases import LeaseBook
from mottle.core.ledger import Ledger
from mottle.core.members import Members
from mottle.core.newcomers import Newcomers
from mottle.core.orders import OVERDUE, Orders
from mottle.core.pipeline import Application, Pipeline, RuleBook, Trusted
from mottle.core.references import References
from mottle.core.replacing import Replacing
from mottle.core.rule_inputs import RuleInputs
from mottle.core.shards import ShardMap
from mottle.core.spot_checks import TIMER as CHECK
from mottle.core.spot_checks import SpotChecks
from mottle.core.updates import Updates

VALIDATOR = p.VALIDATOR
MAX_TIME = "brain/max_time"
REPLACED = "the model or the strategy was replaced"
OFFER = "offer"
OFFER_NS = 60_000_000_000
"""So long a model is kept for another run that says nothing more: it may have died."""


class Brain:
    """Membership, leases, ledger and a strategy.

    Args:
        config: the job's numbers.
        strategy: who computes what and when the model changes.
        rules: decision side of the robust rules, for strategies that use one.
        build: makes a strategy of what the setting `strategy` says; None in a run where that cannot be changed.
    """

    def __init__(
        self,
        config: BrainConfig,
        strategy: s.Strategy,
        *,
        rules: RuleBook | None = None,
        build: Callable[[Any], s.Strategy] | None = None,
    ) -> None:
        self.config = config
        self.strategy = strategy
        self.book = LeaseBook(
            config.num_positions,
            max_samples=config.max_samples,
            overlap_epochs=not strategy.barriered,
            retry_rejected=config.retry_rejected,
        )
        self.chunks = Chunks(self.book)
        self.ledger = Ledger()
        self.members = Members()
        self.shards = ShardMap(config.num_shards, config.replicas, epoch=config.coordination_epoch)
        self.pipeline = Pipeline(
            self.shards,
            p.Version(0, 0),
            max_grad_norm=config.max_grad_norm,
            rules=rules,
            context=self._step_context,
            obtain=self._obtain_trusted,
        )
        self.finished: str | None = None
        self.settings: dict[str, Any] = {}
        self._started = False
        self._effects = Effects()
        self._tell, self._hear = self._effects.tell, self._effects.hear
        deadlines = Deadlines(config.lease_floor_ns, first_ns=config.first_lease_ns)
        floor_ns, barriered = config.lease_floor_ns, strategy.barriered
        self.health = Health(config.health, self.members, deadlines, self._effects, floor_ns=floor_ns, barriered=barriered)
        self.health.strategy_needs, self.health.rule_needs = config.least_crew, config.rule_crew
        self.orders = Orders(
            self.book,
            self.chunks,
            self.ledger,
            self.members,
            self.pipeline,
            deadlines,
            self.health,
            self._effects,
            max_in_flight=strategy.max_in_flight,
        )
        self.updates = Updates(
            self.book,
            self.chunks,
            self.ledger,
            self.members,
            self.shards,
            self.pipeline,
            self.orders,
            self.health,
            self._effects,
            weighted_loss=config.weighted_loss,
        )
        self._bases = Bases(self.ledger, self.pipeline)
        self._rules = rules
        health = config.health
        self.checks = SpotChecks(
            0.0 if health is None else health.spot_checks,
            config.check_samples,
            0.0 if health is None else health.tolerance,
            config.seed,
            self.members,
            self.health,
            self.orders,
            self.ledger,
            self.shards,
            self.pipeline,
            self._effects,
        )
        self._newcomers = Newcomers(self.shards, self.pipeline, self._effects, first=config.replicas + 1)
        self._draining: set[str] = set()
        """Machines that are taken away."""
        self._replacing = Replacing(self.shards, self._effects)
        self._pristine, self._build = copy.deepcopy(strategy), build
        self.why_not_replaced = ""
        """The last failure of a replacement."""
        self._generation = 0
        """Strategies before this one; alarms that they set are not heard any more."""
        self._leaving: set[int] = set()
        """Workers that go as soon as they have nothing in hand."""
        self._references = References(self.shards)
        self._assessments = Assessments()
        self._rule_inputs = RuleInputs(self._references, self.pipeline.drop, self._effects, config.seed, config.rule_samples)
        self._stopping: str | None = None
        self._plan_wanted: p.PlanWanted | None = None
        """Asked for and not there yet."""
        self._save_last = False
        """A checkpoint of the end is wanted."""
        self._told_nothing_left = False
        self._evaluations = Evaluations(config.evaluate_every)
        self._checkpoints = Checkpoints(self.shards, config.checkpoint_every)
        self._handlers: dict[type, Callable[[Any], None]] = {
            p.Started: self._on_started,
            p.Joined: self._on_joined,
            p.Left: self._on_left,
            p.RemoveAsked: self._on_remove_asked,
            p.Receipt: self._on_receipt,
            p.Contested: self.updates.contested,
            p.Measured: lambda e: self.pipeline.answered(e.replica, e.request, e.values),
            p.Stepped: lambda e: self.pipeline.stepped(e.replica, e.version),
            p.SnapshotDone: lambda e: self._checkpoints.shard_saved(e),
            p.ModelSaved: lambda e: self._checkpoints.model_saved(e),
            p.SlotSaved: lambda e: self._checkpoints.worker_saved(e),
            p.CheckpointWritten: self._on_checkpoint_written,
            p.CheckpointAsked: lambda e: self._checkpoints.ask(),
            p.WorkReturned: self._on_work_returned,
            p.RefreshFailed: self._on_refresh_failed,
            p.Scored: self._rule_inputs.scored,
            p.Evaluated: self._on_evaluated,
            p.TimerFired: self._on_timer,
            p.Configured: self._on_configured,
            p.Planned: self._on_planned,
            p.ReplicaLost: self._on_replica_lost,
            p.ReplicaCame: self._newcomers.came,
            p.ReplicaReady: self._newcomers.ready,
            p.ReplicaSynced: self._newcomers.synced,
            p.ReplicaKnown: self._on_replica_known,
            p.HostDraining: self._on_host_draining,
            p.ReplicaDraining: self._on_replica_draining,
            p.StopAsked: self._on_stop_asked,
            p.TookOver: self._on_took_over,
            p.OfferAsked: self._on_offer_asked,
            p.OfferOver: lambda e: self.shards.tell(p.Drop((e.name,))),
            p.ReplaceAsked: self._replacing.ask,
            p.Fetched: self._replacing.fetched,
        }
        self._decisions: dict[type, Callable[[Any], None]] = {
            s.Assign: self._assign,
            s.LendChunk: lambda d: self.chunks.lend(d.chunk, d.samples, self.version, d.fragment),
            s.AssignChunks: self._assign_chunks,
            s.ReleaseChunks: self._release_chunks,
            s.Apply: self._apply,
            s.ApplyRule: self._apply_rule,
            s.Reject: lambda d: self.updates.judge(d.work_id, "rejected", d.reason, score=d.score, drop=True),
            s.Discard: lambda d: self.updates.judge(d.work_id, "discarded", d.reason, drop=True),
            s.CutOrder: self.orders.cut,
            s.AbandonOrder: self.orders.abandon,
            s.MixIn: self._mix,
            s.RequestReference: self._request_reference,
            s.MeasureLoss: self._measure_loss,
            s.MeasureDots: self._measure_dots,
            s.KeepModels: lambda d: self._bases.begin(),
            s.Keep: lambda d: self.pipeline.keep(p.KEPT + d.name, d.source),
            s.MeasureDistances: self._measure_distances,
            s.Retain: lambda d: self.shards.tell(p.Retain(p.KEPT + d.name)),
            s.Release: lambda d: self.pipeline.drop((p.KEPT + d.name,)),
            s.Revert: lambda d: self._replacing.revert(p.KEPT + d.name),
            s.Forget: self._forget,
            s.AskPlan: self._ask_plan,
            s.Warn: lambda d: self._tell(p.Notice(d.kind, d.text)),
            s.Halt: lambda d: self._fail(d.reason),
            s.SetAlarm: lambda d: self._tell(p.SetTimer(f"{self._alarms}/{d.name}", self._effects.now_ns + d.after_ns)),
        }

    def handle(self, event: p.Event, *, now_ns: int) -> list[p.Command]:
        """Take one fact; return what must be done because of it, in order.

        Args:
            event: a fact of the protocol.
            now_ns: the run's clock when it was taken from the mailbox; never decreasing.
        """
        if self.finished is not None:
            return []
        self._effects.now_ns = max(now_ns, self._effects.now_ns)
        self._handlers[type(event)](event)
        self._settle()
        return self._effects.take()

    @property
    def started(self) -> bool:
        """Whether training has begun."""
        return self._started

    @property
    def replicas(self) -> frozenset[p.ReplicaId]:
        """Every replica that should have a process: live, or on its way to be."""
        return self.shards.live | self._newcomers.processes

    # --- the view that a strategy has -------------------------------------------------------------------------------------------------

    @property
    def crew(self) -> tuple[int, ...]:
        return self.members.crew

    @property
    def samples(self) -> int:
        """Positions spent: applied, unselected or rejected. Progress, triggers and schedules count these."""
        return self.book.spent

    @property
    def version(self) -> p.Version:
        return self.pipeline.published

    @property
    def head(self) -> p.Version:
        return self.updates.head

    @property
    def now_ns(self) -> int:
        """The run's clock at the last event."""
        return self._effects.now_ns

    @property
    def free_samples(self) -> int:
        return self.book.free if self.orders.lending else 0

    @property
    def usable(self) -> int | None:
        """How many workers the run has something to do for, when its last samples are out; None before: any number."""
        return None if not self.book.all_lent else sum(bool(member.orders) for member in self.members.all)

    @property
    def unoccupied(self) -> list[int]:
        """Slots of workers that are here and have nothing in hand."""
        return [member.slot for member in self.members.all if member.state != "left" and not member.orders]

    @property
    def replacing(self) -> bool:
        """Whether its model or strategy is to be replaced."""
        return self._replacing.busy

    @property
    def stopping(self) -> bool:
        """Whether it gives out nothing more."""
        return self._stopping is not None

    def busy(self, worker: int) -> bool:
        member = self.members.present(worker)
        return member is not None and bool(member.orders)

    # --- running until nothing moves --------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Let published versions and the strategy's decisions play out until nothing changes, then send the shards their batch."""
        pipeline, references, health, heard = self.pipeline, self._references, self.health, self._effects.heard
        while self.finished is None:  # each part is asked only where something may have happened: almost nowhere, after almost every event
            if pipeline.skipped:
                for application in pipeline.take_skipped():
                    self._skip(application)
            if pipeline.told:
                self._take_published()
            if references.known:
                self._take_references()
            health.settle()
            if self.checks.wanted and self._replacing.under_way is None:
                self.checks.settle(self.version)
            if self._leaving:
                self._let_go()
            if self._checkpoints.stirs(self.book.spent) or self._replacing.busy or self._newcomers.phases:
                if self._stop_for_all():
                    continue  # before the strategy hears of new versions: a barriered one has nothing out then
                if self._replacing.under_way is not None:
                    heard.clear()  # what follows is another strategy's
                    break
            if heard:
                self._decide(heard.popleft())
            elif not (self.orders.offer_again() or self._wind_down()):
                break
        for batch in self.shards.flush():
            self._tell(batch)

    def _take_published(self) -> None:
        for application in self.pipeline.take_published():
            if application.replaces:
                self._tell(p.Published(self.version, self.samples))
                self._renew()
            else:
                self._publish(application)

    def _take_references(self) -> None:
        for reference in self._references.take_ready():
            if isinstance(reference, p.RefreshFailed):
                self._on_refresh_failed(reference)
            elif not self._rule_inputs.ready(reference.name):
                self._hear(reference)

    def _stop_for_all(self) -> bool:
        """A checkpoint, a replacement or a newcomer, for which steps are held. Whether anything was set going."""
        replacing = self._replacing.busy
        may_adopt = self._checkpoints.idle and not (replacing and self._replacing.fetching)
        return self._checkpoint() or (replacing and self._replace()) or (may_adopt and self._newcomers.adopt())

    def _decide(self, event: s.StrategyEvent) -> None:
        for decision in self.strategy.handle(event, self):
            self._decisions[type(decision)](decision)

    def _wind_down(self) -> bool:
        """When all is spent: let the strategy close its books, evaluate the last model, finish. Whether anything was set going."""
        if self.book.free or not self._started or (self._paused and not self._stopping) or not self.pipeline.idle:
            return False
        if self.chunks.leases and not self._stopping:  # a round is not over, though nobody may be there to compute it
            return False
        if self._references.pending or any(order.state == "issued" for order in self.ledger.undecided):
            return False
        if not self._stopping and self.book.open_next():
            return True
        if self._assessments.awaited:  # the strategy may yet have the run go back
            return False
        if not self._told_nothing_left:
            self._told_nothing_left = True
            self._hear(s.NothingLeft())
            return True
        if self._evaluations.running is not None or self._checkpoints.busy or self._replacing.busy:
            return False
        if self._evaluations.missing(self.version):
            self._evaluate()
            return True
        if self._save_last:
            self._save_last = False
            self._checkpoints.ask()
            return True
        if self.checks.open:
            if self._stopping:
                self.checks.give_up()
            return False
        if self.finished is None:
            self.finished = self._stopping or "samples"
            for member in self.members.all:
                if member.state != "left":
                    self._tell(p.Dismiss(member.slot))
            self._tell(p.Finished(self.finished))
        return False

    # --- members ----------------------------------------------------------------------------------------------------------------------

    def _on_started(self, event: p.Started) -> None:
        self._started = True
        self.pipeline.published = self.pipeline.head = event.version
        if self.settings:  # of the run that this one goes on from
            self._obey_settings(self.settings)
        if self.config.max_ns is not None:
            self._tell(p.SetTimer(MAX_TIME, self._effects.now_ns + self.config.max_ns))
        if self.config.evaluate_every is not None:
            self._evaluate()
        self.health.started()
        self._hear(s.VersionPublished(event.version))
        for worker in self.crew:
            self._hear(s.WorkerIdle(worker))

    def _on_joined(self, event: p.Joined) -> None:
        self.members.join(event.worker, event.device, event.group, now_ns=self._effects.now_ns, host=event.host, kind=event.kind)
        self.health.joined(event.worker, event.host)
        self._tell(p.Notice("joined", f"worker {event.worker} joined on {event.device}", event.worker))
        if event.host and event.host in self._draining:
            self._on_remove_asked(p.RemoveAsked(event.worker))
            return
        if self._started:
            self._hear(s.WorkerIdle(event.worker))

    def _on_left(self, event: p.Left) -> None:
        member = self.members.leave(event.worker, event.reason, now_ns=self._effects.now_ns)
        if member is None:
            if self.members.known(event.worker) is None:
                self._tell(p.Notice("warning", f"worker {event.worker} never joined: {event.reason}", event.worker))
            return
        kind = "killed" if event.died else "left"
        self._tell(p.Notice(kind, f"worker {event.worker} {kind}: {event.reason}", event.worker))
        self._checkpoints.worker_lost(event.worker)
        self.health.left(event.worker, died=event.died)
        self.checks.gone(event.worker)
        self.orders.gone(event.worker)
        self._hear(s.WorkerGone(event.worker))
        if self._started and not self.crew:
            self._tell(p.Notice("warning", "no worker is left; the run waits for one to join"))

    def _on_remove_asked(self, event: p.RemoveAsked) -> None:
        member = self.members.present(event.worker)
        if member is None:
            return
        if event.at_once:
            self._dismiss(event.worker)
        else:
            self.members.mark(member, "leaving")
            self.health.leaving(event.worker)
            self.checks.gone(event.worker)
            self._leaving.add(event.worker)

    def _let_go(self) -> None:
        """Dismiss those who are leaving and have nothing in hand."""
        for worker in sorted(worker for worker in self._leaving if not self.busy(worker)):
            if self.members.present(worker) is not None:
                self._dismiss(worker)
            self._leaving.discard(worker)

    def _dismiss(self, worker: int) -> None:
        self._leaving.discard(worker)
        self._tell(p.Dismiss(worker))
        self._on_left(p.Left(worker, "removed"))

    # --- orders and updates -----------------------------------------------------------------------------------------------------------

    @property
    def _paused(self) -> bool:
        return bool(self.settings.get("paused", False))

    def _assign(self, decision: s.Assign) -> None:
        if decision.local is not None:
            own = decision.local.lr
            lr = self.settings.get("lr") if own is None else own
            local = replace(decision.local, samples=self.samples + decision.local.samples, lr=lr)
            decision = replace(decision, local=local)
        if self.orders.assign(decision, self.version):
            self._told_nothing_left = False

    def _assign_chunks(self, decision: s.AssignChunks) -> None:
        self.orders.assign_chunks(decision)
        self._told_nothing_left = False

    def _release_chunks(self, decision: s.ReleaseChunks) -> None:
        self._end_copies(decision.chunks, decision.reason)
        refused = [self.chunks.give_back(chunk) for chunk in decision.chunks]
        self._hear(s.ChunksReleased(decision.chunks, any(refused)))

    def _end_copies(self, chunks: tuple[int, ...], reason: str, keep: frozenset[int] = frozenset()) -> None:
        """Give up the orders of these chunks, all but those to keep."""
        if not chunks:
            return
        for order in self.ledger.undecided:
            work_id = order.compute.work_id
            if work_id in keep or not set(order.chunks) & set(chunks):
                continue
            if order.state == "stored":
                self.updates.judge(work_id, "discarded", reason, drop=True)
            else:
                self.orders.abandon(s.AbandonOrder(work_id, reason))

    def _mix(self, decision: s.MixIn) -> None:
        order = self.ledger.get(decision.work_id)
        if order is not None and order.state == "issued":
            order.mix = p.Mix(order.compute.worker, decision.work_id, self.version, decision.fragment, decision.share)
            self._tell(order.mix)

    def _on_work_returned(self, event: p.WorkReturned) -> None:
        if self.checks.returned(event):
            self.health.heard_of(event.worker)
        elif hopeless := self.orders.returned(event):
            self._fail(hopeless)

    def _on_receipt(self, receipt: p.Receipt) -> None:
        if receipt.sender == VALIDATOR:
            self._on_reference_receipt(receipt)
        elif not self.checks.receipt(receipt):
            self.updates.receipt(receipt)

    # --- steps ------------------------------------------------------------------------------------------------------------------------

    def _apply(self, decision: s.Apply) -> None:
        work_ids = [work_id for work_id, _ in decision.terms]
        if decision.chunks:
            self._end_copies(decision.chunks, "surplus: the step was made without it", keep=frozenset(work_ids))
        stale = self.updates.staleness((*work_ids, *decision.unselected))
        application = Application(decision.terms, decision.unselected, chunks=decision.chunks, lead=decision.lead, staleness=stale)
        application.buffers = decision.buffers
        application.scores.update(decision.scores)
        application.fragment = decision.fragment
        self.orders.steps[decision.fragment] += 1
        application.rate = decision.rate
        self.pipeline.submit(application)

    def _apply_rule(self, decision: s.ApplyRule) -> None:
        terms = tuple((work_id, 0.0) for work_id, _ in decision.rows)
        counts = tuple(count for _, count in decision.rows)
        stale = self.updates.staleness(work_id for work_id, _ in decision.rows)
        self.pipeline.submit(
            Application(
                terms,
                rule=decision.rule,
                counts=counts,
                num_expected=decision.num_expected,
                lead=decision.lead,
                staleness=stale,
                fragment=decision.fragment,
                rate=decision.rate,
            )
        )

    def _step_context(self) -> tuple[int, tuple[tuple[int, tuple[str, ...]], ...], tuple[str, ...]]:
        """Samples so far, and what has changed in who may still have to read which version."""
        validator = {name: version.number for name, version in (*self._references.pending, *self._checkpoints.holds)}
        if self._evaluations.running is not None:
            validator["evaluate"] = self._evaluations.running.number
        return (self.samples, *self.ledger.holds.changes({**validator, **self._assessments.holds, **self.chunks.holds}))

    def _publish(self, application: Application) -> None:
        """A version exists: only now are its updates applied."""
        assert application.version is not None
        for work_id in application.accepted:
            score, staleness = application.scores.get(work_id), application.staleness[work_id]
            self.updates.judge(work_id, "accepted", "applied", score=score, staleness=staleness)
        for work_id in application.unselected:
            self.updates.judge(work_id, "unselected", "left out of the average", staleness=application.staleness[work_id])
        for chunk in application.chunks:
            self.chunks.apply(chunk)
        self._rule_inputs.published(application.version)
        self._bases.published()
        self._tell(p.Published(application.version, self.samples))
        self._hear(s.VersionPublished(application.version))
        if self._evaluations.due(self.samples):
            self._evaluate()

    def _skip(self, application: Application) -> None:
        # With nothing else to lend the same samples would come to the same round again, for ever.
        last = self.book.free == 0
        self._tell(p.Notice("warning", f"no step: {application.skip}"))
        for work_id in application.accepted:
            self.updates.judge(work_id, "discarded", application.skip, drop=True, spent=last)
        self._hear(s.VersionPublished(self.version))

    # --- another model, another strategy ----------------------------------------------------------------------------------------------

    def _on_offer_asked(self, event: p.OfferAsked) -> None:
        self.shards.tell(p.Offer(event.name))
        self._tell(p.SetTimer(f"{OFFER}/{event.name}", self._effects.now_ns + OFFER_NS))

    def _replace(self) -> bool:
        """Begin a replacement, or break with what is in hand for one that is ready. Whether anything was set going."""
        if self._stopping:
            if (name := self._replacing.cancel()) is not None:
                self.pipeline.drop((name,) if name else ())
                self.pipeline.go_on()  # it may have been held for this one
            if not self._replacing.reverting:
                return False
        if not self._started:
            return False
        if self._replacing.begin(may_fetch=self._newcomers.settled):
            return True
        if failed := self._replacing.take_failed():
            name, self.why_not_replaced = failed
            self.pipeline.drop((name,))
            self._tell(p.Notice("warning", f"the model was not replaced, and no setting changed: {self.why_not_replaced}"))
            return True
        if self._replacing.ready is None or not self.pipeline.hold():
            return False
        self.checks.forget()
        self.orders.end_all()
        for order in self.ledger.undecided:
            self.updates.judge(order.compute.work_id, "discarded", REPLACED, drop=True)
        self.chunks.give_back_all()
        self._bases.end()
        self.pipeline.drop(self._references.forget_all())
        self._rule_inputs.forget()
        self._assessments.forget()
        if name := self._replacing.start().name:
            self.pipeline.replace(name)
        else:
            self.pipeline.forget()
            self._renew()
        return True

    def _renew(self) -> None:
        """A fresh strategy goes on from what the old one would keep in a checkpoint."""
        done = self._replacing.end()
        if done.name:
            what = "the model is an earlier one again" if done.retained else "the model was replaced by another run's"
            self._tell(p.Notice("replaced", f"{what}; version {self.version.number} is the first of its line"))
        self._effects.heard.clear()
        self._plan_wanted = None
        self._generation += 1
        if done.settings:
            self._take_settings(done.settings)
        kept, self.strategy = self.strategy.state(), self._fresh_strategy()
        self.strategy.restore(kept)
        if "rule" in self.settings:
            self._hear(s.RuleChanged(self.settings["rule"]))
        self.pipeline.go_on()
        self._told_nothing_left = False
        self._hear(s.VersionPublished(self.version))
        for worker in self.crew:
            self._hear(s.WorkerIdle(worker))

    def _fresh_strategy(self) -> s.Strategy:
        if "strategy" not in self.settings:
            return copy.deepcopy(self._pristine)
        assert self._build is not None, "a run that was not told how to make strategies was told to change it"
        return self._build(self.settings["strategy"])

    @property
    def _alarms(self) -> str:
        """Owner of the strategy's alarms."""
        return f"strategy-{self._generation}" if self._generation else "strategy"

    # --- references and evaluation ----------------------------------------------------------------------------------------------------

    def _request_reference(self, decision: s.RequestReference) -> None:
        self._tell(self._references.ask(p.Refresh(decision.name, self.version, self.config.seed, decision.num_samples)))

    def _on_reference_receipt(self, receipt: p.Receipt) -> None:
        if not self._references.add_receipt(receipt):
            self.pipeline.drop((receipt.name,))

    def _on_refresh_failed(self, event: p.RefreshFailed) -> None:
        if self._references.forget(event.name):
            self.pipeline.drop((event.name,))
            self._tell(p.Notice("warning", f"no reference gradient: {event.reason}"))
            if not self._rule_inputs.failed(event.name, event.reason):
                self._hear(s.ReferenceFailed(event.name, event.reason))

    def _obtain_trusted(self, kinds: frozenset[str], rows: tuple[str, ...], then: Callable[[Trusted], None]) -> None:
        self._rule_inputs.obtain(kinds, rows, then, version=self.version, samples=self.samples, lr=self.settings.get("lr"))

    def _measure_loss(self, decision: s.MeasureLoss) -> None:
        if (order := self._assessments.ask(self.version)) is not None:
            self._tell(order)

    def _on_assessed(self, event: p.Evaluated) -> None:
        if self._assessments.end(event):
            if event.error:
                self._tell(p.Notice("warning", f"the loss of version {event.version.number} could not be measured: {event.error}"))
            self._hear(s.LossMeasured(event.version, event.metrics.get("loss")))

    def _measure_dots(self, decision: s.MeasureDots) -> None:
        def measured(sums: tuple[int, ...]) -> None:
            self._hear(s.DotsMeasured(decision.tag, tuple(map(exactsum.to_float, sums))))

        self.pipeline.ask(tuple((p.update_name(work_id), decision.reference) for work_id in decision.work_ids), measured)

    def _measure_distances(self, decision: s.MeasureDistances) -> None:
        def measured(sums: tuple[int, ...]) -> None:
            self._hear(s.DistancesMeasured(decision.tag, tuple(map(exactsum.to_float, sums))))

        self.pipeline.ask(decision.pairs, measured, p.Distances)

    def _forget(self, decision: s.Forget) -> None:
        if self._references.forget(decision.name):
            self.pipeline.drop((decision.name,))

    def _evaluate(self) -> None:
        self._evaluations.begin(self.version, self.samples)
        self._tell(p.Evaluate(self.version))
        if self.config.save_evaluated and self.samples > self._checkpoints.last_samples:  # what a run began with need not be saved
            self._checkpoints.ask()

    def _on_evaluated(self, event: p.Evaluated) -> None:
        if event.trusted:
            self._on_assessed(event)
            return
        if not self._evaluations.end(event.version):
            return
        if event.error:
            self._tell(p.Notice("warning", f"version {event.version.number} could not be evaluated: {event.error}"))
        target = self.config.target
        if target is not None and event.metrics.get(target[0], float("-inf")) >= target[1]:
            self._stop(f"target {target[0]} >= {target[1]}")

    # --- the rest ---------------------------------------------------------------------------------------------------------------------

    def _on_timer(self, event: p.TimerFired) -> None:
        self._effects.fired(event.name)
        owner, _, name = event.name.partition("/")
        if owner == self._alarms:
            self._hear(s.AlarmRang(name))
        elif owner == OFFER:
            self.shards.tell(p.Drop((name,)))
        elif event.name == MAX_TIME:
            self._stop("time")
        elif event.name == OVERDUE:
            for worker in self.orders.look_for_overdue():
                self._checkpoints.worker_lost(worker)
        elif event.name == HEALTH:
            self.health.look()
        elif event.name == CHECK:
            self.checks.look_for_overdue()

    def _on_configured(self, event: p.Configured) -> None:
        if "strategy" in event.settings:
            self._replacing.renew(event.settings)
        else:
            self._take_settings(event.settings)

    def _take_settings(self, settings: Mapping[str, Any]) -> None:
        self.settings.update(settings)
        self._obey_settings(settings)
        self.orders.lending = not (self._paused or self._stopping)
        if "paused" in settings and not self._paused:
            self.orders.wake()

    def _ask_plan(self, decision: s.AskPlan) -> None:
        self._plan_wanted = p.PlanWanted(decision.measured)
        self._tell(self._plan_wanted)

    def _on_planned(self, event: p.Planned) -> None:
        self._plan_wanted = None
        self._tell(p.Notice("planned", event.why))
        self._hear(s.Planned(event.spec))

    def _obey_settings(self, settings: Mapping[str, Any]) -> None:
        """The pause is this machine's, the rule the strategy's; everything else is the optimizer's, on the shards."""
        self._tell(p.Notice("configured", ", ".join(f"{key} = {_spelt(value)}" for key, value in settings.items())))
        if "rule" in settings:
            self._hear(s.RuleChanged(settings["rule"]))
            self.health.rule_needs = 1 if settings["rule"] is None or self._rules is None else self._rules.least_crew(settings["rule"])
        told = {key: value for key, value in settings.items() if key not in ("paused", "rule", "strategy")}
        if told:
            self.shards.tell(p.Configure(told))

    def _on_replica_lost(self, event: p.ReplicaLost) -> None:
        if self._newcomers.lose(event):
            self._fewer_replicas()
            return
        if not self.shards.lose(event.replica):
            return
        if not self.shards.complete:
            self._fail(f"shard {event.replica.shard} is lost: {event.reason}")
            return
        self._tell(p.Notice("warning", f"a replica of shard {event.replica.shard} is lost ({event.reason}); the other one goes on"))
        if self._newcomers.unknown_in(event.replica.shard):
            self.orders.stranded(event.replica)
        if not self._newcomers.replaces(event.replica):
            self._newcomers.call(event.replica.shard)
        self._fewer_replicas()

    def _on_host_draining(self, event: p.HostDraining) -> None:
        """Workers finish what they can in the time that is left, give the rest back and go; one that joins yet goes as well."""
        going = [member.slot for member in self.members.all if member.host == event.host and member.state not in ("left", "leaving")]
        self._draining.add(event.host)
        left = "soon" if event.left_ns is None else f"in {event.left_ns / 1e9:.0f} s"
        who = f"workers {', '.join(map(str, going))} leave" if going else "no worker is on it"
        self._tell(p.Notice("draining", f"a machine will be taken away {left}: {who}"))
        for worker in going:
            self._on_remove_asked(p.RemoveAsked(worker))
            self.orders.hurry(worker, event.left_ns)

    def _on_replica_draining(self, event: p.ReplicaDraining) -> None:
        if event.replica in self.shards.live:
            self._newcomers.replace(event.replica)

    def _on_replica_known(self, event: p.ReplicaKnown) -> None:
        old = self._newcomers.known(event)
        if old is not None and event.replica in self.shards.live and self.shards.lose(old):
            self._tell(p.Notice("replica", f"a replica of shard {old.shard} has moved off a machine that will be taken away"))
            self._tell(p.Retire(old))
            self._fewer_replicas()

    def _fewer_replicas(self) -> None:
        """Some answers may be complete now."""
        self.pipeline.replica_lost()
        self.updates.replica_lost()
        self.checks.replica_lost()

    def _on_took_over(self, event: p.TookOver) -> None:
        """Whatever was asked and is not answered is asked again: those who have heard it before know that."""
        self.shards.take_over(event.epoch)
        self._tell(p.Notice("coordinator", f"the coordinator was lost and is back after {event.absent_ns / 1e9:.1f} s"))
        self.orders.took_over(event.epoch, event.absent_ns)
        self._effects.set_again(event.absent_ns, exact=MAX_TIME)
        if self._evaluations.running is not None:
            self._tell(p.Evaluate(self._evaluations.running))
        awaited = (*self._references.awaited, *self._assessments.awaited, self._rule_inputs.awaited, self._plan_wanted)
        for order in (self._checkpoints.took_over(), *awaited):
            if order is not None:
                self._tell(order)
        self._newcomers.took_over()

    def _on_stop_asked(self, event: p.StopAsked) -> None:
        self._save_last = self._save_last or event.checkpoint
        self._stop(event.reason)

    def _fail(self, reason: str) -> None:
        """The run cannot go on."""
        self.finished = reason
        self._tell(p.Notice("failed", reason))
        self._tell(p.Finished(reason, failed=True))

    def _stop(self, reason: str) -> None:
        """Lend nothing more; finish with what is out."""
        if self._stopping is None:
            self._stopping = reason
            self.orders.lending = False
            self.book.stop()

    # --- checkpoints ------------------------------------------------------------------------------------------------------------------

    def _checkpoint(self) -> bool:
        """Begin a checkpoint that is due, finish one whose parts are all there. Whether anything was set going."""
        complete = self._checkpoints.take_complete()
        if complete is not None:
            if isinstance(complete, tuple):
                self._checkpoint_failed(*complete)
            else:
                self._tell(complete)
            return True
        if not self._started or not self._checkpoints.due(self.samples) or not self.pipeline.hold():
            return False
        number = self._checkpoints.begin(self.version, self.samples)
        self._checkpoints.keep(self.state())
        self.shards.tell(p.Snapshot(number))
        self._tell(p.SaveModel(number, self.version))
        if self.config.worker_state:
            self._save_workers(number)
        self.pipeline.go_on()
        return True

    def _save_workers(self, number: int) -> None:
        """Have every worker save what it keeps from order to order, as it was before the first of its orders that is undecided here."""
        first: dict[int, int] = {}
        for order in self.ledger.undecided:
            first.setdefault(order.compute.worker, order.compute.work_id)
        self._checkpoints.await_workers((worker, self.members.here(worker).group) for worker in self.crew)
        for worker in self.crew:
            self._tell(p.SaveSlot(worker, number, first.get(worker, self.orders.next_work_id)))

    def _on_checkpoint_written(self, event: p.CheckpointWritten) -> None:
        samples = self._checkpoints.written(event.checkpoint)
        if samples is not None and event.error:
            self._checkpoint_failed(event.checkpoint, event.error)
        elif samples is not None:
            self._tell(p.Notice("checkpoint", f"checkpoint {event.checkpoint} is complete at {samples} samples"))

    def _checkpoint_failed(self, number: int, error: str) -> None:
        self._tell(p.Notice("warning", f"checkpoint {number} failed, training goes on and the next one tries again: {error}"))
        self._tell(p.ForgetCheckpoint(number))

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of the brain, as JSON types; orders and undecided updates are not kept, their samples are free."""
        return {
            "version": list(self.version),
            "samples": self.samples,
            "now_ns": self._effects.now_ns,
            "checkpoint": self._checkpoints.last,
            "members": self.members.state(),
            "health": self.health.state(),
            "leases": self.book.state(),
            "counts": self.ledger.counts.as_dict(),
            "strategy": self.strategy.state(),
            "settings": dict(self.settings),
            "next_work_id": self.orders.next_work_id,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up the state of a checkpoint, before `Started`."""
        self.book.restore(state["leases"])
        self.ledger.restore(state["counts"])
        self.settings = {key: value for key, value in state["settings"].items() if key != "paused"}  # whoever resumes wants it to go on
        if "strategy" in self.settings:
            self.strategy = self._fresh_strategy()
        self.strategy.restore(state["strategy"])
        self.orders.next_work_id = state["next_work_id"]
        self.members.restore(state["members"])
        self.health.restore(state["health"])
        self._checkpoints.restore(state["checkpoint"], self.samples)
        self._evaluations.restore(self.samples)
        self._effects.now_ns = state["now_ns"]

    # --- invariants -------------------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise AssertionError if an invariant of the design's section 6 is broken; cheap enough for every event of a test."""
        self.book.check()
        self.ledger.check()
        self.strategy.check()
        self.health.check()
        undecided = self.ledger.undecided
        self.chunks.check(undecided)
        owned = {part.lease.id for order in undecided if not order.chunks for part in order.compute.parts}
        assert not owned & self.chunks.leases, "a lease belongs to an order and to a round"
        lent = owned | self.chunks.leases
        assert len(lent) == self.book.out, f"{self.book.out} leases are out, {len(lent)} belong to an open order or a round"
        for member in self.members.all:
            assert len(member.orders) <= self.strategy.max_in_flight, f"worker {member.slot} holds {len(member.orders)} orders"


def _spelt(value: Any) -> str:
    """A setting as a message shows it: a rule as `phocas(trim=2)`, none as `none`."""
    if isinstance(value, Mapping):
        ((name, options),) = value.items()
        return f"{name}({', '.join(f'{key}={option}' for key, option in (options or {}).items())})"
    return "none" if value is None else str(value)

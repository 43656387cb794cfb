"""Who gets no work for a while, and why.

Put into quarantine is a worker
- whose updates are always rejected: so many in a row as chance would hardly give at the rate at which those of the others are;
- whose orders are overdue, come back without an update or, where others wait for it, take several times as long as theirs, again and again:
  each is a strike, an update that counts takes away a part of one;
- that was found to corrupt data (`core.spot_checks`): it comes back only when it has passed a check;
- on a host whose last workers all died before they had done anything worth while.

After a wait it is on probation: its orders are small, until a few of its updates have counted. One that fails goes back, for twice as
long. It may have as many in hand as ever, for strategies with rounds count on that. Nobody is blamed for what happens to everybody, and
nobody is put away whom the rest cannot do without; should it come to need one later, the one that has waited longest comes back.

Checkpoints keep it: in a run that goes on, whoever stands where one was put away is put away too.

A healthy run hears nothing of all this: no verdict, order or time of it changes. Knows no lease, order, shard or strategy.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from mottle.core import protocol as p
from mottle.core import strategy as s
from mottle.core.deadlines import Deadlines
from mottle.core.effects import Effects
from mottle.core.errors import ConfigError
from mottle.core.members import Member, Members

TIMER = "brain/health"
"""The one timer of all quarantines."""
CHANCE = 1e-4
"""A streak of rejections that is less likely than this, at the others' rate, is no chance."""
FORGIVEN = 0.25
"""Of a strike, by an update that counts: one bad order in five is borne for ever."""
PROVEN = 3
"""Updates that count after which the life of a worker was worth its while."""
CLEAN = 64
"""Updates that count after which earlier quarantines are forgotten."""
SMALL = 8
"""What an order on probation is divided by."""
MOST_DOUBLINGS = 6


@dataclass(frozen=True, kw_only=True)
class HealthConfig:
    """When a worker gets no work for a while. A limit of None turns its reason off."""

    rejected: int | None = 8
    """Rejected updates in a row, at least; more where the others' are rejected often as well."""
    strikes: int | None = 3
    """Orders that were overdue, came back without an update or held up the others."""
    slow: float | None = 4.0
    """Times as long as the others' usual order that an order may take, above the floor of deadlines (`lease_floor_s`)."""
    flaps: int | None = 3
    """Workers in a row that a host may lose before any of them has done anything; those that come after wait."""
    wait_s: float = 30.0
    """First quarantine, seconds; each further one is twice as long, up to 64 times."""
    trials: int = 3
    """Updates of small orders that must count before a worker on probation is like any other."""
    min_crew: int = 1
    """Workers that are never put away; what the robust rule needs counts in any case."""
    spot_checks: float = 0.0
    """Checks of two workers against each other (`core.spot_checks`), as a share of the orders. Each costs both a micro-batch."""
    tolerance: float = 0.01
    """Relative distance at which workers of different kinds agree; those of one kind agree to the bit."""

    def __post_init__(self) -> None:
        counts = {"rejected": 1, "strikes": 1, "flaps": 1, "trials": 1, "min_crew": 1}
        wrong = [
            f"{name} must be an integer of at least {least}, got {value!r}"
            for name, least in counts.items()
            if (value := getattr(self, name)) is not None and not (type(value) is int and value >= least)
        ]
        if self.slow is not None and not self.slow > 1:
            wrong.append(f"slow is how many times as long as others an order may take, above 1, got {self.slow!r}")
        if not 0 <= self.spot_checks <= 1:
            wrong.append(f"spot_checks is a share of the orders from 0 to 1, got {self.spot_checks!r}")
        if not 0 <= self.tolerance < 1:
            wrong.append(f"tolerance is a relative distance of at least 0 and below 1, got {self.tolerance!r}")
        if not 0 < self.wait_s < float("inf"):
            wrong.append(f"wait_s must be above 0 and finite, got {self.wait_s!r}")
        if wrong:
            raise ConfigError(f"health: {'; '.join(wrong)}")


@dataclass(slots=True)
class _Record:
    """What is known of a worker."""

    host: str
    silent: bool = False
    """Beyond a deadline, and not heard of since."""
    until_ns: int | None = None
    """End of its quarantine."""
    convicted: bool = False
    """Of corrupting data; it gets no lease before it has passed a check."""
    trials: int = 0
    """Updates that must still count, on probation."""
    failed_trials: int = 0
    strikes: float = 0.0
    others_before: int = 0
    """Updates of others that had been acknowledged when its own last one was."""
    streak: int = 0
    """Rejected in a row."""
    rejected_before: int = 0
    judged_before: int = 0
    """Of everybody, when the streak began."""
    acknowledged: int = 0
    counted: int = 0
    """Updates that were accepted or left unselected."""
    clean: int = 0
    """The same, since anything was wrong."""
    waits: int = 0
    """Quarantines that are not forgotten."""
    told: set[str] = field(default_factory=set)
    """What people were told of it without anything being done."""


@dataclass(slots=True)
class _Host:
    """What is known of a machine, over the lives of its workers."""

    failed: int = 0
    """Deaths in a row that came too early; those between which nobody joined are one."""
    joined_since: bool = False


@dataclass(frozen=True, slots=True)
class _Suspect:
    """One that was in quarantine or on probation when a checkpoint was taken: the n-th worker of its group on its machine."""

    host: str
    group: str
    place: int
    why: str
    waits: int
    convicted: bool
    trials: int
    """0: it was in quarantine."""


class Health:
    """The crew's health.

    Args:
        config: None puts nobody away.
        floor_ns: orders that take no longer are never slow; None: none is.
        barriered: whether all wait for the slowest.
    """

    def __init__(
        self,
        config: HealthConfig | None,
        members: Members,
        deadlines: Deadlines,
        effects: Effects,
        *,
        floor_ns: int | None,
        barriered: bool,
    ) -> None:
        self._config = config
        self._members = members
        self._deadlines = deadlines
        self._effects = effects
        self._floor_ns = floor_ns
        self._barriered = barriered
        self.strategy_needs = 1
        """Workers without which the strategy takes no step."""
        self.rule_needs = 1
        """Rows without which the robust rule takes no step."""
        self._records: dict[int, _Record] = {}
        self._hosts: dict[str, _Host] = defaultdict(_Host)
        self._accused: dict[int, str] = {}
        self._away: set[int] = set()
        """Who is in quarantine."""
        self._to_check: set[int] = set()
        """Convicted, and their wait is over."""
        self._suspects: dict[tuple[str, str, int], _Suspect] = {}
        """Of the run that this one goes on from; those that nobody stands for yet."""
        self._started = False
        self._timer_ns: int | None = None
        """When it next rings."""
        self._rejected = self._judged = self._acknowledged = 0
        """Updates of everybody."""

    # --- what happens -----------------------------------------------------------------------------------------------------------------

    def started(self) -> None:
        """Training begins, and the first crew is known."""
        self._started = True
        for member in self._members.all:
            if member.state != "left":
                self._recognise(member)

    def joined(self, worker: int, host: str) -> None:
        """A worker joined; `host` is the machine that it is on, empty where nobody knows."""
        self._records[worker] = _Record(host, others_before=self._acknowledged)
        if self._started:
            self._recognise(self._members.here(worker))
        if not host:
            return
        machine = self._hosts[host]
        machine.joined_since = True
        if self._config is not None and self._config.flaps is not None and machine.failed >= self._config.flaps:
            self._records[worker].waits = machine.failed - self._config.flaps
            self._accused[worker] = f"the last {machine.failed} times its machine lost its workers before any of them had done anything"

    def leaving(self, worker: int) -> None:
        """It is to go, and gets no work any more whatever becomes of it."""
        self._away.discard(worker)
        self._to_check.discard(worker)

    def left(self, worker: int, *, died: bool) -> None:
        record = self._records.get(worker)
        self.leaving(worker)
        if record is None or not record.host or not died or record.counted >= PROVEN:
            return
        machine = self._hosts[record.host]
        machine.failed += machine.joined_since
        machine.joined_since = False

    def overdue(self, worker: int) -> None:
        """It let the deadline of an order pass without a word."""
        record = self._records[worker]
        record.silent = True
        self._show(worker)
        self._strike(worker, "it has been silent beyond its deadlines again and again")

    def heard_of(self, worker: int) -> None:
        """It gave a sign of life."""
        record = self._records.get(worker)
        if record is not None and record.silent:
            record.silent = False
            self._show(worker)
            self._effects.tell(p.Notice("back", f"worker {worker} is back", worker))

    def failed(self, worker: int) -> None:
        """It gave an order back that nobody had told it to stop."""
        self._strike(worker, "its orders come back without an update")

    def came_back(self, worker: int, duration_ns: int) -> None:
        """An update of it is acknowledged, that long after its order."""
        self._acknowledged += 1
        if (record := self._records.get(worker)) is None:
            return
        record.acknowledged += 1
        record.others_before = self._acknowledged - record.acknowledged
        share = SMALL if record.trials else 1
        if self._config is None or self._config.slow is None or self._floor_ns is None or duration_ns * share <= self._floor_ns:
            return
        times = [self._deadlines.usual_ns(other) for other in self._members.crew if other != worker]
        known = [each for each in times if each is not None]
        if known and duration_ns * share > max(self._floor_ns, self._config.slow * median(known)):
            self._slow(worker, record, duration_ns * share / median(known))

    def _slow(self, worker: int, record: _Record, ratio: float) -> None:
        why = f"its orders take {ratio:.1f} times as long as those of the others"
        if self._barriered:
            self._strike(worker, f"{why}, who wait for it", alone=True)
        elif "slow" not in record.told:
            record.told.add("slow")
            self._effects.tell(p.Notice("straggler", f"worker {worker} lags behind: {why}, who do not wait for it", worker))

    def judged(self, worker: int, verdict: str) -> None:
        """An acknowledged update of it got its verdict; one that came too late says nothing of its worker."""
        record = self._records.get(worker)
        if record is None or verdict == "discarded":
            return
        if verdict == "rejected":
            self._note_rejection(worker, record)
        else:
            self._note_success(worker, record)
        self._judged += 1
        self._rejected += verdict == "rejected"

    def _note_rejection(self, worker: int, record: _Record) -> None:
        if not record.streak:
            record.rejected_before, record.judged_before = self._rejected, self._judged
        record.streak += 1
        record.clean = 0
        if self._config is None or self._config.rejected is None:
            return
        if record.trials:
            record.failed_trials += 1
            if record.failed_trials > self._config.trials // 2:
                self._accused[worker] = "its updates are still rejected"
            return
        # Those of this streak, the present one left out, are among everybody's.
        judged = self._judged - record.judged_before - (record.streak - 1)
        rejected = self._rejected - record.rejected_before - (record.streak - 1)
        rate = (rejected + 1) / (judged + 2)
        if rejected < judged and record.streak >= self._config.rejected and rate**record.streak < CHANCE:
            others = f"{rejected} of the {judged} of the others meanwhile"
            self._accused[worker] = f"its last {record.streak} updates were rejected, and {others}"

    def _note_success(self, worker: int, record: _Record) -> None:
        record.streak = 0
        record.strikes = max(0.0, record.strikes - FORGIVEN)
        record.counted += 1
        record.clean += 1
        if record.clean == CLEAN:
            record.waits = 0
        if record.counted == PROVEN and record.host:
            self._hosts[record.host].failed = 0
        if record.trials:
            record.trials -= 1
            if not record.trials:
                self._show(worker)
                self._effects.tell(p.Notice("readmitted", f"worker {worker} is like any other again", worker))

    # --- corruption -------------------------------------------------------------------------------------------------------------------

    @property
    def to_be_checked(self) -> int | None:
        """A worker that comes back when it passes a check; None where there is none."""
        return min((worker for worker in self._to_check if not self._records[worker].silent), default=None)

    def convict(self, worker: int, why: str) -> None:
        """It was found to corrupt data."""
        if self._members.present(worker) is not None:
            self._records[worker].convicted = True
            self._accused[worker] = why

    def agreed(self, worker: int) -> None:
        """It passed a check."""
        if worker in self._to_check:
            self._release(worker, "it computes what another one computes")

    def was_checked(self, worker: int) -> None:
        """A check of it is over; where it was not passed the next one comes after another wait."""
        if self._config is not None and worker in self._to_check:
            self._to_check.discard(worker)
            self._records[worker].until_ns = self._effects.now_ns + round(self._config.wait_s * 1e9)
            self._set_timer()

    # --- strikes ----------------------------------------------------------------------------------------------------------------------

    def _strike(self, worker: int, why: str, *, alone: bool = False) -> None:
        """Something went wrong; `alone`: the others have been found to do better."""
        record = self._records[worker]
        record.clean = 0
        if self._config is None or self._config.strikes is None:
            return
        record.strikes += 1
        alone = alone or self._acknowledged - record.acknowledged > record.others_before
        if record.trials or (alone and record.strikes >= self._config.strikes):
            self._accused[worker] = why

    # --- quarantine and probation -----------------------------------------------------------------------------------------------------

    @property
    def least_crew(self) -> int:
        """Workers that must remain."""
        return max(self.strategy_needs, self.rule_needs, 1 if self._config is None else self._config.min_crew)

    def settle(self) -> None:
        """Put away who is accused, and take back who is needed."""
        if not (self._accused or self._away):
            return  # as after almost every event
        accused, self._accused = self._accused, {}
        for worker, why in accused.items():
            member = self._members.present(worker)
            again = worker in self._away and self._records[worker].convicted
            if member is not None and (again or member.state in ("active", "probation", "overdue")):
                self._put_away(member, why)
        while self._away and len(self._members.crew) < self.least_crew:
            first = min(self._away, key=self._preference)
            self._release(first, "the crew would be too small without it")
            if self._records[first].silent:
                break  # nor has anybody else said a word

    def _preference(self, worker: int) -> tuple[bool, bool, int, int]:
        """Who comes back first where somebody must."""
        record = self._records[worker]
        return record.silent, record.convicted, self._until_ns(worker), worker

    def _until_ns(self, worker: int) -> int:
        until_ns = self._records[worker].until_ns
        assert until_ns is not None
        return until_ns

    def _put_away(self, member: Member, why: str) -> None:
        assert self._config is not None
        record, worker = self._records[member.slot], member.slot
        rest = len(set(self._members.crew) - {worker})
        if rest < self.least_crew:
            if "stays" not in record.told:
                record.told.add("stays")
                text = f"worker {worker} stays, although {why}: {rest} without it would be fewer than the {self.least_crew} that are needed"
                self._effects.tell(p.Notice("warning", text, worker))
            return
        wait_s = self._config.wait_s * 2 ** min(record.waits, MOST_DOUBLINGS)
        record.waits += 1
        record.until_ns = self._effects.now_ns + round(wait_s * 1e9)
        record.trials = 0
        member.quarantines += 1
        member.why = why
        self._away.add(worker)
        self._to_check.discard(worker)
        self._show(worker)
        self._effects.tell(p.Notice("quarantined", f"worker {worker} gets no work for {wait_s:g} s: {why}", worker))
        self._set_timer()

    def look(self) -> None:
        """Some wait may be over."""
        self._timer_ns = None
        for worker in sorted(self._away):
            if self._until_ns(worker) > self._effects.now_ns:
                continue
            if self._records[worker].convicted:
                self._to_check.add(worker)
            else:
                self._release(worker, "its quarantine is over")
        self._set_timer()

    def _set_timer(self) -> None:
        next_ns = min(map(self._until_ns, self._away - self._to_check), default=None)
        if next_ns is not None and (self._timer_ns is None or next_ns < self._timer_ns):
            self._timer_ns = next_ns
            self._effects.tell(p.SetTimer(TIMER, next_ns))

    def _release(self, worker: int, why: str) -> None:
        assert self._config is not None
        record = self._records[worker]
        self.leaving(worker)
        record.convicted = False
        record.until_ns, record.strikes, record.streak, record.failed_trials = None, 0.0, 0, 0
        record.trials = self._config.trials
        record.told.clear()
        self._show(worker)
        text = f"worker {worker} is on probation ({why}): {record.trials} updates of small orders must count"
        self._effects.tell(p.Notice("probation", text, worker))
        member = self._members.here(worker)
        if member.state == "probation" and not member.orders:
            self._effects.hear(s.WorkerIdle(worker))

    # --- checkpoints ------------------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON types."""
        suspects = [self._suspect(member) for member in self._members.all if member.state in ("quarantined", "probation")]
        hosts = {host: machine.failed for host, machine in sorted(self._hosts.items()) if machine.failed}
        return {"suspects": [asdict(each) for each in suspects], "hosts": hosts}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up the state of a checkpoint, before anybody joins."""
        suspects = [_Suspect(**each) for each in state["suspects"]]
        self._suspects = {(each.host, each.group, each.place): each for each in suspects}
        for host, failed in state["hosts"].items():
            self._hosts[host].failed = failed

    def _suspect(self, member: Member) -> _Suspect:
        record = self._records[member.slot]
        return _Suspect(member.host, member.group, self._place(member), member.why, record.waits, record.convicted, record.trials)

    def _place(self, member: Member) -> int:
        """How many of its group are on its machine and came before it: processes are made anew, and machines and groups stay."""
        alike = [each for each in self._members.all if (each.host, each.group) == (member.host, member.group) and each.state != "left"]
        return alike.index(member)

    def _recognise(self, member: Member) -> None:
        """Treat a worker as the one was treated in whose place it is."""
        suspect = self._suspects.pop((member.host, member.group, self._place(member)), None) if self._suspects else None
        if suspect is None or self._config is None:
            return
        record, why = self._records[member.slot], f"{suspect.why} (before the run was resumed)"
        record.waits, record.convicted, record.trials = suspect.waits, suspect.convicted, suspect.trials
        if not suspect.trials:
            record.waits -= 1  # of the quarantine that begins anew
            self._accused[member.slot] = why
            return
        member.why = why
        self._show(member.slot)
        self._effects.tell(p.Notice("probation", f"worker {member.slot} is on probation: {why}", member.slot))

    def _show(self, worker: int) -> None:
        """Bring the member's state in line."""
        member, record = self._members.present(worker), self._records[worker]
        if member is None or member.state == "leaving":
            return
        if record.until_ns is not None:
            state = "quarantined"
        elif record.silent:
            state = "overdue"
        else:
            state = "probation" if record.trials else "active"
        if state != member.state:
            self._members.mark(member, state)
        if state == "active":
            member.why = ""

    # --- invariants -------------------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise AssertionError if an invariant is broken."""
        away = {member.slot for member in self._members.all if member.state == "quarantined"}
        assert self._away == away, f"{sorted(self._away)} are thought away, {sorted(away)} are shown so"
        assert not (away and len(self._members.crew) < self.least_crew and not self._all_silent(away)), "somebody is put away who is needed"

    def _all_silent(self, workers: set[int]) -> bool:
        return all(self._records[worker].silent for worker in workers)

"""Hundreds of seeded schedules of kills, joins, removals, torn and repeated messages; the invariants hold after every event."""

import json
import random
from dataclasses import replace
from functools import partial

import pytest

from mottle import strategies
from mottle.core import protocol as p
from mottle.core import wire
from mottle.core.brain import Brain
from mottle.core.config import BrainConfig
from mottle.core.naming import parse
from mottle.core.strategy import Fragmented, Rotating
from mottle.simulate import Fault, Fleet, Messages, Servers, Simulation, Synthetic, Workers
from mottle.simulate.clock import FAULT, NOBODY

SPECS = (
    "sync",
    {"sync": {"deadline_s": 0.05, "quorum": 2}},
    "backup",
    "lb_bsp",
    "async",
    {"async": {"max_in_flight": 2}},
    {"ssp": {"slack": 1}},
    {"ssp": {"slack": 0, "buffered": True}},
    "abs_sgd",
    {"abs_sgd": {"least": 1, "most": 40}},
    "fedbuff",
    {"fedfix": {"window_s": 0.02}},
    "zeno++",
    {"zeno++": {"ahead": 4}},
    {"local_sgd": {"local_steps": 4}},
    {"diloco": {"local_steps": 3, "deadline_s": 0.05}},
    {"streaming_diloco": {"local_steps": 4, "fragments": 2}},
    {"streaming_diloco": {"local_steps": 3, "fragments": 3, "overlap": 0}},
    {"slsgd": {"local_steps": 2, "participants": 3}},
    {"fedasync": {"local_steps": 3}},
    {"auto_fedrl": {"search": {"lr": [0.01, 0.1], "local_steps": [1, 5]}}},
    {"single_merging": {"local_steps": 2, "exchange": 0.5}},
    "gradient_coding",
    {"gradient_coding": {"code": "cyclic"}},
    {"sr_sgc": {"burst": 2, "window": 3, "num_stragglers": 2}},
    "m_sgc",
    {"m_sgc": {"window": 3, "models": 3}},
    {"sr_sgc": {"num_stragglers": 2, "models": 2}},
)
CODED = ("gradient_coding", "sr_sgc", "m_sgc")
DEFAULTS = {"batch_size": 24, "lr": 0.1, "rho": 0.001, "optimizer": "sgd"}


class Uneven(Synthetic):
    """Losses on trusted data go up and down, and a replica goes back to nothing that it was not told to retain."""

    def trusted_loss(self, base):
        dice = self.__dict__.setdefault("dice", random.Random(0))
        return dice.choice((1.0, 1.0, 1.0, 5.0, float("nan")))

    def run(self, replica, command, *, save=True):
        retained = self.retained.setdefault(replica, set())
        match command:
            case p.Retain(name):
                retained.add(name)
            case p.Replace(source=source):
                assert source.startswith("fetched/") or source in retained, f"{replica} holds no {source}"
        retained.difference_update(getattr(command, "drop", getattr(command, "names", ())))
        return super().run(replica, command, save=save)

    def hand_over(self, donor, newcomer):
        super().hand_over(donor, newcomer)
        self.retained[newcomer] = set(self.retained.get(donor, ()))

    @property
    def retained(self):
        """Names by replica."""
        return self.__dict__.setdefault("_retained", {})


class Spoilt(Uneven):
    """Workers of a group with an attack send what is not finite."""

    def update(self, slot, group, *rest):
        shipment = super().update(slot, group, *rest)
        return shipment if group.attack is None else shipment._replace(payloads=("spoilt",) * self.num_shards)

    def store(self, replica, order):
        stored = super().store(replica, order)
        return stored if order.payload is None else replace(stored, finite=False)


class Logged(Simulation):
    """A simulation that remembers what the brain was told and what it said.

    Args:
        relentless: whenever a newcomer has taken the place of a lost replica, one of the two dies.
        deadly: after these events of the brain the coordinator dies.
    """

    def __init__(
        self,
        strategy,
        config: BrainConfig,
        fleet: Fleet,
        seed: int,
        *,
        relentless: bool = False,
        deadly: frozenset[int] = frozenset(),
        base_every: int = 1000,
    ) -> None:
        self._deadly = deadly
        self._safe = 0
        self.log: list[tuple[int, p.Event, tuple[p.Command, ...]]] = []
        self.introduced: list[p.ReplicaId] = []
        self._dice = random.Random(seed) if relentless else None
        models = len(strategy.models) if isinstance(strategy, Rotating) else 0
        number = strategy.fragmentation.number if isinstance(strategy, Fragmented) else models
        kind = Spoilt if any(group.attack for group in fleet.workers) else Uneven
        numbers = kind(1000, config.num_shards, num_fragments=number, apart=bool(models), disagree=True, others=("donor",))
        brain = Brain(config, strategy, build=lambda spec: strategies.build(spec, DEFAULTS))
        super().__init__(brain, fleet, numbers, micro_batch=8, seed=seed, checks=True, on_event=self.note, base_every=base_every)

    def note(self, event: p.Event, commands: list[p.Command]) -> None:
        self.log.append((self.clock.now_ns, event, tuple(commands)))
        if self.num_brain_events in self._deadly:
            self.clock.soon(self.lose_coordinator)
        for newcomer in (command.replica for command in commands if isinstance(command, p.Introduce)):
            self.introduced.append(newcomer)
            if self._dice is not None:
                victim = self._dice.choice(sorted(each for each in self.brain.shards.live if each.shard == newcomer.shard))
                after_ns = self._dice.randint(0, 200_000_000)
                self.clock.at(self.clock.now_ns + after_ns, FAULT, NOBODY, partial(self.lose_one, victim, len(self.log)))

    def lose_one(self, victim: p.ReplicaId, introduced: int) -> None:
        """A replica dies, if its coordinator lives and all know of the newcomer: two deaths that meet are another matter."""
        if self.recovery is None or (self.recovery.lost_ns is None and self._is_backed(victim, introduced)):
            self.lose_replica(victim)

    def _is_backed(self, victim: p.ReplicaId, introduced: int) -> bool:
        """Whether another replica of its shard lives, and the log tells of both."""
        live = self.brain.shards.live
        others = [each for each in live if each.shard == victim.shard and each != victim and self.hosts.all[each].alive]
        return victim in live and bool(others) and self.recovery.journal.safe(live) >= introduced

    def lose_coordinator(self) -> None:
        """What every replica held then must be there afterwards."""
        recovery = self.recovery
        if recovery.lost_ns is None:
            self._safe = max(self._safe, recovery.journal.safe(self.brain.shards.live))
        super().lose_coordinator()

    def _take_over(self, takeover, epoch: int, absent_ns: int) -> None:
        """Only what the log tells has happened."""
        assert takeover.journal.stop >= self._safe, "events that were safe are lost"
        del self.log[takeover.journal.stop :]
        replayed = [(now_ns, event) for now_ns, event, _ in takeover.entries]
        assert [(now_ns, event) for now_ns, event, _ in self.log[takeover.first :]] == replayed
        super()._take_over(takeover, epoch, absent_ns)


NEWCOMERS = tuple(Workers(name=f"new{i}", count=0, sample_s=each) for i, each in enumerate((1e-4, 1e-3, 4e-3)))


def random_run(seed: int, specs=SPECS, *, deaths: int = 0) -> Logged:
    """A fleet, a strategy and a fault script, all out of one seed.

    Args:
        deaths: of the coordinator, at most.
    """
    rng, changes = random.Random(seed), random.Random(f"{seed} changes")
    replicas = rng.randint(0, 1)
    num_workers = rng.randint(2, 5)
    size, samples = rng.randint(50, 400), rng.randint(100, 900)
    config = BrainConfig(
        num_positions=size,
        max_samples=samples,
        num_shards=rng.randint(1, 3),
        replicas=replicas,
        max_grad_norm=rng.choice([None, 1.0]),
        evaluate_every=rng.choice([None, 100]),
        checkpoint_every=rng.choice([None, 150]),
        retry_rejected=rng.random() < 0.7,
        worker_state=seed % 2 == 0,
    )
    speeds = [rng.choice([2e-4, 1e-3, 4e-3]) for _ in range(num_workers)]
    faults = [
        Fault(kind="crash", at_samples=rng.randint(0, samples // 2), worker=f"w{rng.randrange(num_workers)}-0")
        for _ in range(rng.randint(0, 3))
    ]
    faults += [Fault(kind="join", at_s=rng.uniform(0, 1), group=rng.choice(NEWCOMERS).name) for _ in range(rng.randint(1, 3))]
    faults += [
        Fault(kind=changes.choice(("leave", "recall")), at_s=rng.uniform(0, 1), worker=f"w{rng.randrange(num_workers)}-0")
        for _ in range(rng.randint(0, 1))
    ]
    faults += [
        Fault(kind="pause", at_s=rng.uniform(0, 1), for_s=rng.uniform(0.001, 0.1), worker=f"w{rng.randrange(num_workers)}-0")
        for _ in range(rng.randint(0, 1))
    ]
    faults += [
        Fault(kind="slow", at_s=rng.uniform(0, 1), for_s=rng.uniform(0.001, 0.5), factor=4, worker=f"w{rng.randrange(num_workers)}-0")
        for _ in range(rng.randint(0, 1))
    ]
    spec = rng.choice(specs)
    if parse(spec, "strategy")[0] in CODED:  # a code wants more than one worker: two come that stay
        faults += [Fault(kind="join", at_s=2 + rng.random(), group=NEWCOMERS[0].name) for _ in range(2)]
    if replicas:
        faults.append(Fault(kind="lose_replica", at_s=rng.uniform(0, 1), shard=rng.randrange(config.num_shards), replica=rng.randint(0, 1)))
    dice = random.Random(f"{seed} deaths")
    faults += [Fault(kind="lose_coordinator", at_samples=dice.randint(0, samples)) for _ in range(dice.randint(1, deaths) if deaths else 0)]
    fleet = Fleet(
        workers=(*(Workers(name=f"w{i}", sample_s=each) for i, each in enumerate(speeds)), *NEWCOMERS),
        servers=Servers(start_s=rng.choice([0.0, 0.05]), bandwidth_bytes_per_s=rng.choice([None, 1e5])),
        messages=Messages(delay_s=(1e-4, 2e-3), repeat=rng.choice([0.0, 0.3])),
        detect_s=rng.uniform(1e-3, 0.2),
        faults=tuple(faults),
    )
    relentless = rng.random() < 0.5
    deadly = frozenset(dice.randint(0, 400) for _ in range(deaths))
    base_every = dice.choice((20, 150, 10_000))
    run = Logged(strategies.build(spec, DEFAULTS), config, fleet, seed, relentless=relentless, deadly=deadly, base_every=base_every)
    for _ in range(changes.choice([0, 0, 0, 1, 3])):
        settings = changes.choice([{}, {"lr": 0.01}, {"strategy": spec}])
        asked = (p.ReplaceAsked("donor", settings), p.ReplaceAsked("nobody", settings), p.Configured({"strategy": spec}))
        run.clock.at(changes.randint(0, 3 * 10**8), FAULT, NOBODY, partial(run.tell, changes.choice(asked)))
    return run


def check_outcome(run: Logged) -> None:
    """What must be true when a run is over."""
    brain = run.brain
    assert run.finished == p.Finished("samples")
    counts = brain.ledger.counts
    verdicts = [c for _, _, commands in run.log for c in commands if isinstance(c, p.Verdict)]
    assert len(verdicts) == counts.acknowledged - counts.in_flight
    assert len({v.work_id for v in verdicts}) == len(verdicts), "an update was judged twice"

    histories = [run.numbers.applied.get(replica, []) for replica in sorted(brain.shards.live)]
    newcomers = [run.numbers.applied.get(replica, []) for replica in run.hosts.all.keys() - brain.shards.live]
    assert all(history == histories[0][: len(history)] for history in newcomers), "a newcomer or a dead replica has another history"
    assert all(history == histories[0] for history in histories), "replicas or shards disagree"
    assert [number for number, _ in histories[0]] == list(range(1, brain.version.number + 1)), "versions are not one after the other"
    replaced = [number for number, names in histories[0] if any(name.startswith(("fetched/", "kept/version/")) for name in names)]
    assert len(replaced) == brain.version.lineage, "the lineage did not grow with every replacement, or without one"
    applied = {name: number for number, names in histories[0] for name in names}
    for base, update in ((c.base, p.update_name(c.work_id)) for _, _, commands in run.log for c in commands if isinstance(c, p.Compute)):
        older = [number for number in replaced if base.number < number <= applied.get(update, 0)]
        assert not older, f"{update} of lineage {base.lineage} was applied to a newer one"
    stepped = [name for _, names in histories[0] for name in names if name.startswith("update/")]
    assert len(stepped) == len(set(stepped)), "an update was applied twice"
    judged_in = {p.update_name(v.work_id) for v in verdicts if v.verdict in ("accepted", "unselected")}
    assert set(stepped) == judged_in, "applied updates and verdicts differ"

    if not counts.in_flight:
        spent = sum(epoch.applied + epoch.unselected + epoch.rejected for epoch in brain.book.epochs)
        assert spent == brain.config.max_samples, "samples were lost or used twice"
    for replica, host in run.hosts.all.items():
        if replica in brain.shards.live and host.alive:
            late = [name for name in host.machine.held if name.startswith("update/")]
            assert len(late) <= counts.in_flight + sum(fault.kind == "crash" for fault in run.fired) + 4, f"forgotten vectors: {late}"


def survive(seed: int, *, deaths: int = 0) -> int:
    """A random schedule, from its seed to the end; how often another coordinator took over."""
    try:
        run = random_run(seed, deaths=deaths)
        run.run(max_steps=1_000_000)
        check_outcome(run)
        return run.recovery.num_takeovers if deaths else 0
    except Exception as error:
        raise AssertionError(f"seed {seed} fails; repeat with random_run({seed}, deaths={deaths})") from error


@pytest.mark.parametrize("block", range(10))
def test_every_schedule_keeps_the_invariants(block: int) -> None:
    for seed in range(50 * block, 50 * block + 50):
        survive(seed)


@pytest.mark.parametrize("block", range(10))
def test_a_coordinator_that_dies_at_any_event_is_replaced_and_the_invariants_hold(block: int) -> None:
    assert sum(survive(seed, deaths=4) for seed in range(15 * block, 15 * block + 15)) >= 15


@pytest.mark.soak
@pytest.mark.parametrize("block", range(100))
def test_ten_thousand_schedules_half_of_them_with_coordinators_that_die(block: int) -> None:
    for seed in range(1000 + 100 * block, 1000 + 100 * block + 100):
        survive(seed, deaths=4 * (seed % 2))


CHANGES = SPECS[:12]
"""Those that a run can change between."""


def changing_run(seed: int) -> Logged:
    """The same with strategies that change at any moment, each of them several times."""
    run, rng = random_run(seed, specs=("auto",)), random.Random(seed)
    for at_s in sorted(rng.uniform(0, 1.5) for _ in range(rng.randint(2, 8))):
        planned = p.Planned(rng.choice(CHANGES), "as chance has it")
        run.clock.at(round(at_s * 1e9), FAULT, NOBODY, partial(run.tell, planned))
    return run


@pytest.mark.parametrize("block", range(4))
def test_changes_of_strategy_keep_the_invariants(block: int) -> None:
    for seed in range(30 * block, 30 * block + 30):
        try:
            run = changing_run(seed)
            run.run(max_steps=1_000_000)
            check_outcome(run)
        except Exception as error:
            raise AssertionError(f"seed {seed} fails; repeat with changing_run({seed})") from error


def test_strategies_did_change_in_many_of_them() -> None:
    turns = [changing_run(seed).run().brain.strategy._turn for seed in range(20)]  # type: ignore[attr-defined]
    assert sum(turns) >= 20


def test_a_log_with_changes_of_strategy_replays() -> None:
    run, again = changing_run(4), changing_run(4)
    run.run()
    assert any(isinstance(event, p.Planned) for _, event, _ in run.log)
    for now_ns, event, commands in run.log:
        decoded = wire.decode(json.loads(json.dumps(wire.encode(event))))
        assert tuple(again.brain.handle(decoded, now_ns=now_ns)) == commands


def test_models_and_strategies_were_replaced_in_many_of_them() -> None:
    notices = [c for seed in range(60) for _, _, cs in random_run(seed).run().log for c in cs if isinstance(c, p.Notice)]  # type: ignore[attr-defined]
    assert sum(notice.kind == "replaced" for notice in notices) >= 8
    assert sum("the model was not replaced" in notice.text for notice in notices) >= 5


def test_rounds_were_undone_in_many_of_them_and_replicas_hold_little_for_it() -> None:
    guarded = tuple(each for each in SPECS if isinstance(each, dict) and "auto_fedrl" in each)
    runs = [random_run(seed, guarded, deaths=4 * (seed % 2)) for seed in range(16)]
    for run in runs:
        run.run()
        check_outcome(run)
        assert all(len(run.numbers.retained[replica]) <= 2 for replica in run.brain.shards.live)  # type: ignore[attr-defined]
    notices = [c.kind for run in runs for _, _, cs in run.log for c in cs if isinstance(c, p.Notice)]
    assert notices.count("undone") >= 16


def test_newcomers_took_the_place_of_replicas_in_many_of_them() -> None:
    introduced = [len(random_run(seed).run().introduced) for seed in range(60)]  # type: ignore[attr-defined]
    assert sum(number > 0 for number in introduced) >= 10
    assert max(introduced) >= 3


def test_a_seed_repeats_bit_for_bit() -> None:
    first, second = random_run(7), random_run(7)
    first.run()
    second.run()
    # A loss may be NaN, which is not equal to itself; its text is.
    assert [*map(repr, first.log)] == [*map(repr, second.log)]


@pytest.mark.parametrize("seed", [3, 11, 12])
def test_replaying_the_log_gives_the_same_commands(seed: int) -> None:
    run = random_run(seed)
    spec_rng = random_run(seed)
    run.run()
    for now_ns, event, commands in run.log:
        assert tuple(spec_rng.brain.handle(event, now_ns=now_ns)) == commands


def test_every_fault_of_a_script_fires() -> None:
    faults = (
        Fault(kind="crash", at_samples=200, worker="worker-0"),
        Fault(kind="join", at_samples=300, group="worker"),
        Fault(kind="checkpoint", at_s=1e-9),
    )
    fleet = Fleet(workers=(Workers(count=2, sample_s=1e-3),), faults=faults, detect_s=0.005)
    run = Logged(strategies.build("async", DEFAULTS), BrainConfig(num_positions=500, max_samples=1000), fleet, seed=0)
    run.run()
    assert sorted(fault.kind for fault in run.fired) == ["checkpoint", "crash", "join"]
    assert [member.state for member in run.brain.members.all] == ["left", "active", "active"]

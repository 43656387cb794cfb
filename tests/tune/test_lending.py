"""The arbiter's machine: literal facts in, literal orders out; and fleets, trials and deaths at random with its invariants after each."""

import random

import pytest

from mottle.tune import lending as l
from mottle.tune.shares import Equal, Halving, Marginal

S = 1_000_000_000


class Ear:
    """A machine whose clock moves by hand."""

    def __init__(self, num_workers: int, policy=None, *, stay_s: int = 0, max_deaths: int = 2) -> None:
        names = [f"w{i}" for i in range(num_workers)]
        self.machine = l.Lending(names, policy or Equal(), stay_ns=stay_s * S, max_deaths=max_deaths)
        self.now_ns = 0
        assert self.machine.start() == [l.StartWorker(name) for name in names]

    def hear(self, *facts: l.Fact) -> list[l.Order]:
        orders = []
        for fact in facts:
            orders += self.machine.handle(fact, now_ns=self.now_ns)
            self.machine.check()
        return orders

    def standing(self) -> "Ear":
        self.hear(*(l.WorkerCame(name) for name in list(self.machine._workers)))
        return self


def test_the_first_trial_gets_the_fleet_and_gives_half_of_it_to_the_second() -> None:
    ear = Ear(4).standing()
    assert ear.hear(l.TrialCame("a", 1, 4)) == [l.Lend(f"w{i}", "a") for i in range(4)]
    ear.now_ns += S
    assert ear.hear(l.TrialCame("b", 1, 4)) == [l.Recall("w0", "a", False), l.Recall("w1", "a", False)]
    assert ear.hear(l.WorkerBack("w1", "a")) == [l.Lend("w1", "b")]
    assert ear.hear(l.WorkerBack("w0", "a"), l.WorkerBack("w0", "a")) == [l.Lend("w0", "b")]


def test_the_workers_of_a_trial_that_is_over_are_asked_back_at_once_and_join_the_others() -> None:
    ear = Ear(2).standing()
    assert ear.hear(l.TrialCame("a", 1, 2), l.TrialCame("b", 1, 2))[2:] == [l.Recall("w0", "a", False)]
    ear.hear(l.WorkerBack("w0", "a"))
    assert ear.hear(l.TrialOver("b"), l.TrialOver("b")) == [l.Recall("w0", "b", True)]
    assert ear.hear(l.WorkerBack("w0", "b")) == [l.Lend("w0", "a")]


def test_a_worker_on_its_way_back_is_hurried_when_its_trial_ends() -> None:
    ear = Ear(2).standing()
    ear.hear(l.TrialCame("a", 1, 2), l.TrialCame("b", 1, 2))
    assert ear.hear(l.TrialOver("a")) == [l.Recall("w0", "a", True), l.Recall("w1", "a", True)]


def test_a_trial_that_has_nothing_left_to_do_gets_nothing_more() -> None:
    ear = Ear(2).standing()
    ear.hear(l.TrialCame("a", 1, 2))
    assert ear.hear(l.WorkerBack("w0", "a", over=True), l.WorkerBack("w1", "a", over=True)) == []


def test_a_trial_whose_last_samples_are_out_gives_way_and_is_served_again_if_some_come_back() -> None:
    ear = Ear(3).standing()
    ear.hear(l.TrialCame("a", 2, 3))
    assert ear.hear(l.TrialWants("a", 1, told_ns=5), l.TrialWants("a", None, told_ns=4)) == [], "the second one comes too late"
    ear.hear(l.TrialCame("b", 1, 3), l.WorkerBack("w0", "a"))
    assert ear.machine.lent_to("b") == ["w0"]
    assert ear.machine.crew("a") == 2, "it knows best who has something to do, and sends the others by itself"
    assert ear.hear(l.WorkerBack("w2", "a")) == [l.Lend("w2", "b")]
    assert ear.hear(l.TrialWants("a", None, told_ns=6)) == [l.Recall("w0", "b", False)]
    assert ear.hear(l.WorkerBack("w0", "b")) == [l.Lend("w0", "a")]


def test_a_worker_that_comes_back_though_nobody_asked_is_lent_again() -> None:
    """As when a coordinator takes over, and the worker had not begun."""
    ear = Ear(2).standing()
    ear.hear(l.TrialCame("a", 1, 2))
    assert ear.hear(l.WorkerBack("w1", "a")) == [l.Lend("w1", "a")]


def test_trials_whose_minimum_has_no_room_wait_in_their_order() -> None:
    ear = Ear(4).standing()
    ear.hear(l.TrialCame("a", 3, 4))
    assert ear.hear(l.TrialCame("large", 2, 4), l.TrialCame("small", 1, 1)) == [], "the small one would keep the large one out"
    ear.hear(l.TrialOver("a"))
    orders = ear.hear(*(l.WorkerBack(f"w{i}", "a") for i in range(4)))
    assert [order.trial for order in orders] == ["large", "large", "small", "large"]


def test_a_minimum_is_lent_whole_or_not_at_all() -> None:
    ear = Ear(3).standing()
    ear.hear(l.TrialCame("a", 1, 3))
    assert ear.hear(l.TrialCame("b", 2, 2)) == [l.Recall("w0", "a", False), l.Recall("w1", "a", False)]
    assert ear.hear(l.WorkerBack("w0", "a")) == [], "it could not begin with one"
    assert ear.hear(l.WorkerBack("w1", "a")) == [l.Lend("w0", "b"), l.Lend("w1", "b")]


def test_nobody_moves_before_its_time_for_a_better_share_but_does_for_a_minimum() -> None:
    ear = Ear(4, Halving(reduction=2), stay_s=10).standing()
    ear.hear(l.TrialCame("a", 1, 4))
    ear.now_ns = 1 * S
    assert ear.hear(l.TrialCame("b", 1, 4)) == [l.Recall("w0", "a", False), l.SetAlarm(10 * S)], "the minimum at once, the rest later"
    ear.hear(l.WorkerBack("w0", "a"))
    ear.now_ns = 10 * S
    assert ear.hear(l.AlarmRang()) == [l.Recall("w1", "a", False)]
    ear.hear(l.WorkerBack("w1", "a"))
    ear.now_ns = 12 * S
    assert ear.hear(l.TrialReported("b", 100), l.TrialReported("b", 200)) == [l.Recall("w2", "a", False)]


def test_a_dead_worker_is_replaced_and_a_trial_that_kills_them_fails() -> None:
    ear = Ear(2).standing()
    ear.hear(l.TrialCame("a", 1, 2))
    assert ear.hear(l.WorkerLost("w0", "out of memory")) == [l.StartWorker("w0")]
    ear.hear(l.TrialReported("a", 100))
    assert ear.hear(l.WorkerCame("w0")) == [l.Lend("w0", "a")]
    assert ear.hear(l.WorkerLost("w0", "out of memory")) == [l.StartWorker("w0")], "an evaluation in between: not its second in a row"
    told = "2 workers failed in it since its last evaluation; the last one: its worker died: out of memory"
    assert ear.hear(l.WorkerLost("w1", "out of memory")) == [l.StartWorker("w1"), l.FailTrial("a", told)]
    assert ear.hear(l.WorkerCame("w1"), l.WorkerCame("w0")) == [], "it gets nothing more"
    assert ear.hear(l.TrialOver("a"), l.TrialCame("b", 2, 2)) == [l.Lend("w0", "b"), l.Lend("w1", "b")]


def test_a_worker_whose_machine_is_taken_away_is_replaced_and_nobody_is_blamed() -> None:
    ear = Ear(2, max_deaths=1).standing()
    assert ear.machine.is_idle("w0")
    ear.hear(l.TrialCame("a", 1, 2))
    assert not ear.machine.is_idle("w0")
    assert ear.hear(l.WorkerLost("w0", "taken away", taken=True)) == [l.StartWorker("w0")]
    assert ear.hear(l.WorkerCame("w0")) == [l.Lend("w0", "a")]


def test_a_worker_that_fails_in_a_trial_and_lives_goes_on_elsewhere() -> None:
    ear = Ear(1, max_deaths=1).standing()
    ear.hear(l.TrialCame("a", 1, 1), l.TrialCame("b", 1, 1))
    said = ear.hear(l.WorkerBack("w0", "a", "ValueError: no such file"))
    assert said == [
        l.FailTrial("a", "1 workers failed in it since its last evaluation; the last one: ValueError: no such file"),
        l.Lend("w0", "b"),
    ]


def test_a_fleet_that_cannot_be_whole_again_fails_who_needs_it_whole() -> None:
    ear = Ear(2).standing()
    ear.hear(l.TrialCame("whole", 2, 2))
    assert ear.hear(l.WorkerLost("w1", "its host is gone")) == [l.StartWorker("w1")]
    assert ear.hear(l.WorkerLacking("w1", "no host")) == [
        l.FailTrial("whole", "it needs 2 workers and the fleet has 1"),
        l.Recall("w0", "whole", True),
    ]
    ear = Ear(4).standing()
    ear.hear(l.TrialCame("a", 2, 2), l.TrialCame("b", 2, 2), l.WorkerLost("w0", "gone"))
    assert ear.hear(l.WorkerLacking("w0", "no host")) == [l.Recall("w2", "b", False), l.Recall("w3", "b", False)], "the last one waits"
    assert ear.hear(l.WorkerBack("w2", "b"), l.WorkerBack("w3", "b")) == [l.Lend("w2", "a")]


def test_a_trials_speed_is_taken_from_its_reports() -> None:
    ear = Ear(4, Marginal(), max_deaths=9).standing()
    ear.hear(l.TrialCame("a", 1, 4), l.TrialReported("a", 0))
    ear.now_ns = 2 * S
    ear.hear(l.TrialReported("a", 800))
    ear.hear(l.WorkerLost("w0", "gone"), l.WorkerLost("w1", "gone"))
    ear.now_ns = 4 * S
    ear.hear(l.TrialReported("a", 1200))
    assert list(ear.machine._trials["a"].points) == [(4.0, 400.0), (2.0, 200.0)]


@pytest.mark.parametrize("seed", range(60))
def test_whatever_happens_everybody_gets_a_turn_and_every_worker_comes_back(seed: int) -> None:
    """Coordinators, processes and Tune at random; whoever is asked back comes back, sooner or later."""
    rng = random.Random(seed)
    size = rng.randint(1, 5)
    policy = rng.choice([Equal(), Halving(reduction=2), Marginal()])
    ear = Ear(size, policy, stay_s=rng.choice([0, 2]), max_deaths=rng.randint(1, 4))
    machine, pending, served = ear.machine, [l.WorkerCame(f"w{i}") for i in range(size)], set()
    lent, faults, alive, alarms, moves = {}, {}, {}, [], 0

    def obey(orders: list[l.Order]) -> None:
        nonlocal moves
        for order in orders:
            match order:
                case l.Lend(worker, trial):
                    assert worker not in lent, "lent twice"
                    lent[worker], moves = trial, moves + 1
                    if trial in alive and sum(each == trial for each in lent.values()) >= alive[trial]:
                        served.add(trial)
                case l.Recall(worker, trial):
                    assert lent.get(worker) == trial
                    pending.append(l.WorkerBack(worker, trial, rng.choice(["", "", "failed"])))
                case l.StartWorker(worker):
                    pending.append(l.WorkerCame(worker))
                case l.FailTrial(trial):
                    faults[trial] = True
                case l.SetAlarm(at_ns):
                    alarms.append(at_ns)

    def tell(fact: l.Fact) -> None:
        if isinstance(fact, l.WorkerBack):
            if lent.get(fact.worker) != fact.trial:
                return
            del lent[fact.worker]
        obey(ear.hear(fact))

    came = 0
    for _ in range(200):
        ear.now_ns += rng.randint(0, S)
        for at_ns in [each for each in alarms if each <= ear.now_ns]:
            alarms.remove(at_ns)
            tell(l.AlarmRang())
        choice = rng.random()
        if pending and choice < 0.6:
            tell(pending.pop(rng.randrange(len(pending))))
        elif choice < 0.7 and came < 8:
            name, low = f"t{came}", rng.randint(1, size)
            came, alive[name] = came + 1, low
            tell(l.TrialCame(name, low, rng.randint(low, size)))
        elif choice < 0.8 and alive:
            tell(l.TrialReported(rng.choice(sorted(alive)), rng.randint(0, 1000)))
        elif choice < 0.82 and alive:
            tell(l.TrialWants(rng.choice(sorted(alive)), rng.choice([None, None, 0, 1]), ear.now_ns))
        elif choice < 0.86 and alive:
            over = rng.choice(sorted(alive))
            del alive[over]
            tell(l.TrialOver(over))
        elif choice < 0.9 and lent:
            worker = rng.choice(sorted(lent))
            del lent[worker]
            tell(l.WorkerLost(worker, "killed"))
    for name in sorted(alive):
        tell(l.TrialWants(name, None, ear.now_ns))
    while pending or alarms or alive:
        ear.now_ns += S
        if pending:
            tell(pending.pop(0))
        elif alarms:
            ear.now_ns = max(ear.now_ns, alarms.pop(0))
            tell(l.AlarmRang())
        else:
            stuck = [name for name in alive if name not in served and not faults.get(name)]
            first = next(iter(alive))
            assert first not in stuck, f"seed {seed}: {first} waits and nothing moves"
            del alive[first]
            tell(l.TrialOver(first))
    assert not lent
    assert machine.num_trials == 0
    assert moves < 40 * 8, "workers are moved for nothing"

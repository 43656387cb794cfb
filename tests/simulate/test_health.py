"""Crews with liars, machines that lose their workers again and again, and workers that hang: the invariants hold, and the run ends."""

import random

import pytest
from tests.simulate.test_schedules import DEFAULTS, SPECS, Logged, check_outcome

from mottle import strategies
from mottle.core import protocol as p
from mottle.core.config import BrainConfig
from mottle.core.health import HealthConfig
from mottle.simulate import Fault, Fleet, Messages, Workers

LIAR = {"non_finite": {}}


def ailing_run(seed: int) -> Logged:
    """Two to four honest workers, one or two liars, a machine that flaps and one that hangs, all out of one seed."""
    rng = random.Random(seed)
    samples = rng.randint(300, 1200)
    config = BrainConfig(
        num_positions=rng.randint(100, 400),
        max_samples=samples,
        num_shards=rng.randint(1, 2),
        replicas=rng.randint(0, 1),
        retry_rejected=rng.random() < 0.5,
        lease_floor_ns=rng.choice([None, 30_000_000]),
        first_lease_ns=200_000_000,
        health=HealthConfig(
            rejected=rng.randint(2, 5),
            strikes=rng.randint(1, 3),
            flaps=rng.randint(1, 2),
            wait_s=rng.choice([0.005, 0.05, 5.0]),
            trials=rng.randint(1, 3),
            min_crew=rng.randint(1, 3),
        ),
        least_crew=rng.randint(1, 2),
    )
    honest = [Workers(name=f"w{i}", sample_s=rng.choice([2e-4, 1e-3])) for i in range(rng.randint(2, 4))]
    ill = [Workers(name="liar", count=rng.randint(1, 2), sample_s=1e-4, attack=LIAR), Workers(name="loose", sample_s=5e-4)]
    faults = [Fault(kind="pause", at_s=rng.uniform(0, 0.2), for_s=rng.uniform(0.05, 0.4), worker="w0-0") for _ in range(rng.randint(0, 3))]
    for life in range(rng.randint(0, 5)):
        at_s = 0.04 * (life + rng.random())
        faults += [
            Fault(kind="crash", at_s=at_s, worker=f"loose-{life}"),
            Fault(kind="rejoin", at_s=at_s + 0.02, worker=f"loose-{life}"),
        ]
    if rng.random() < 0.3:
        faults += [Fault(kind="leave", at_s=rng.uniform(0, 0.2), worker=rng.choice(["liar-0", "w1-0"]))]
    fleet = Fleet(
        workers=(*honest, *ill),
        messages=Messages(delay_s=(1e-4, 2e-3), repeat=rng.choice([0.0, 0.3])),
        detect_s=rng.uniform(1e-3, 0.02),
        faults=tuple(faults),
    )
    return Logged(strategies.build(rng.choice(SPECS), DEFAULTS), config, fleet, seed)


@pytest.mark.parametrize("block", range(4))
def test_every_schedule_of_an_ailing_crew_keeps_the_invariants(block: int) -> None:
    kinds: dict[str, int] = {}
    for seed in range(25 * block, 25 * block + 25):
        try:
            run = ailing_run(seed)
            run.run(max_steps=1_000_000)
            check_outcome(run)
            for _, _, commands in run.log:
                for notice in (each for each in commands if isinstance(each, p.Notice)):
                    kinds[notice.kind] = kinds.get(notice.kind, 0) + 1
        except Exception as error:
            raise AssertionError(f"seed {seed} fails; repeat with ailing_run({seed})") from error
    assert min(kinds.get(kind, 0) for kind in ("quarantined", "probation", "overdue")) >= 2, kinds


@pytest.mark.parametrize("seed", [2, 5, 19])
def test_replaying_the_log_of_an_ailing_crew_gives_the_same_commands(seed: int) -> None:
    run, fresh = ailing_run(seed), ailing_run(seed)
    run.run()
    for now_ns, event, commands in run.log:
        assert tuple(fresh.brain.handle(event, now_ns=now_ns)) == commands


def test_a_liar_is_put_away_for_longer_and_longer_and_burns_little() -> None:
    """Ten times as fast as the honest ones, it would have seven of every nine samples rejected."""
    fleet = Fleet(
        workers=(Workers(name="honest", count=2, sample_s=1e-3), Workers(name="liar", sample_s=1e-4, attack=LIAR)),
        detect_s=0.01,
    )
    config = BrainConfig(num_positions=20_000, max_samples=20_000, retry_rejected=False, health=HealthConfig(wait_s=1.0))
    run = Logged(strategies.build("async", DEFAULTS), config, fleet, seed=1)
    run.run()
    (epoch,) = run.brain.book.epochs
    told = [c.text for _, _, commands in run.log for c in commands if isinstance(c, p.Notice) and c.kind == "quarantined"]
    assert epoch.rejected < 20_000 * 0.05
    assert [text.partition(" s:")[0].rpartition(" ")[2] for text in told[:3]] == ["1", "2", "4"]
    assert all(text.startswith("worker 2 ") for text in told)


def test_a_healthy_crew_hears_nothing_of_health() -> None:
    fleet = Fleet(workers=(Workers(count=3, sample_s=1e-3),))
    logs = []
    for health in (HealthConfig(), None):
        run = Logged(strategies.build("sync", DEFAULTS), BrainConfig(num_positions=500, max_samples=2000, health=health), fleet, seed=0)
        run.run()
        logs.append(run.log)
    assert logs[0] == logs[1]

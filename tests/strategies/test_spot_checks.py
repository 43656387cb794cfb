"""Silent corruption on numbers: who corrupts is found and put away, the honest are never blamed, a check changes no bit of the model."""

import numpy as np
import pytest

from mottle.core import protocol as p
from mottle.core.health import HealthConfig

CHECKING = HealthConfig(spot_checks=0.3, wait_s=50e-9)
SETTINGS = {"defaults": {"batch_size": 8, "lr": 0.01}, "num_positions": 64, "max_samples": 640, "check_samples": 4}


def flipped(sum_D):
    """The sign of one coordinate is wrong: norms do not show it, and plain means take it."""
    sum_D = sum_D.copy()
    sum_D[0] = -sum_D[0]
    return sum_D


class Story:
    """What the brain said, by notice."""

    def __init__(self, run) -> None:
        self.told: list[p.Notice] = []
        tell = run.brain.handle

        def handle(event, *, now_ns):
            commands = tell(event, now_ns=now_ns)
            self.told += [each for each in commands if isinstance(each, p.Notice)]
            return commands

        run.brain.handle = handle

    def of(self, kind: str) -> list[p.Notice]:
        return [notice for notice in self.told if notice.kind == kind]


@pytest.mark.parametrize(
    "spec", ["sync", "async", {"abs_sgd": {"least": 2}}, {"local_sgd": {"local_steps": 3}}, "m_sgc", {"m_sgc": {"models": 2}}]
)
@pytest.mark.parametrize("num_shards", [1, 3])
def test_who_corrupts_is_found_by_two_who_agree(train, least_squares, spec, num_shards: int) -> None:
    problem = least_squares(num_samples=64, dim=4, seed=1)
    run = train(spec, problem, speeds=(1, 1, 2, 1), tamper={2: flipped}, health=CHECKING, num_shards=num_shards, **SETTINGS)
    story = Story(run)
    run.run()
    assert run.finished == p.Finished("samples")
    assert {notice.worker for notice in story.of("corruption")} == {2}
    assert {notice.worker for notice in story.of("quarantined")} == {2}
    assert "who agree" in story.of("quarantined")[0].text
    assert run.brain.members.ever(2).state == "quarantined", "a check that fails is no way back"
    run.drain()
    assert not [name for shard in run.shards.values() for name in shard.vectors if name.startswith("update/")]


def test_with_two_workers_nobody_is_blamed_and_it_is_shown(train, least_squares) -> None:
    problem = least_squares(num_samples=64, dim=4, seed=1)
    run = train("async", problem, speeds=(1, 1), tamper={1: flipped}, health=CHECKING, **SETTINGS)
    story = Story(run)
    run.run()
    assert run.finished == p.Finished("samples")
    assert story.of("corruption")
    assert all("there is no third to decide: nobody is blamed" in notice.text for notice in story.of("corruption"))
    assert all(notice.worker is None for notice in story.of("corruption"))
    assert not story.of("quarantined")


def test_two_liars_of_three_who_differ_leave_nobody_blamed(train, least_squares) -> None:
    problem = least_squares(num_samples=64, dim=4, seed=1)
    tamper = {1: flipped, 2: lambda sum_D: 2 * sum_D}
    run = train("async", problem, speeds=(1, 1, 1), tamper=tamper, health=CHECKING, **SETTINGS)
    story = Story(run)
    run.run()
    assert story.of("corruption")
    assert not story.of("quarantined")


def test_a_machine_that_is_mended_passes_a_check_and_then_its_probation(train, least_squares) -> None:
    problem = least_squares(num_samples=64, dim=4, seed=1)
    broken = {"is": True}
    tamper = {0: lambda sum_D: flipped(sum_D) if broken["is"] else sum_D}
    run = train("async", problem, speeds=(1, 1, 1), tamper=tamper, health=CHECKING, **SETTINGS)
    story = Story(run)
    run.run(until=lambda: bool(story.of("quarantined")))
    broken["is"] = False
    run.run()
    assert [notice.kind for notice in story.told if notice.worker == 0 and notice.kind != "joined"][:4] == [
        "corruption",
        "quarantined",
        "probation",
        "readmitted",
    ]


@pytest.mark.parametrize("replicas", [0, 1])
def test_checks_lend_nothing_and_change_no_bit(train, least_squares, replicas: int) -> None:
    problem = least_squares(num_samples=64, dim=4, seed=1)
    settings = {**SETTINGS, "replicas": replicas, "checkpoint_every": 100, "num_shards": 2}
    plain = train("sync", problem, speeds=(1, 1, 1), health=None, **settings)
    plain.run()
    checked = train("sync", problem, speeds=(1, 1, 1), health=HealthConfig(spot_checks=1.0), **settings)
    checked.run()
    assert checked.brain.checks.num_begun > 20
    assert checked.brain.checks.num_agreed == checked.brain.checks.num_begun
    assert np.array_equal(plain.params, checked.params)
    assert plain.used == checked.used
    assert plain.brain.ledger.counts == checked.brain.ledger.counts


@pytest.mark.parametrize("seed", range(12))
def test_checks_survive_deaths_and_lost_replicas(train, least_squares, seed: int) -> None:
    rng = np.random.default_rng(seed)
    problem = least_squares(num_samples=64, dim=4, seed=1)
    run = train("async", problem, speeds=(1, 2, 3), tamper={1: flipped}, health=CHECKING, replicas=1, num_shards=2, **SETTINGS)
    for _ in range(4):
        last_ns = run.now_ns + int(rng.integers(1, 60))
        run.run(until=lambda last_ns=last_ns: run.now_ns > last_ns)
        alive = [slot for slot, worker in run.workers.items() if worker.alive]
        if rng.random() < 0.5 and len(alive) > 1:
            run.kill(int(rng.choice(alive)))
            run.join(1)
        elif rng.random() < 0.5 and len({*run.brain.shards.live}) == 4:
            run.kill_replica(p.ReplicaId(int(rng.integers(2)), int(rng.integers(2))))
    run.run()
    assert run.finished == p.Finished("samples")
    assert set(run.used.values()) <= {1}

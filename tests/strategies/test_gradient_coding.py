"""Gradient coding: literal events, synchronous SGD as the neutral reference, stragglers, and a crew that changes."""

import numpy as np
import pytest

from mottle.core import protocol as p
from mottle.core import strategy as s
from mottle.core.errors import ConfigError
from mottle.core.protocol import Version
from mottle.strategies import GradientCodingConfig
from mottle.strategies.codes import cyclic

V0 = Version(0, 0)
UNDECIDED = "too few updates came to decode the batch's sum"


@pytest.fixture
def coding(alone):
    def build(*crew: int, free: int = 100, **options):
        machine = alone(GradientCodingConfig(**{"batch_size": 6, **options}))
        machine.view.crew, machine.view.free_samples = crew, free
        return machine

    return build


def update(work_id: int, worker: int, base: Version = V0) -> s.UpdateArrived:
    return s.UpdateArrived(s.Update(work_id, worker, base, 3, norm2=1.0))


def begin(machine, first: int = 10) -> list[s.Decision]:
    """Begin a round and issue its orders, with ids first + worker."""
    decisions = machine.hear(s.VersionPublished(machine.view.version))
    machine.hear(*(s.OrderIssued(first + each.worker, each.worker, 3) for each in decisions if isinstance(each, s.AssignChunks)))
    return decisions


# --- literal events ---------------------------------------------------------------------------------------------------------------------


def test_groups_of_workers_get_the_same_chunk(coding) -> None:
    assert begin(coding(0, 1, 4, 7, batch_size=5)) == [
        s.LendChunk(0, 3),
        s.LendChunk(1, 2),
        s.AssignChunks(0, ((0, 1.0),)),
        s.AssignChunks(1, ((0, 1.0),)),
        s.AssignChunks(4, ((1, 1.0),)),
        s.AssignChunks(7, ((1, 1.0),)),
    ]


def test_the_step_is_made_as_soon_as_what_is_in_can_be_decoded(coding) -> None:
    machine = coding(0, 1, 4, 7)
    begin(machine)
    assert machine.hear(update(11, 1), update(10, 0)) == []
    assert machine.hear(update(17, 7)) == [s.Apply(((10, 1 / 6), (17, 1 / 6)), chunks=(0, 1))]
    machine.view.publish(1)
    assert begin(machine)[:2] == [s.LendChunk(2, 3), s.LendChunk(3, 3)]


def test_a_cyclic_code_steps_with_the_weights_of_its_decoding(coding) -> None:
    machine = coding(2, 3, 5)
    code = cyclic(3, 1)
    assert begin(machine)[3:] == [s.AssignChunks(worker, row) for worker, row in zip((2, 3, 5), code.rows, strict=True)], (
        "places of the code are the crew's, ascending slot"
    )
    machine.hear(update(15, 5))
    ((first, a), (second, b)) = code.decode({0, 2})
    assert (first, second) == (0, 2)
    assert machine.hear(update(12, 2)) == [s.Apply(((12, a / 6), (15, b / 6)), chunks=(0, 1, 2))]


def test_a_worker_that_dies_is_a_straggler_and_the_next_code_is_one_without_it(coding) -> None:
    machine = coding(0, 1, 2, 3)
    begin(machine)
    machine.view.crew = (0, 1, 3)
    assert machine.hear(s.OrderEnded(12, 2, "no update"), update(10, 0)) == []
    assert machine.hear(update(13, 3)) == [s.Apply(((10, 1 / 6), (13, 1 / 6)), chunks=(0, 1))]
    machine.view.publish(1)
    assert [each.worker for each in begin(machine) if isinstance(each, s.AssignChunks)] == [0, 1, 3]


def test_more_missing_than_the_code_bears_and_the_batch_is_begun_again_with_those_who_are_left(coding) -> None:
    machine = coding(0, 1, 2, 3)
    begin(machine)
    machine.hear(s.OrderEnded(12, 2, "no update"), update(10, 0))
    assert machine.hear(s.OrderEnded(13, 3, "no update")) == [s.ReleaseChunks((0, 1), UNDECIDED)]
    machine.view.crew = (0, 1)
    again = machine.hear(s.ChunksReleased((0, 1), refused=False))
    assert again == [s.LendChunk(2, 6), s.AssignChunks(0, ((2, 1.0),)), s.AssignChunks(1, ((2, 1.0),))]


def test_with_too_few_workers_it_says_once_how_many_are_wanted_and_waits(coding) -> None:
    machine = coding(0, 1, 2, num_stragglers=2)
    begin(machine)
    machine.view.crew = (0, 1)
    machine.hear(s.OrderEnded(12, 2, "no update"))
    machine.hear(update(10, 0))
    machine.view.publish(1)
    (warning,) = machine.hear(s.VersionPublished(machine.view.version))
    assert warning == s.Warn("gradient_coding with num_stragglers 2 needs 3 workers, 2 are left: it waits for more to join")
    assert machine.hear(s.WorkerIdle(0)) == []
    machine.view.crew = (0, 1, 5)
    assert len(machine.hear(s.WorkerIdle(5))) == 4


def test_before_the_first_round_nobody_is_told_that_others_have_yet_to_join(coding) -> None:
    machine = coding(0)
    assert machine.hear(s.VersionPublished(V0), s.WorkerIdle(0)) == []


def test_those_whose_updates_left_a_round_undecided_sit_out_the_next_one(coding) -> None:
    machine = coding(0, 1, 2, 3, 4, 5, 6, 7, num_stragglers=1, batch_size=8)
    begin(machine)
    for worker in (2, 3):
        decisions = machine.hear(s.OrderEnded(10 + worker, worker, "not finite", refused=True))
    assert decisions == [s.ReleaseChunks((0, 1, 2, 3), UNDECIDED)]
    again = machine.hear(s.ChunksReleased((0, 1, 2, 3), refused=True))
    assert [each.worker for each in again if isinstance(each, s.AssignChunks)] == [0, 1, 4, 5, 6, 7]
    machine.hear(*(s.OrderIssued(20 + worker, worker, 3) for worker in (0, 1, 4, 5, 6, 7)))
    machine.hear(update(20, 0), update(24, 4), update(26, 6))
    machine.view.publish(1)
    assert len([each for each in begin(machine) if isinstance(each, s.AssignChunks)]) == 8, "after a step they are asked again"


def test_a_crew_that_sends_nothing_but_rubbish_ends_the_run_by_name(coding) -> None:
    machine = coding(0, 1)
    for attempt in range(10):
        begin(machine, first=10 * attempt)
        machine.hear(s.OrderEnded(10 * attempt, 0, "not finite", refused=True))
        decisions = machine.hear(s.OrderEnded(10 * attempt + 1, 1, "not finite", refused=True))
    (halt,) = decisions
    assert halt == s.Halt(f"{UNDECIDED}, 10 times in a row, since those of workers [0, 1] were refused")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"batch_size": 0}, "batch_size >= 1"),
        ({"num_stragglers": -1}, "num_stragglers >= 0"),
        ({"code": "turbo"}, "auto, fractional, cyclic"),
    ],
)
def test_impossible_settings_are_refused(options, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        GradientCodingConfig(**{"batch_size": 6, **options})


# --- whole runs -------------------------------------------------------------------------------------------------------------------------


def test_with_groups_it_is_synchronous_sgd_of_one_worker_a_group_bit_for_bit(train, least_squares) -> None:
    problem = least_squares(num_samples=47, dim=5, seed=41)
    settings = {"defaults": {"batch_size": 10}, "num_positions": 47, "max_samples": 94}
    coded = train({"gradient_coding": {"num_stragglers": 2}}, problem, speeds=(3, 1, 2, 9, 50, 4), **settings).run()
    plain = train("sync", problem, speeds=(1, 1), **settings).run()
    assert sorted(coded.history) == sorted(plain.history)
    assert all((coded.history[number] == params).all() for number, params in plain.history.items())


@pytest.mark.parametrize(("num_workers", "num_stragglers"), [(3, 1), (5, 2), (4, 3), (5, 0)])
def test_the_cyclic_code_goes_the_way_of_synchronous_sgd(train, least_squares, num_workers: int, num_stragglers: int) -> None:
    problem = least_squares(num_samples=47, dim=5, seed=42)
    settings = {"defaults": {"batch_size": 10}, "num_positions": 47, "max_samples": 94, "num_shards": 2}
    spec = {"gradient_coding": {"num_stragglers": num_stragglers, "code": "cyclic"}}
    coded = train(spec, problem, speeds=tuple(1 + 7 * i % 5 for i in range(num_workers)), **settings).run()
    plain = train("sync", problem, speeds=(1, 1), **settings).run()
    assert sorted(coded.history) == sorted(plain.history)
    for number, params in plain.history.items():
        np.testing.assert_allclose(coded.history[number], params, rtol=1e-10, atol=1e-12)
    assert set(coded.used.values()) == {1}
    assert len(coded.used) == 94


@pytest.mark.parametrize("num_stragglers", [0, 1, 2])
def test_a_step_takes_as_long_as_the_last_one_that_it_needs(train, least_squares, num_stragglers: int) -> None:
    """The (n - s)-th fastest of n, each with s + 1 shares of the batch (`heterogeneous.md` 10.3)."""
    problem = least_squares(num_samples=400, dim=3, seed=43)
    spec = {"gradient_coding": {"num_stragglers": num_stragglers, "code": "cyclic"}}
    run = train(spec, problem, speeds=(1, 3, 30, 100), defaults={"batch_size": 12}, num_positions=400, max_samples=400)
    run.run(until=lambda: len(run.history) == 2)
    needed = (1, 3, 30, 100)[3 - num_stragglers]
    assert run.now_ns == needed * 3 * (num_stragglers + 1)


def test_a_liar_below_the_bound_stops_nobody(train, least_squares) -> None:
    problem = least_squares(num_samples=60, dim=4, seed=44)
    spoilt = {1: lambda sum_D: sum_D * float("nan")}
    run = train(
        "gradient_coding", problem, speeds=(2, 1, 2, 2), tamper=spoilt, defaults={"batch_size": 6}, num_positions=60, max_samples=120
    )
    run.run()
    assert run.finished == p.Finished("samples")
    assert len(run.history) == 21
    assert sum(epoch.rejected for epoch in run.brain.book.epochs) == 0
    assert {verdict.verdict for verdict in run.verdicts if verdict.worker == 1} <= {"rejected", "discarded"}


def test_the_loss_falls_while_the_crew_changes_and_every_sample_counts_once(train, least_squares) -> None:
    problem = least_squares(num_samples=60, dim=4, seed=45)
    spec = {"gradient_coding": {"num_stragglers": 2}}
    run = train(spec, problem, speeds=(1, 2, 3, 40), defaults={"batch_size": 6}, num_positions=60, max_samples=600)
    run.run(until=lambda: run.brain.samples >= 60)
    run.kill(0)
    run.kill(1)
    run.run()
    assert run.finished is None
    assert run.notices[-1].text.endswith("needs 3 workers, 2 are left: it waits for more to join")
    run.join(1)
    run.run(until=lambda: run.brain.samples >= 300)
    run.join(2)
    run.run()
    assert run.finished == p.Finished("samples")
    assert set(run.used.values()) == {1}
    assert len(run.used) == 600
    assert problem.loss(run.params) < 0.05 * problem.loss(problem.start)

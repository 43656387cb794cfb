"""Spot checks with literal events: what counts as a difference, and what ends a check without a verdict."""

from dataclasses import replace

import pytest
from tests.core.test_brain import R0, Ear, only, receipt, shard_commands

from mottle.core import protocol as p
from mottle.core.exactsum import exact_sum
from mottle.core.health import HealthConfig
from mottle.core.spot_checks import PATIENCE_NS

CONFIG = HealthConfig(spot_checks=1.0, tolerance=0.01)


class Checked(Ear):
    """Three workers of the given kinds; the first check is under way."""

    def __init__(self, *kinds: str) -> None:
        super().__init__(num_positions=60, max_samples=60, health=CONFIG, check_samples=2, batch_size=4)
        said = self.hear(*(p.Joined(slot, kind=kind) for slot, kind in enumerate(kinds)), p.Started(p.Version(0, 0)))
        self.asked = [each for each in only(said, p.Compute) if each.parts[0].lease.id == -1]

    def push(self, check: p.Compute, **claims: object) -> list[p.Command]:
        return self.hear(replace(receipt(check.work_id, check.worker, 2), **claims))

    def over(self, said: list[p.Command]) -> bool:
        """Whether what the check had was dropped."""
        return p.Drop(tuple(p.update_name(check.work_id) for check in self.asked)) in shard_commands(said)

    def compare(self, *products: float) -> list[p.Command]:
        """Both push, and the shards measure a.a, a.b and b.b."""
        (measure,) = [each for check in self.asked for each in shard_commands(self.push(check)) if isinstance(each, p.Measure)]
        a, b = (p.update_name(check.work_id) for check in self.asked)
        assert measure.pairs == ((a, a), (a, b), (b, b))
        return self.hear(p.Measured(R0, measure.request, tuple(exact_sum([each]) for each in products)))


def test_two_workers_compute_the_first_samples_of_an_order_and_hold_no_lease_for_it() -> None:
    ear = Checked("cpu", "cpu", "cpu")
    first, second = ear.asked
    assert first.parts == second.parts
    assert len(first.parts[0].lease) == 2
    assert first.worker != second.worker
    assert not {first.work_id, second.work_id} & {order.compute.work_id for order in ear.brain.ledger.undecided}


def test_updates_of_a_check_are_dropped_and_in_no_count() -> None:
    ear = Checked("cpu", "cpu", "cpu")
    before = ear.counts()
    said = ear.compare(4.0, 4.0, 4.0)
    assert ear.over(said)
    assert not only(said, p.Notice, p.Verdict)
    assert ear.counts() == before
    assert ear.brain.checks.num_agreed == 1


@pytest.mark.parametrize(
    ("kinds", "products", "agree"),
    [
        (("cpu", "cpu"), (4.0, 4.0, 4.0), True),
        (("cpu", "cpu"), (4.0, 4.0, 4.0 + 1e-12), False),  # one kind: to the bit
        (("cpu", "gpu"), (4.0, 4.0, 4.0 + 1e-12), True),
        (("", ""), (4.0, 4.0, 4.0 + 3.9e-4), True),  # |a - b|^2 within (0.01)^2 of |b|^2
        (("cpu", "gpu"), (4.0, 4.0, 4.0 + 4.1e-4), False),
        (("cpu", "gpu"), (4.0, -4.0, 4.0), False),  # norms alone would not show it
    ],
)
def test_one_kind_agrees_to_the_bit_and_others_within_the_tolerance(
    kinds: tuple[str, str], products: tuple[float, ...], agree: bool
) -> None:
    ear = Checked(*kinds)
    told = [notice for notice in only(ear.compare(*products), p.Notice) if notice.kind == "corruption"]
    assert bool(told) != agree
    assert all("there is no third to decide" in notice.text for notice in told)


def test_a_partner_of_the_same_kind_is_chosen_where_there_is_one() -> None:
    for _ in range(3):
        ear = Checked("cpu", "gpu", "cpu", "gpu", "tpu")
        kinds = [ear.brain.members.ever(check.worker).kind for check in ear.asked]
        assert kinds[0] == kinds[1] or "tpu" in kinds


def test_what_is_not_finite_differs_from_what_is_and_is_not_measured() -> None:
    ear = Checked("cpu", "cpu", "cpu")
    first, second = ear.asked
    ear.push(first, finite=False, norm2=0)
    (measure,) = [each for each in shard_commands(ear.push(second)) if isinstance(each, p.Measure)]
    assert measure.pairs == ((p.update_name(second.work_id),) * 2,)
    said = ear.hear(p.Measured(R0, measure.request, (exact_sum([4.0]),)))
    assert [each.worker for each in only(said, p.Compute)] == [({0, 1, 2} - {first.worker, second.worker}).pop()]


def test_a_message_that_does_not_fit_or_comes_from_another_convicts_nobody() -> None:
    for claims in ({"fault": "wrong length", "finite": False}, {"samples": 3}):
        ear = Checked("cpu", "cpu", "cpu")
        assert ear.over(ear.push(ear.asked[0], **claims))
    ear = Checked("cpu", "cpu", "cpu")
    said = ear.push(ear.asked[0], sender=7)
    assert only(said, p.Notice) == [p.Notice("warning", f"refused update/{ear.asked[0].work_id} of worker 7: it is another worker's", 7)]
    assert not ear.over(said)


def test_a_check_ends_without_a_verdict_when_a_worker_leaves_returns_it_or_takes_too_long() -> None:
    for ending in ("left", "returned", "late"):
        ear = Checked("cpu", "cpu", "cpu")
        first, second = ear.asked
        ear.push(first)
        if ending == "left":
            said = ear.hear(p.Left(second.worker, "died", died=True))
        elif ending == "returned":
            said = ear.hear(p.WorkReturned(second.worker, second.work_id, "no memory"))
        else:
            ear.now_ns = PATIENCE_NS
            said = ear.hear(p.TimerFired("brain/check"))
        assert ear.over(said)
        assert not [notice for notice in only(said, p.Notice) if notice.kind == "corruption"]
        assert shard_commands(ear.push(second))[-1:] == [p.Drop((p.update_name(second.work_id),))]


def test_without_a_share_there_are_no_checks() -> None:
    ear = Ear(num_positions=60, max_samples=60)
    assert {each.parts[0].lease.id for each in only(ear.start(), p.Compute)} == {0, 1}


def test_a_check_is_given_up_when_the_model_is_replaced() -> None:
    ear = Checked("cpu", "cpu", "cpu")
    said = ear.hear(p.ReplaceAsked("donor"), p.Fetched(R0, "fetched/1"))
    assert ear.over(said)
    assert {check.work_id for check in ear.asked} <= {each.work_id for each in only(said, p.Abandon)}
    assert not ear.brain.checks.open

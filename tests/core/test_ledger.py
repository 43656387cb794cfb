"""The ledger: one verdict for every acknowledged update, whatever else arrives."""

import pytest

from mottle.core.errors import ProtocolError
from mottle.core.ledger import VERDICTS, Ledger
from mottle.core.protocol import Compute, Lease, Part, Receipt, ReplicaId, Samples, Version, update_name

R0 = ReplicaId(0, 0)


def compute(work_id: int, worker: int = 0) -> Compute:
    return Compute(work_id, worker, Version(0, 0), (Part(Lease(work_id, 0, 0, 4)), Part(Lease(work_id + 100, 0, 8, 9))), Samples(5))


def receipt(work_id: int, worker: int = 0, replica: ReplicaId = R0) -> Receipt:
    return Receipt(replica, update_name(work_id), worker, 5, True, 1)


@pytest.fixture
def ledger():
    ledger = Ledger()
    yield ledger
    ledger.check()
    counts = ledger.counts
    assert counts.accepted + counts.unselected + counts.rejected + counts.discarded + counts.in_flight == counts.acknowledged


def stored(ledger: Ledger, work_id: int, worker: int = 0) -> None:
    ledger.issue(compute(work_id, worker), now_ns=7)
    assert ledger.add_receipt(work_id, receipt(work_id, worker)) is not None
    ledger.acknowledge(work_id)


@pytest.mark.parametrize("verdict", VERDICTS)
def test_an_update_is_issued_stored_and_decided_once(ledger: Ledger, verdict: str) -> None:
    ledger.issue(compute(1), now_ns=7)
    assert [(order.state, order.samples, order.issued_ns) for order in ledger.undecided] == [("issued", 5, 7)]
    assert ledger.counts.acknowledged == 0
    assert ledger.add_receipt(1, receipt(1)).state == "issued"
    ledger.acknowledge(1)
    assert (ledger.counts.in_flight, ledger.counts.acknowledged) == (1, 1)
    assert ledger.decide(1, verdict).compute == compute(1)
    assert ledger.undecided == ()
    assert (ledger.counts.in_flight, ledger.counts.as_dict()[verdict]) == (0, 1)
    with pytest.raises(ProtocolError, match=f"update 1 cannot be {verdict}: it is unknown"):
        ledger.decide(1, verdict)


def test_an_order_without_an_update_cannot_be_decided(ledger: Ledger) -> None:
    ledger.issue(compute(1), now_ns=0)
    with pytest.raises(ProtocolError, match="it is issued"):
        ledger.decide(1, "accepted")
    assert ledger.get(1) is not None


def test_a_work_id_is_issued_once(ledger: Ledger) -> None:
    ledger.issue(compute(1), now_ns=0)
    with pytest.raises(ProtocolError, match="issued before"):
        ledger.issue(compute(1), now_ns=0)


def test_receipts_of_unknown_foreign_stored_and_decided_orders_belong_to_nothing(ledger: Ledger) -> None:
    assert ledger.add_receipt(9, receipt(9)) is None
    ledger.issue(compute(1, worker=0), now_ns=0)
    assert ledger.add_receipt(1, receipt(1, worker=3)) is None
    assert ledger.get(1).receipts == {}
    stored(ledger, 2)
    assert ledger.add_receipt(2, receipt(2)) is None
    ledger.decide(2, "rejected")
    assert ledger.add_receipt(2, receipt(2)) is None


def test_a_receipt_that_is_said_twice_counts_once(ledger: Ledger) -> None:
    ledger.issue(compute(1), now_ns=0)
    for replica in (R0, R0, ReplicaId(1, 0)):
        ledger.add_receipt(1, receipt(1, replica=replica))
    assert set(ledger.get(1).receipts) == {R0, ReplicaId(1, 0)}


def test_an_update_is_acknowledged_once(ledger: Ledger) -> None:
    stored(ledger, 1)
    with pytest.raises(ProtocolError, match="acknowledged twice"):
        ledger.acknowledge(1)


def test_the_update_of_an_order_that_ended_is_still_acknowledged(ledger: Ledger) -> None:
    ledger.issue(compute(1), now_ns=0)
    ledger.end(1)
    assert ledger.undecided == ()
    assert ledger.get(1) is None
    assert ledger.add_receipt(1, receipt(1)).state == "ended"
    ledger.acknowledge(1)
    ledger.decide(1, "discarded")
    assert (ledger.counts.discarded, ledger.counts.acknowledged) == (1, 1)


def test_a_stored_update_cannot_end_without_a_verdict(ledger: Ledger) -> None:
    stored(ledger, 1)
    with pytest.raises(ProtocolError, match="cannot end without an update"):
        ledger.end(1)


def test_orders_of_a_worker_are_those_without_an_update(ledger: Ledger) -> None:
    stored(ledger, 1)
    for work_id, worker in ((2, 0), (3, 1), (4, 0)):
        ledger.issue(compute(work_id, worker), now_ns=0)
    assert [order.compute.work_id for order in ledger.of_worker(0)] == [2, 4]


def test_orders_that_ended_long_ago_are_forgotten(ledger: Ledger) -> None:
    for work_id in range(10_001):
        ledger.issue(compute(work_id), now_ns=0)
        ledger.end(work_id)
    assert ledger.add_receipt(0, receipt(0)) is None
    assert ledger.add_receipt(1, receipt(1)) is not None


def test_restored_counts_leave_out_what_was_in_flight(ledger: Ledger) -> None:
    stored(ledger, 1)
    stored(ledger, 2)
    ledger.decide(2, "accepted")
    resumed = Ledger()
    resumed.restore(ledger.counts.as_dict())
    resumed.check()
    assert (resumed.counts.accepted, resumed.counts.in_flight, resumed.counts.acknowledged) == (1, 0, 1)


def test_an_update_that_vanishes_from_the_record_is_counted_as_lost_and_stays_so() -> None:
    ledger = Ledger()
    stored(ledger, 1)
    stored(ledger, 2)
    ledger.decide(2, "accepted")
    del ledger._orders[1]
    assert (ledger.counts.lost, ledger.counts.in_flight, ledger.counts.acknowledged) == (1, 0, 2)
    with pytest.raises(AssertionError, match="1 acknowledged updates are lost"):
        ledger.check()
    resumed = Ledger()
    resumed.restore(ledger.counts.as_dict())
    assert resumed.counts.lost == 1


def test_an_update_that_is_decided_twice_is_counted_as_duplicated() -> None:
    ledger = Ledger()
    stored(ledger, 1)
    order = ledger.decide(1, "accepted")
    ledger._orders[1] = order
    ledger.decide(1, "accepted")
    assert (ledger.counts.duplicated, ledger.counts.accepted) == (1, 2)
    with pytest.raises(AssertionError, match="decided twice"):
        ledger.check()

"""The coordinator's end of the log: what is sent, what is safe, what was heard."""

from mottle.core import protocol as p
from mottle.core.journal import Entry, Journal, Reported

R0, R1 = p.ReplicaId(0, 0), p.ReplicaId(0, 1)


def said(replica: p.ReplicaId, number: int) -> Entry:
    return Entry(number, p.Stepped(replica, p.Version(0, number)), Reported(replica, number))


def test_entries_are_numbered_and_sent_once() -> None:
    journal = Journal()
    first, second, third = (said(R0, number) for number in (1, 2, 3))
    journal.note(first)
    journal.note(second)
    assert (journal.sent, journal.stop) == (0, 2)
    assert journal.take() == (0, (first, second))
    assert journal.take() == (2, ())
    journal.note(third)
    assert journal.take() == (2, (third,))
    assert (journal.sent, journal.stop) == (3, 3)


def test_only_reports_without_a_gap_need_not_be_kept() -> None:
    journal = Journal()
    for number in (1, 2, 5):
        journal.note(said(R0, number))
    journal.note(said(R1, 2))
    journal.note(Entry(9, p.CheckpointAsked()))
    assert journal.heard == ((R0, 2), (R1, 0))
    assert [journal.knows(Reported(R0, number)) for number in (1, 3, 5, 6)] == [True, False, True, False]
    for number in (4, 3):
        journal.note(said(R0, number))
    assert journal.heard == ((R0, 5), (R1, 0))


def test_what_every_live_replica_holds_is_safe() -> None:
    journal = Journal()
    assert journal.safe([R0, R1]) == 0
    journal.held(R0, 7)
    assert journal.safe([R0, R1]) == 0
    journal.held(R1, 4)
    journal.held(R1, 3)  # an answer that was overtaken
    assert journal.safe([R0, R1]) == 4
    assert journal.safe([R0]) == 7, "a lost replica is not waited for"

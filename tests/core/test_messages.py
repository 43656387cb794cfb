"""Messages between the machines."""

import pickle
from dataclasses import replace

from mottle.core import protocol as p

VERSION = p.Version(0, 3)


def test_messages_are_equal_by_their_fields_and_may_be_keys() -> None:
    asked = p.Evaluate(VERSION)
    assert asked == p.Evaluate(VERSION) != p.Evaluate(VERSION, trusted=True)
    assert {asked: "answer"}[p.Evaluate(VERSION)] == "answer"


def test_messages_hold_nothing_but_their_fields_and_travel_whole() -> None:
    order = p.Compute(7, 0, VERSION, (p.Part(p.Lease(1, 0, 8, 16)),), p.Samples(8))
    assert not hasattr(order, "__dict__")
    assert pickle.loads(pickle.dumps(order)) == order
    assert replace(order, worker=1) != order

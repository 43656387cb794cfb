"""The collusion channel: who sees what, and when."""

import threading

import numpy as np

from mottle.actors.collusion import Channel, rows_of


def row(value: float) -> np.ndarray:
    return np.full(3, value, dtype=np.float32)


def crew(*, rounds: bool) -> Channel:
    channel = Channel(rounds=rounds)
    for slot, faulty in ((0, False), (1, False), (2, True)):
        channel.join(slot, faulty)
    return channel


def test_in_a_round_a_colluder_waits_for_everybody() -> None:
    channel = crew(rounds=True)
    channel.deposit(2, 5, row(2))
    channel.deposit(1, 5, row(1))
    channel.deposit(0, 4, row(9))
    seen = []
    looking = threading.Thread(target=lambda: seen.append(channel.look(5)))
    looking.start()
    assert not seen
    channel.deposit(0, 5, row(0))
    looking.join(10)
    assert [tensor[0].item() for tensor in rows_of(seen[0].honest)] == [0, 1]
    assert [tensor[0].item() for tensor in rows_of(seen[0].faulty)] == [2]


def test_nobody_waits_for_a_worker_that_left() -> None:
    channel = crew(rounds=True)
    channel.deposit(2, 5, row(2))
    channel.deposit(1, 5, row(1))
    channel.leave(0)
    assert list(channel.look(5).honest) == [1]


def test_without_rounds_the_newest_updates_are_seen_at_once() -> None:
    channel = crew(rounds=False)
    channel.deposit(0, 3, row(3))
    channel.deposit(0, 4, row(4))
    channel.deposit(2, 7, row(7))
    seen = channel.look(7)
    assert [tensor[0].item() for tensor in rows_of(seen.honest)] == [4]
    assert list(seen.faulty) == [2]

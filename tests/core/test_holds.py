"""Who may still have to read which version, as changes."""

from mottle.core.holds import Holds
from mottle.core.protocol import Version

V0, V1 = Version(0, 0), Version(0, 1)


def test_an_order_is_told_once_and_released_once() -> None:
    holds = Holds()
    holds.order_issued(7, V0)
    holds.order_issued(8, V1)
    holds.order_issued(9, V0)
    assert holds.changes({}) == (((0, ("work/7", "work/9")), (1, ("work/8",))), ())
    assert holds.changes({}) == ((), ())
    holds.order_over(9)
    assert holds.changes({}) == ((), ("work/9",))
    assert holds.changes({}) == ((), ())


def test_an_order_that_came_and_went_between_two_steps_is_never_told() -> None:
    holds = Holds()
    holds.order_issued(7, V0)
    holds.order_over(7)
    assert holds.changes({}) == ((), ())


def test_other_holders_are_compared_with_those_told() -> None:
    holds = Holds()
    assert holds.changes({"evaluate": 0, "reference/1": 0}) == (((0, ("evaluate", "reference/1")),), ())
    assert holds.changes({"evaluate": 0, "reference/1": 0}) == ((), ())
    assert holds.changes({"evaluate": 3}) == (((3, ("evaluate",)),), ("evaluate", "reference/1"))
    assert holds.changes({}) == ((), ("evaluate",))

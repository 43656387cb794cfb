"""What a worker keeps from order to order, as it was before the orders that a checkpoint does not contain."""

from mottle.core.kept import KeptStates


def test_the_state_before_the_first_order_that_is_not_in_the_checkpoint() -> None:
    kept: KeptStates[str] = KeptStates(2)
    assert kept.before(0) is None, "nothing has begun"
    kept.keep(3, "before 3")
    kept.keep(7, "before 7")
    assert [kept.before(work_id) for work_id in (3, 4, 7, 8)] == ["before 3", "before 7", "before 7", None]


def test_no_more_are_kept_than_orders_can_be_undecided() -> None:
    kept: KeptStates[str] = KeptStates(1)
    kept.keep(3, "before 3")
    kept.keep(7, "before 7")
    assert kept.before(3) == "before 7"

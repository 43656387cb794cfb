"""What a worker keeps from order to order (an inner optimizer's state, what a codec held back), as it was before each of its newest orders.

A checkpoint contains no undecided update, so what belongs to it is the state before the worker's oldest undecided order: that order is
what whoever resumes begins with. A strategy that gives a worker no further order before one is decided needs one such state.
"""

from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class KeptStates(Generic[T]):
    """States by order.

    Args:
        most: that are kept; as many as orders of one worker may be undecided at once.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._states: OrderedDict[int, T] = OrderedDict()

    def keep(self, work_id: int, state: T) -> None:
        """The order begins with this state."""
        self._states[work_id] = state
        while len(self._states) > self.most:
            self._states.popitem(last=False)

    def before(self, work_id: int) -> T | None:
        """The state before the first order from that one on, of those that are kept; None if none has begun: it is as it is now."""
        return next((state for begun, state in self._states.items() if begun >= work_id), None)

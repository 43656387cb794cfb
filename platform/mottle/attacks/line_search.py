"""Best-effort maximisation of a function of one non-negative number by a fixed budget of evaluations.

Both searches expand from a start while that helps, doubling the step, and then contract it by a ratio with every evaluation. An objective
that is NaN never counts as better.
"""

from collections.abc import Callable

Objective = Callable[[float], float]


def _expand(objective: Objective, start: float, step: float, evaluations: int) -> tuple[float, float, float, float, int]:
    """Best point, its value, the last proposal, the step then and the evaluations left, after the first failure or the last evaluation."""
    best, value, proposal = start, objective(start), start
    left = evaluations - 1
    while left > 0:
        proposal = best + step
        reached = objective(proposal)
        left -= 1
        if not reached > value:
            break
        best, value, step = proposal, reached, 2 * step
    return best, value, proposal, step, left


def maximise_forward(objective: Objective, *, start: float, step: float, ratio: float, evaluations: int) -> float:
    """Contracts with proposals ahead of the best point: best + step, accepted if better.

    Args:
        evaluations: calls of the objective in all, the one at the start included.
    Returns:
        The best point evaluated; the earliest among equals.
    """
    best, value, _, step, left = _expand(objective, start, step, evaluations)
    for _ in range(left):
        step *= ratio
        reached = objective(best + step)
        if reached > value:
            best, value = best + step, reached
    return best


def maximise_swinging(objective: Objective, *, start: float, step: float, ratio: float, evaluations: int) -> float:
    """Contracts with proposals that swing around the best point: forward from one below it, back from one that is not.

    A step back that would leave the non-negative numbers is halved until it does not. Arguments and result as in `maximise_forward`.
    """
    best, value, proposal, step, left = _expand(objective, start, step, evaluations)
    for _ in range(left):
        step *= ratio
        if proposal < best:
            proposal += step
        else:
            back = step
            while back > proposal:
                back /= 2
            proposal -= back
        reached = objective(proposal)
        if reached > value:
            best, value = proposal, reached
    return best

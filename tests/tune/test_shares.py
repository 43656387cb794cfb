"""How large a crew each trial should have: worked numbers, and what holds of every policy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mottle.core.errors import ConfigError
from mottle.tune.shares import POLICIES, Demand, Equal, Halving, Marginal, policy_of, sizes


def demand(trial: str, holds: int = 0, *, minimum: int = 1, maximum: int = 100, evaluations: int = 0, points=()) -> Demand:
    return Demand(trial=trial, minimum=minimum, maximum=maximum, holds=holds, evaluations=evaluations, points=points)


def test_equal_shares_leave_the_odd_worker_where_it_is() -> None:
    assert sizes(Equal(), [demand("a", 2), demand("b", 3)], 5) == {"a": 2, "b": 3}
    assert sizes(Equal(), [demand("a", 3), demand("b", 2)], 5) == {"a": 3, "b": 2}
    assert sizes(Equal(), [demand("a"), demand("b")], 5) == {"a": 3, "b": 2}


def test_what_one_cannot_use_is_for_the_others_and_what_nobody_can_use_is_left() -> None:
    assert sizes(Equal(), [demand("a", maximum=1), demand("b")], 5) == {"a": 1, "b": 4}
    assert sizes(Equal(), [demand("a", maximum=1), demand("b", maximum=2)], 5) == {"a": 1, "b": 2}
    assert sizes(Equal(), [demand("a", minimum=3), demand("b")], 4) == {"a": 3, "b": 1}
    assert sizes(Equal(), [], 4) == {}


def test_halving_gives_as_much_more_as_successive_halving_spends() -> None:
    policy = Halving(reduction=2, grace=1)
    first, second = demand("young", evaluations=0), demand("old", evaluations=2)  # passed no rung, and two
    assert sizes(policy, [first, second], 10) == {"young": 2, "old": 8}
    assert sizes(Halving(reduction=3, grace=2), [demand("a", evaluations=1), demand("b", evaluations=2)], 8) == {"a": 2, "b": 6}
    assert sizes(Halving(reduction=3, grace=2), [demand("a", evaluations=2), demand("b", evaluations=6)], 8) == {"a": 2, "b": 6}


def test_marginal_prefers_who_scales() -> None:
    scales = demand("scales", points=[(1, 100.0), (2, 200.0), (4, 400.0)])
    stuck = demand("stuck", points=[(1, 100.0), (2, 110.0), (4, 115.0)])
    assert sizes(Marginal(), [stuck, scales], 6) == {"stuck": 1, "scales": 5}
    unknown = demand("unknown", points=[(2, 50.0), (2.1, 30.0)])
    assert sizes(Marginal(), [unknown, scales], 6) == {"unknown": 3, "scales": 3}, "crews that hardly differ say nothing"


def test_a_policy_goes_by_its_name() -> None:
    assert policy_of("equal") == Equal()
    assert policy_of({"halving": {"reduction": 3}}) == Halving(reduction=3)
    assert policy_of(Marginal()) == Marginal()
    with pytest.raises(ConfigError, match="unknown policy 'halfing'; did you mean 'halving'"):
        policy_of("halfing")
    with pytest.raises(ConfigError, match="has no option 'eta'"):
        policy_of({"halving": {"eta": 3}})
    with pytest.raises(ConfigError, match="reduction > 1"):
        policy_of({"halving": {"reduction": 1}})


POINTS = st.lists(st.tuples(st.floats(0.5, 8), st.floats(0.1, 1e4)), max_size=4)


@given(
    st.sampled_from(sorted(POLICIES)),
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 4), st.integers(0, 6), st.integers(0, 30), POINTS), max_size=5),
    st.integers(0, 6),
)
def test_minima_and_maxima_hold_and_no_worker_is_kept_that_somebody_wants(name: str, drawn, spare: int) -> None:
    demands = [
        demand(f"t{i}", holds, minimum=low, maximum=low + more, evaluations=count, points=points)
        for i, (low, more, holds, count, points) in enumerate(drawn)
    ]
    num_workers = sum(each.minimum for each in demands) + spare
    found = sizes(policy_of(name), demands, num_workers)
    assert all(each.minimum <= found[each.trial] <= each.maximum for each in demands)
    assert sum(found.values()) == min(num_workers, sum(each.maximum for each in demands))
    settled = [
        demand(d.trial, found[d.trial], minimum=d.minimum, maximum=d.maximum, evaluations=d.evaluations, points=d.points) for d in demands
    ]
    assert sizes(policy_of(name), settled, num_workers) == found, "once everybody has a share nobody moves"

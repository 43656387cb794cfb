"""Plans under uncertain profiles: scenarios repeat, stay within their shares, and the plan that is taken has the smallest robust value."""

from random import Random

import numpy as np
import pytest

from mottle.core.errors import ConfigError
from mottle.placement import Problem, SmallShape, layered_problem, place, place_robust, small_problem
from mottle.placement.graph import ABSENT
from mottle.placement.robust import robust_value, scenario


def unequal(seed: int = 0) -> Problem:
    return layered_problem(Random(seed), 60, 3, speeds=(1000, 600, 1500))


def test_the_robust_value_is_half_the_mean_and_half_the_mean_of_the_worst_quarter() -> None:
    assert robust_value([10, 20, 30, 40]) == 0.5 * 25 + 0.5 * 40
    assert robust_value([1, 2, 3, 4, 5, 6, 7, 8]) == 0.5 * 4.5 + 0.5 * 7.5
    assert robust_value([7]) == 7


def test_scenarios_repeat_differ_and_stay_within_their_shares() -> None:
    problem = unequal()
    graph = problem.graph
    assert scenario(problem, 0, 0.2, 0.1) is graph
    one, again, two = (scenario(problem, number, 0.2, 0.1) for number in (1, 1, 2))
    assert np.array_equal(one.k, again.k)
    assert not np.array_equal(one.k, two.k)
    there = graph.k < ABSENT
    ratio = one.k[there] / graph.k[there]
    assert ratio.min() >= 0.8 * 0.9 - 1 / graph.k.min()
    assert ratio.max() <= 1.2 * 1.1 + 1 / graph.k.min()
    assert ((one.cost == 0) == (graph.cost == 0)).all()


def test_ops_of_one_device_class_are_off_by_the_same_share() -> None:
    problem = layered_problem(Random(1), 40, 2)
    graph = scenario(problem, 3, 0.2, 0.0)
    assert np.array_equal(graph.k[:, 0], graph.k[:, 1])


def test_the_plan_that_is_taken_is_never_worse_than_what_auto_would_have_given() -> None:
    for seed in range(8):
        problem = small_problem(Random(seed), SmallShape(ops=(6, 9), unequal=True))
        made = place_robust(problem)
        compared = dict(made.compared)
        assert made.value == min(compared.values())
        assert made.plan.simulation.valid
        assert made.worst >= made.value


def test_without_uncertainty_it_is_the_fastest_of_the_nominal_plans() -> None:
    problem = unequal()
    made = place_robust(problem, epsilon=0.0, device_epsilon=0.0, scenarios=4)
    assert made.value <= place(problem).makespan
    assert made.plan.makespan >= made.value  # a device that takes what is ready may be faster than one that keeps to an order


@pytest.mark.parametrize("wrong", [{"epsilon": 1.0}, {"device_epsilon": -0.1}, {"scenarios": 0}])
def test_shares_and_counts_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="wanted shares"):
        place_robust(unequal(), **wrong)  # type: ignore[arg-type]

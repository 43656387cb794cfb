"""The agent of Auto-FedRL and the strategy around it: the specification's numbers, finite differences, literal events."""

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from mottle import strategies
from mottle.core import protocol as p
from mottle.core import strategy as s
from mottle.core.errors import ConfigError
from mottle.strategies.setting_policy import PRECISION, SettingPolicy, advantages, reward

RANGES = {"lr": (5e-4, 0.05), "local_steps": (2.0, 40.0)}
DEFAULTS = {"batch_size": 4, "lr": 0.01, "optimizer": "sgd"}


def policy(**options: Any) -> SettingPolicy:
    return SettingPolicy(RANGES, **{"window": 5, "rate": 0.01, "seed": 3, **options})


# --- the agent --------------------------------------------------------------------------------------------------------------------------


def test_rewards_and_advantages_of_the_worked_example() -> None:
    losses = (1.0, 0.9, 0.75, 0.7)
    rewards = [reward(before, after) for before, after in pairwise(losses)]
    assert rewards == pytest.approx([0.1, 1 / 6, 1 / 15], abs=1e-6)
    assert advantages(rewards) == pytest.approx([-0.01111, 0.05556, -0.04444], abs=1e-5)
    assert sum(advantages(rewards)) == pytest.approx(0.0, abs=1e-15)
    assert np.isfinite(reward(0.0, 0.0))


def test_the_middle_of_a_draw_is_the_middle_of_the_range_and_its_spread_the_precisions() -> None:
    agent = policy()
    assert agent.values(np.zeros(2)) == pytest.approx({"lr": 0.02525, "local_steps": 21.0})
    assert agent.values(np.array([-0.5, 0.5])) == pytest.approx({"lr": 5e-4, "local_steps": 40.0})
    drawn = np.array([agent.draw(number) for number in range(4000)])
    assert np.cov(drawn.T) == pytest.approx(np.eye(2) / PRECISION, abs=0.01)
    assert np.array_equal(policy().draw(7), agent.draw(7)), "of seed and number alone"


def test_values_stay_in_their_ranges_and_go_by_factors_where_the_scale_is_logarithmic() -> None:
    agent = policy(log=("lr",))
    assert agent.values(np.zeros(2)) == pytest.approx({"lr": 0.005, "local_steps": 21.0})
    assert agent.values(np.array([-0.25, 0.75])) == pytest.approx({"lr": 5e-4 * 10**0.5, "local_steps": 40.0})
    assert agent.values(np.array([-2.0, 0.0]))["lr"] == pytest.approx(5e-4)


def test_constant_losses_leave_the_policy_as_it_is() -> None:
    agent, before = policy(), policy().state()
    for number in range(8):
        agent.learn(agent.draw(number), reward(2.0, 2.0))
    assert (agent.state()["mean"], agent.state()["factor"]) == (before["mean"], before["factor"])


def test_it_steps_up_the_gradient_of_the_windows_objective() -> None:
    """The first Adam step has the sign of each partial derivative, which finite differences give."""
    agent = policy(rate=1e-3)
    tried = [(np.array([0.3, -0.2]), 0.1), (np.array([-0.1, 0.4]), 0.4), (np.array([0.2, 0.2]), -0.2)]
    away = advantages([gained for _, gained in tried])

    def objective(mean_K: np.ndarray, factor_KK: np.ndarray) -> float:
        logs = [np.log(abs(np.linalg.det(factor_KK))) - 0.5 * np.sum((factor_KK.T @ (u_K - mean_K)) ** 2) for u_K, _ in tried]
        return float(np.dot(away, logs))

    mean_K, factor_KK = np.zeros(2), np.eye(2) * PRECISION**0.5
    wanted_mean = [objective(mean_K + e, factor_KK) - objective(mean_K - e, factor_KK) for e in 1e-6 * np.eye(2)]
    cells = [(i, j) for i in range(2) for j in range(2)]
    bumps = [1e-6 * np.outer(np.eye(2)[i], np.eye(2)[j]) for i, j in cells]
    wanted_factor = [objective(mean_K, factor_KK + e) - objective(mean_K, factor_KK - e) for e in bumps]
    agent._tried.extend(tried[:2])
    agent.learn(*tried[2])
    assert np.sign(agent.mean_K).tolist() == np.sign(wanted_mean).tolist()
    assert [np.sign((agent.factor_KK - factor_KK)[cell]) for cell in cells] == np.sign(wanted_factor).tolist()
    assert np.abs(agent.mean_K).max() == pytest.approx(1e-3, rel=1e-4), "Adam's first step is as long as its rate"


def test_it_finds_what_is_rewarded_and_its_mean_stays_inside_the_ranges() -> None:
    agent = policy(rate=0.02)
    for number in range(300):
        u_K = agent.draw(number)
        agent.learn(u_K, -float((u_K[0] - 0.9) ** 2))
    assert 0.3 < agent.mean_K[0] <= 0.5
    assert np.abs(agent.mean_K).max() <= 0.5


def test_it_goes_on_from_its_state_and_not_from_that_of_one_over_other_settings() -> None:
    first, second = policy(), policy()
    for number in range(6):
        first.learn(first.draw(number), 0.1 * number)
    second.restore(first.state())
    for agent in (first, second):
        agent.learn(agent.draw(9), 0.3)
    assert second.state() == first.state()
    other = SettingPolicy({"lr": (1e-3, 1.0)}, window=5, rate=0.01, seed=3)
    other.restore(first.state())
    assert other.mean_K.tolist() == [0.0]


# --- the strategy -----------------------------------------------------------------------------------------------------------------------


class Crew:
    """A view of two idle workers with samples enough."""

    crew = (0, 1)
    version = head = p.Version(0, 0)
    samples, now_ns, free_samples = 0, 0, 10**6

    def busy(self, worker: int) -> bool:
        return False


def begun(search: dict[str, Any]) -> tuple[Any, list[s.Decision]]:
    strategy = strategies.build({"auto_fedrl": {"search": search, "seed": 5}}, DEFAULTS)
    return strategy, strategy.handle(s.VersionPublished(p.Version(0, 0)), Crew())


def test_a_round_is_ordered_with_what_was_drawn_and_the_loss_is_asked_for() -> None:
    strategy, (asked, *orders) = begun({"lr": [0.001, 0.1], "local_steps": [2, 10]})
    assert asked == s.MeasureLoss()
    steps, lr = strategy.settings["local_steps"], strategy.settings["lr"]
    assert isinstance(steps, int)
    assert [(each.worker, each.samples, each.local.steps, each.local.lr) for each in orders] == [
        (0, 2 * steps, steps, lr),
        (1, 2 * steps, steps, lr),
    ]


def test_the_servers_rate_multiplies_what_the_rounds_mean_adds() -> None:
    def step(search: dict[str, Any]) -> tuple[Any, s.Apply]:
        strategy, decisions = begun(search)
        view, said = Crew(), []
        for work_id, order in enumerate(each for each in decisions if isinstance(each, s.Assign)):
            strategy.handle(s.OrderIssued(work_id, order.worker, order.samples), view)
        for work_id in (0, 1):
            said = strategy.handle(s.UpdateArrived(s.Update(work_id, work_id, p.Version(0, 0), 32, 1.0)), view)
        return strategy, said[-1]

    _, plain = step({})
    strategy, scaled = step({"server_lr": [0.5, 1.5]})
    rate = strategy.settings["server_lr"]
    assert rate != 1.0
    assert scaled.terms == tuple((work_id, weight * rate) for work_id, weight in plain.terms)


def test_a_reward_goes_to_the_round_that_made_the_version() -> None:
    strategy, _ = begun({"lr": [0.001, 0.1]})
    learnt: list[tuple[float, float]] = []
    strategy._policy.learn = lambda u_K, gained: learnt.append((float(u_K[0]), gained))
    view = Crew()
    first = float(strategy._policy.draw(1)[0])
    strategy.handle(s.LossMeasured(p.Version(0, 0), 2.0), view)
    view.version = view.head = p.Version(0, 1)
    strategy.handle(s.VersionPublished(p.Version(0, 1)), view)
    second = float(strategy._policy.draw(2)[0])
    view.version = view.head = p.Version(0, 2)
    strategy.handle(s.VersionPublished(p.Version(0, 2)), view)
    strategy.handle(s.LossMeasured(p.Version(0, 1), 1.0), view)
    strategy.handle(s.LossMeasured(p.Version(0, 2), None), view)
    assert learnt == [(first, pytest.approx(0.5))], "nothing was measured of the second"
    assert second not in [u for u, _ in learnt]
    strategy.handle(s.LossMeasured(p.Version(0, 3), 0.5), view)
    assert len(learnt) == 1, "nor can the third be compared with it"


def test_without_settings_to_search_it_is_the_strategy_that_it_is_around(train, least_squares) -> None:
    problem = least_squares(num_samples=40, dim=3, seed=2)
    numbers = {"num_positions": 40, "max_samples": 160, "defaults": {"batch_size": 4, "lr": 0.02}}
    specs = ({"slowmo": {"local_steps": 3}}, {"auto_fedrl": {"strategy": {"slowmo": {"local_steps": 3}}, "search": {}}})
    own, around = (train(spec, problem, speeds=(1, 2), **numbers).run() for spec in specs)
    assert np.array_equal(own.params, around.params)


def test_it_learns_a_larger_rate_where_that_helps_and_uses_every_sample_once(train, least_squares) -> None:
    problem = least_squares(num_samples=60, dim=3, seed=4)
    spec = {"auto_fedrl": {"strategy": {"local_sgd": {"local_steps": 1}}, "search": {"lr": [0.0002, 0.02]}, "agent_rate": 0.03}}
    run = train(spec, problem, speeds=(1, 1), num_positions=60, max_samples=60 * 40, defaults={"batch_size": 6, "lr": 0.01}).run()
    agent = run.brain.strategy._policy
    assert agent.mean_K[0] > 0.05
    assert set(Counter(run.used).values()) == {1}
    resumed = strategies.build(spec, DEFAULTS)
    resumed.restore(run.brain.strategy.state())
    assert resumed._policy.state() == agent.state()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"search": {"lrr": [0.1, 1.0]}}, "did you mean 'lr'"),
        ({"search": {"lr": [1.0, 0.1]}}, "0 < low < high for lr"),
        ({"search": {"lr": [0.1, 1.0]}, "log": ["local_steps"]}, "takes in log what it searches"),
        ({"strategy": "async"}, "around strategies of rounds of local steps"),
        ({"strategy": "fedasync"}, "around strategies of rounds of local steps"),
        ({"strategy": {"local_sgd": {"rule": {"median": {}}}}}, "has no server_lr to search"),
        ({"window": 1}, "window >= 2"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        strategies.build({"auto_fedrl": options}, DEFAULTS)

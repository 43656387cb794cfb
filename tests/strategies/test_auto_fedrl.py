"""The agent of Auto-FedRL and the strategy around it: the specification's numbers, finite differences, literal events."""

import json
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
    assert [reward(1.0, 50.0), reward(1.0, np.nan), reward(np.inf, 1.0)] == [-1.0, -1.0, 0.0]


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

    def publish(self, strategy: Any, number: int) -> list[s.Decision]:
        self.version = self.head = p.Version(0, number)
        strategy._inner._round = None  # the round that made it is over
        decisions: list[s.Decision] = strategy.handle(s.VersionPublished(self.version), self)
        return decisions


def begun(search: dict[str, Any]) -> tuple[Any, list[s.Decision]]:
    strategy = strategies.build({"auto_fedrl": {"search": search, "seed": 5}}, DEFAULTS)
    return strategy, strategy.handle(s.VersionPublished(p.Version(0, 0)), Crew())


def test_a_round_is_ordered_with_what_was_drawn_and_the_loss_is_asked_for() -> None:
    strategy, (kept, asked, *orders) = begun({"lr": [0.001, 0.1], "local_steps": [2, 10]})
    assert (kept, asked) == (s.Retain("version/0"), s.MeasureLoss())
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
    for number, loss in ((0, 2.0), (1, 1.0), (2, None), (3, 0.5)):
        view.publish(strategy, number)
        strategy.handle(s.LossMeasured(p.Version(0, number), loss), view)
    assert learnt == [(first, pytest.approx(0.5))], "nothing was measured of the second, nor can the third be compared with it"


# --- rounds that are undone -------------------------------------------------------------------------------------------------------------


def judged(strategy: Any, view: Crew, losses: dict[int, float]) -> list[s.Decision]:
    """What the strategy says to the last of these versions' losses."""
    said: list[s.Decision] = []
    for number, loss in losses.items():
        view.publish(strategy, number)
        said = strategy.handle(s.LossMeasured(p.Version(0, number), loss), view)
    return said


def test_the_newest_good_version_is_kept_and_those_before_it_are_let_go() -> None:
    strategy, _ = begun({"lr": [0.001, 0.1]})
    view = Crew()
    assert judged(strategy, view, {0: 2.0}) == []
    assert view.publish(strategy, 1)[:2] == [s.Retain("version/1"), s.MeasureLoss()]
    assert strategy.handle(s.LossMeasured(p.Version(0, 1), 1.0), view) == [s.Release("version/0")]
    assert judged(strategy, view, {2: None}) == [s.Release("version/2")], "nobody knows what it is worth"
    assert judged(strategy, view, {3: 1.5}) == [s.Release("version/1")]


def test_a_version_beyond_the_cliff_is_undone_and_its_settings_are_known_to_ruin() -> None:
    strategy, _ = begun({"lr": [0.001, 0.1]})
    view = Crew()
    judged(strategy, view, {0: 2.0, 1: 1.0, 2: 0.5})
    view.publish(strategy, 3)
    tried = strategy._drawn[3]
    notice, back = strategy.handle(s.LossMeasured(p.Version(0, 3), 2.01), view)  # the median of the three is 1
    assert back == s.Revert("version/2")
    assert (notice.kind, notice.text.startswith("the round of version 3 (lr ")) == ("undone", True)
    assert notice.text.endswith("is undone: the loss on trusted data became 2.01")
    assert strategy._policy.state()["ruinous"] == [np.clip(tried, -0.5, 0.5).tolist()]
    assert strategy._policy.state()["tried"][-1] == [tried.tolist(), -1.0]
    assert strategy.handle(s.WorkerIdle(0), view) == [], "nothing begins at the ruin"


def test_a_loss_that_is_no_number_is_a_ruin_and_one_below_the_cliff_is_none() -> None:
    strategy, _ = begun({"lr": [0.001, 0.1]})
    view = Crew()
    assert judged(strategy, view, {0: 2.0, 1: 1.0, 2: 2.9}) == [s.Release("version/1")]
    assert judged(strategy, view, {3: float("nan")})[-1] == s.Revert("version/2")


def test_a_run_that_begins_badly_has_nothing_to_go_back_to() -> None:
    strategy, _ = begun({"lr": [0.001, 0.1]})
    assert judged(strategy, Crew(), {0: float("inf")}) == []


def test_a_round_waits_until_all_versions_but_the_newest_are_judged() -> None:
    strategy, _ = begun({"lr": [0.001, 0.1]})
    view = Crew()
    said = view.publish(strategy, 1)
    assert said == [s.Retain("version/1"), s.MeasureLoss()], "that of version 0 is not known"
    assert strategy.handle(s.WorkerIdle(1), view) == []
    said = strategy.handle(s.LossMeasured(p.Version(0, 0), 2.0), view)
    assert [each.worker for each in said if isinstance(each, s.Assign)] == [0, 1]


def reverted(strategy: Any, view: Crew) -> tuple[Any, list[s.Decision]]:
    """What the brain makes of a `Revert`: a fresh strategy with the state of the one before, at a version of the next lineage."""
    fresh = strategies.build({"auto_fedrl": {"search": {"lr": [0.001, 0.1]}, "seed": 5}}, DEFAULTS)
    fresh.restore(json.loads(json.dumps(strategy.state())))
    view.version = view.head = p.Version(1, view.head.number + 1)
    return fresh, fresh.handle(s.VersionPublished(view.version), view)


def test_a_run_that_went_back_goes_on_with_other_settings_and_is_not_judged_twice() -> None:
    strategy, _ = begun({"lr": [0.001, 0.1]})
    view = Crew()
    judged(strategy, view, {0: 2.0, 1: 1.0, 2: 9.0})
    ruinous = strategy.state()["agent"]["ruinous"]
    fresh, (gone, kept, *orders) = reverted(strategy, view)
    assert (gone, kept) == (s.Release("version/2"), s.Retain("version/3"))
    assert [type(each) for each in orders] == [s.Assign, s.Assign], "its loss is that of version 1"
    assert fresh._policy.state()["ruinous"] == ruinous
    view.version = view.head = p.Version(1, 4)
    fresh.handle(s.VersionPublished(view.version), view)
    fresh.handle(s.LossMeasured(view.version, 0.5), view)
    assert fresh._policy.state()["tried"][-1][1] == pytest.approx(0.5), "against the loss of what it went back to"


def test_a_run_resumed_in_the_middle_of_going_back_goes_back() -> None:
    strategy, _ = begun({"lr": [0.001, 0.1]})
    view = Crew()
    judged(strategy, view, {0: 2.0, 1: 1.0, 2: 9.0})
    resumed = strategies.build({"auto_fedrl": {"search": {"lr": [0.001, 0.1]}, "seed": 5}}, DEFAULTS)
    resumed.restore(json.loads(json.dumps(strategy.state())))
    assert resumed.handle(s.VersionPublished(view.version), view) == [s.Revert("version/1")]


def test_a_resumed_run_has_its_version_judged_again_and_goes_on_with_what_was_drawn() -> None:
    strategy, _ = begun({"lr": [0.001, 0.1]})
    view = Crew()
    judged(strategy, view, {0: 2.0})
    view.publish(strategy, 1)
    strategy._policy.mean_K += 0.1  # it has learnt since
    resumed = strategies.build({"auto_fedrl": {"search": {"lr": [0.001, 0.1]}, "seed": 5}}, DEFAULTS)
    resumed.restore(json.loads(json.dumps(strategy.state())))
    asked, *orders = resumed.handle(s.VersionPublished(view.version), view)
    assert asked == s.MeasureLoss(), "the shards retain it already"
    assert [each.local.lr for each in orders] == [strategy.settings["lr"]] * 2
    assert resumed.handle(s.LossMeasured(view.version, 9.0), view)[-1] == s.Revert("version/0")


def test_another_runs_model_is_judged_by_itself_alone() -> None:
    strategy, _ = begun({"lr": [0.001, 0.1]})
    view = Crew()
    judged(strategy, view, {0: 2.0, 1: 1.0})
    fresh, said = reverted(strategy, view)
    assert said[:3] == [s.Release("version/1"), s.Retain("version/2"), s.MeasureLoss()]
    assert fresh.handle(s.LossMeasured(view.version, 50.0), view) == []


def test_with_no_cliff_nothing_is_undone_and_nothing_retained() -> None:
    strategy = strategies.build({"auto_fedrl": {"search": {"lr": [0.001, 0.1]}, "cliff": None}}, DEFAULTS)
    view = Crew()
    assert not [each for each in view.publish(strategy, 0) if isinstance(each, s.Retain)]
    assert judged(strategy, view, {0: 2.0, 1: 1.0, 2: float("nan")}) == []
    assert strategy._policy.state()["tried"][-1][1] == -1.0


def test_a_round_of_nothing_but_refused_updates_is_tried_again_with_other_settings() -> None:
    strategy, decisions = begun({"lr": [0.001, 0.1]})
    view, first = Crew(), strategy.settings["lr"]
    for work_id, order in enumerate(each for each in decisions if isinstance(each, s.Assign)):
        strategy.handle(s.OrderIssued(work_id, order.worker, order.samples), view)
    assert strategy.handle(s.OrderEnded(0, 0, "not finite", refused=True), view) == []
    again = strategy.handle(s.OrderEnded(1, 1, "not finite", refused=True), view)
    assert {each.local.lr for each in again if isinstance(each, s.Assign)} == {strategy.settings["lr"]}
    assert strategy.settings["lr"] != first
    assert len(strategy._policy.state()["ruinous"]) == 1


def test_draws_keep_to_where_the_nearest_settings_known_did_no_harm() -> None:
    agent = policy()
    for number in range(20):
        u_K = np.clip(agent.draw(number), -0.5, 0.5)
        agent.ruined(u_K) if u_K[0] > 0.2 else agent.learn(u_K, 0.1)
    later = np.clip([agent.draw(number) for number in range(100, 300)], -0.5, 0.5)
    assert np.mean(later[:, 0] > 0.2) < 0.1
    assert later[:, 0].max() > 0.1, "the rest is open"
    lost = policy()
    lost.ruined(np.array([0.4, 0.0]))
    assert np.linalg.norm(np.clip(lost.draw(1), -0.5, 0.5) - [0.4, 0.0]) > 0.6, "as far as can be, while nothing is known to be harmless"


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


def test_a_run_whose_agent_tries_ruinous_rates_ends_well_where_one_without_the_guard_is_lost(train, least_squares) -> None:
    problem = least_squares(num_samples=60, dim=3, seed=4)
    begun_at = problem.loss(problem.start)

    def ended(seed: int, **options: Any) -> Any:
        spec = {"strategy": {"slowmo": {"local_steps": 4}}, "search": {"lr": [0.02, 4.0]}, "log": ["lr"], "seed": seed, **options}
        numbers = {"num_positions": 60, "max_samples": 60 * 16, "defaults": {"batch_size": 6, "lr": 0.01}}
        return train({"auto_fedrl": spec}, problem, speeds=(1, 1), **numbers).run()

    for seed in range(1, 3):
        run = ended(seed)
        assert problem.loss(run.params) < 0.1 * begun_at
        told = Counter(each.kind for each in run.notices)
        assert told["undone"] == told["replaced"] == run.brain.version.lineage
        assert told["undone"] >= 2
        assert set(Counter(run.used).values()) == {1}
        assert len(run.used) + sum(epoch.rejected for epoch in run.brain.book.epochs) == 60 * 16
        assert problem.loss(ended(seed, cliff=None).params) > begun_at


def test_a_ruin_at_the_very_end_is_undone_too(train, least_squares) -> None:
    """Of two rounds the second is the last: its loss is waited for."""
    problem = least_squares(num_samples=24, dim=3, seed=4)
    spec = {"auto_fedrl": {"strategy": {"local_sgd": {"local_steps": 2}}, "search": {"lr": [0.01, 50.0]}, "log": ["lr"]}}
    numbers = {"num_positions": 24, "max_samples": 24, "defaults": {"batch_size": 6, "lr": 0.01}}
    runs = [train({"auto_fedrl": {**spec["auto_fedrl"], "seed": seed}}, problem, **numbers).run() for seed in range(12)]
    late = [run for run in runs if any("the round of version 2 " in each.text for each in run.notices)]
    assert late
    for run in late:
        assert run.finished == p.Finished("samples")
        assert problem.loss(run.params) <= problem.loss(problem.start)


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
        ({"cliff": 1.0}, "cliff > 1, got 1.0; cliff: null undoes nothing"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        strategies.build({"auto_fedrl": options}, DEFAULTS)

"""Batch and learning rate when the crew changes: the specification's numbers, laws, plain loops, and whole runs with joins and deaths."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mottle import strategies
from mottle.core import protocol as p
from mottle.core import strategy as s
from mottle.core.errors import ConfigError
from mottle.strategies import batch_policy
from mottle.strategies.balance import Speed, even_time, level_time
from mottle.strategies.batch_by_noise import goodput, sizes
from mottle.strategies.noise_scale import MOST, NoiseScale, gain

NOISE, BASE = 138.971429 / 0.657143, 32  # S over G2 of the specification's example
V0 = p.Version(0, 0)

# --- gains and goodput ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "gained"), [(1, 1.0), (2, 1.767677), (4, 2.868852), (8, 4.166667)])
def test_gains_are_those_of_the_specification(scale: int, gained: float) -> None:
    assert gain(scale, BASE, NOISE) == pytest.approx(gained, abs=1e-6)


@given(scale=st.floats(1.0, 1e4), more=st.floats(1.001, 100.0), noise=st.floats(0.0, MOST), base=st.integers(1, 10**5))
def test_a_gain_is_between_one_and_the_scale_and_grows_with_it(scale: float, more: float, noise: float, base: int) -> None:
    assert gain(1.0, base, noise) == pytest.approx(1.0)
    assert 1 - 1e-9 <= gain(scale, base, noise) <= scale * (1 + 1e-9)
    assert gain(scale * more, base, noise) >= gain(scale, base, noise) * (1 - 1e-9)
    assert gain(1 / scale, base, noise) <= 1 + 1e-9


def test_the_estimate_has_no_bias() -> None:
    """Gradients of unequal batches around a known one, each sample with a known variance."""
    rng = np.random.default_rng(1)
    truth_D, deviation, counts = np.array([1.0, -0.5, 0.25]), 2.0, [4, 8, 16]
    noise = NoiseScale()
    for _ in range(10_000):
        rows = [truth_D + deviation / count**0.5 * rng.normal(size=3) for count in counts]
        products = [float(rows[i] @ rows[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
        noise.note(counts, [float(row @ row) for row in rows], products, newest=1e-9)
    true_noise, true_signal = 3 * deviation**2, float(truth_D @ truth_D)
    assert noise.state()["noise"] == pytest.approx(true_noise, rel=0.02)
    assert noise.state()["signal"] == pytest.approx(true_signal, rel=0.02)


def test_numbers_that_are_too_large_are_passed_over() -> None:
    noise = NoiseScale()
    noise.note([4, 4], [2.0, 2.0], [1.0])
    noise.note([4, 4], [float("inf"), 2.0], [float("inf")])
    assert noise.value == 4.0


def test_the_goodput_of_one_replica_is_that_of_the_specification() -> None:
    """T = 0.02 + 0.001 B: B = 65 is the best of all whole numbers, at 673.43."""
    alone = [Speed(0.001, 0.02)]
    best = max(range(BASE, 400), key=lambda batch: goodput(batch, even_time(batch, alone), BASE, NOISE))
    assert best == 65
    assert goodput(65, level_time(65, alone), BASE, NOISE) == pytest.approx(673.43, abs=0.01)


def test_sizes_are_whole_numbers_in_geometric_spacing() -> None:
    assert sizes(32, 32) == [32]
    found = sizes(32, 1024)
    assert (found[0], found[-1], len(found)) == (32, 1024, 50)
    assert sizes(1, 3) == [1, 2, 3]


# --- literal events ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Rounds:
    """Plays whole rounds of a strategy that is alone."""

    played: object
    next_id: int = 0

    def play(self, *, norm2: float = 1.0, dot: float = 1.0, sample_ns: int = 1000, overhead_ns: int = 0) -> s.Apply:
        """One round in which everybody answers and every inner product is per pair of samples; its step."""
        view, hear = self.played.view, self.played.hear
        orders = [each for each in hear(s.VersionPublished(view.version)) if isinstance(each, s.Assign)]
        events: list[s.StrategyEvent] = []
        for order in orders:
            self.next_id += 1
            events.append(s.OrderIssued(self.next_id, order.worker, order.samples))
        updates = [
            s.Update(
                event.work_id,
                event.worker,
                view.version,
                event.samples,
                norm2 * event.samples**2,
                compute_ns=overhead_ns + sample_ns * event.samples,
                took_ns=overhead_ns + sample_ns * event.samples,
            )
            for event in events
        ]
        for event in events:
            hear(event)
        decisions: list[s.Decision] = []
        for update in updates:
            decisions = hear(s.UpdateArrived(update))
        self.notes = [each.text for each in decisions if isinstance(each, s.Warn)]
        (self.step,) = [each for each in decisions if isinstance(each, s.Apply)]
        for asked in (each for each in decisions if isinstance(each, s.MeasureDots)):
            ids = {p.update_name(update.work_id): update.samples for update in updates}
            own = ids.get(asked.reference, 1)  # what is kept is a mean
            hear(s.DotsMeasured(asked.tag, tuple(dot * own * ids[p.update_name(work_id)] for work_id in asked.work_ids)))
        view.publish(view.version.number + 1)
        return self.step

    @property
    def batch(self) -> int:
        return round(1 / self.step.terms[0][1])


def rounds(alone, policy, *, crew=(0, 1), name="sync", batch_size=8, **options) -> Rounds:
    played = alone(strategies.catalogue()[name](batch_size=batch_size, batch_policy=policy, **options))
    played.view.crew, played.view.free_samples = tuple(crew), 10**9
    return Rounds(played)


def test_with_a_fixed_batch_only_shares_follow_the_crew(alone) -> None:
    run = rounds(alone, None)
    for crew in ((0, 1), (0, 1, 2, 3), (2,)):
        run.played.view.crew = crew
        step = run.play()
        assert (run.batch, step.rate, step.lead) == (8, 1.0, 0)


def test_a_linear_rate_is_reached_in_a_ramp_after_each_change(alone) -> None:
    run = rounds(alone, {"linear": {"per_worker": 4, "ramp_steps": 4}})
    assert [run.play().rate for _ in range(3)] == [1.0, 1.0, 1.0]
    run.played.view.crew = (0, 1, 2, 3)
    assert [run.play().rate for _ in range(6)] == [1.25, 1.5, 1.75, 2.0, 2.0, 2.0]
    assert run.batch == 16
    run.played.view.crew = (0, 1, 2)
    assert [run.play().rate for _ in range(2)] == [1.875, 1.75]
    run.played.view.crew = (0,)
    assert [run.play().rate for _ in range(4)] == [1.4375, 1.125, 0.8125, 0.5], "from where the ramp before has come to"


def test_the_first_crew_begins_at_its_own_rate_and_people_are_told_of_another_batch(alone) -> None:
    run = rounds(alone, {"linear": {"per_worker": 8, "rate": "sqrt"}})
    assert run.play().rate == 2**0.5
    assert run.notes == ["steps of 16 samples in the place of 8, at 1.41 times the rate"]
    run.play()
    assert run.notes == []


def test_a_backup_that_no_step_waits_for_brings_no_samples(alone) -> None:
    run = rounds(alone, {"linear": {"per_worker": 4}}, crew=(0, 1, 2), name="backup", num_backups=1)
    view = run.played.view
    assert [each.samples for each in run.played.hear(s.VersionPublished(view.version)) if isinstance(each, s.Assign)] == [4, 4, 4]


def test_the_memory_of_a_crew_bounds_batch_and_rate(alone) -> None:
    run = rounds(alone, {"linear": {"per_worker": 8}}, name="lb_bsp", most=6)
    assert run.play().rate == 1.5
    assert run.batch == 12


def test_adascale_takes_the_gain_of_the_noise_that_it_has_measured(alone) -> None:
    """|g|^2 = 5 with an inner product of 1: S = 4 samples * 4 = 16, so phi = 16 and r(2) = 2 * 24 / 32."""
    run = rounds(alone, {"adascale": {"per_worker": 4}}, crew=(0, 1, 2, 3))
    assert [run.play(norm2=5.0).rate for _ in range(3)] == [1.0, pytest.approx(1.5), pytest.approx(1.5)]
    assert run.step.lead == (-8 - 4), "of 16 samples the first step was worth 8, the second 12"


def test_at_the_batch_of_the_job_adascale_changes_nothing_and_below_it_the_rate_falls(alone) -> None:
    run = rounds(alone, {"adascale": {"per_worker": 4}})
    assert [(run.play(norm2=5.0).rate, run.step.lead) for _ in range(3)] == [(1.0, 0)] * 3
    run.played.view.crew = (0,)
    assert run.play(norm2=5.0).rate == pytest.approx(gain(0.5, 8, 16.0))


def test_a_lone_worker_is_compared_with_its_own_gradient_of_the_step_before(alone) -> None:
    run = rounds(alone, {"adascale": {"per_worker": 16}}, crew=(0,))
    assert [run.play(norm2=2.0).rate for _ in range(3)] == [1.0, 1.0, pytest.approx(gain(2, 8, 16.0))]


def test_with_optimizers_that_divide_by_the_gradient_the_rate_is_the_root_of_the_gain(alone) -> None:
    run = rounds(alone, {"adascale": {"per_worker": 4, "rate": "sqrt"}}, crew=(0, 1, 2, 3))
    assert [run.play(norm2=5.0).rate for _ in range(2)] == [1.0, pytest.approx(1.5**0.5)]


def test_a_batch_by_noise_is_the_best_for_the_crew_and_holds_after_a_change(alone) -> None:
    """An order's fixed cost of 100 samples makes large steps pay; the noise scale of 64 bounds them."""
    run = rounds(alone, {"noise_scale": {"most": 128, "hold_steps": 5}}, crew=(0, 1))
    speed = Speed(1e-6, 100e-6)

    def play() -> int:
        run.play(norm2=1.0 + 64 / 4, dot=1.0, overhead_ns=100_000)
        return run.batch

    batches = [play() for _ in range(12)]
    assert batches[:5] == [8, 8, 16, 8, 8], "the third step tells overhead from speed"
    best = run.batch
    assert best > 24
    assert batches[-1] == best
    noise = run.played.strategy._policy._probe.noise.value
    worth = {batch: goodput(batch, even_time(batch, [speed] * 2), 8, noise) for batch in sizes(8, 128)}
    assert worth[best] > 0.97 * max(worth.values())
    run.played.view.crew = (0, 1, 2, 3, 4, 5, 6, 7)
    grown = [play() for _ in range(12)]
    assert grown[:5] == [best] * 5, "estimates from before the change say little"
    assert grown[-1] >= best


# --- whole runs -------------------------------------------------------------------------------------------------------------------------

SETTINGS = {"num_positions": 60, "max_samples": 240}


def histories(*runs) -> None:
    first, second = runs
    assert sorted(first.history) == sorted(second.history)
    for number, params_D in first.history.items():
        np.testing.assert_array_equal(params_D, second.history[number])


@pytest.mark.parametrize("policy", [{"linear": {"per_worker": 4}}, {"adascale": {"per_worker": 4}}, {"noise_scale": {"most": 8}}], ids=str)
@pytest.mark.parametrize("name", ["sync", "lb_bsp"])
def test_at_the_batch_of_the_job_every_policy_is_the_plain_strategy_bit_for_bit(train, least_squares, name: str, policy) -> None:
    problem = least_squares(num_samples=60, dim=4, seed=31)
    plain, other = (
        train(spec, problem, speeds=(1, 1), defaults={"batch_size": 8}, schedule=lambda samples: 1 / (1 + samples / 50), **SETTINGS).run()
        for spec in (name, {name: {"batch_policy": policy}})
    )
    histories(plain, other)


def test_linear_scaling_takes_the_path_of_a_plain_loop_through_a_join(train, least_squares) -> None:
    problem = least_squares(num_samples=60, dim=4, seed=32)
    spec = {"sync": {"batch_policy": {"linear": {"per_worker": 4, "ramp_steps": 2}}}}
    run = train(spec, problem, speeds=(1, 1), defaults={"batch_size": 8}, num_positions=60, max_samples=60)
    run.run(until=lambda: len(run.history) == 3)
    run.join(1)
    run.run()
    x_D, start = problem.start, 0
    sizes_and_rates = [(8, 1.0), (8, 1.0), (8, 1.0), (12, 1.25), (12, 1.5), (12, 1.5)]
    path = [x_D]
    for size, rate in sizes_and_rates:
        x_D = x_D - 0.1 * rate * problem.gradient_sum(x_D, start, start + size) / size
        start += size
        path.append(x_D)
    assert start == 60
    for number, params_D in run.history.items():
        np.testing.assert_allclose(params_D, path[number], rtol=1e-12, atol=1e-14)


def test_adascale_takes_the_path_of_a_plain_loop_with_the_formulas_of_the_paper(train, least_squares) -> None:
    """Four workers of a base batch of 8 each bring 8: c = 4 gradients of size B / c, the gain from all steps before."""
    problem = least_squares(num_samples=96, dim=4, seed=33)
    schedule = lambda samples: 1 / (1 + samples / 40)  # noqa: E731  # as a user gives it
    spec = {"sync": {"batch_policy": {"adascale": {"per_worker": 8}}}}
    run = train(spec, problem, speeds=(1,) * 4, defaults={"batch_size": 8}, schedule=schedule, num_positions=96, max_samples=96 * 2).run()
    x_D, progress, noises, signals, path = problem.start, 0.0, [], [], [problem.start]
    for number in range(6):
        first = 32 * number % 96
        rows = [problem.gradient_sum(x_D, start, start + 8) / 8 for start in range(first, first + 32, 8)]
        if noises:
            var, sqr = max(1e-6, float(np.mean(noises))) / 8, max(0.0, float(np.mean(signals)))
            gained = (var + sqr) / (var / 4 + sqr)
        else:
            gained = 1.0
        one, others = rows[number % 4], [row for i, row in enumerate(rows) if i != number % 4]
        signals.append(float(np.mean([one @ other for other in others])))
        noises.append(float(np.mean([8 * (row @ row - signals[-1]) for row in rows])))
        x_D = x_D - 0.1 * gained * schedule(round(progress * 8)) * np.mean(rows, axis=0)
        progress += gained
        path.append(x_D)
    assert sorted(run.history) == list(range(7))
    for number, params_D in run.history.items():
        np.testing.assert_allclose(params_D, path[number], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "policy",
    [{"linear": {"per_worker": 6, "ramp_steps": 5}}, {"adascale": {"per_worker": 6}}, {"noise_scale": {"most": 40, "hold_steps": 3}}],
    ids=str,
)
def test_a_policy_goes_on_where_a_checkpoint_was_taken(train, least_squares, policy) -> None:
    """Batches and rates are those of the run that was not interrupted, up to the speeds of workers, which are measured anew."""
    problem = least_squares(num_samples=60, dim=4, seed=34)
    spec = {"sync": {"batch_policy": policy}}
    settings = {"defaults": {"batch_size": 8}, "schedule": lambda samples: 1 / (1 + samples / 50), **SETTINGS}
    whole, killed = (train(spec, problem, speeds=(1, 1, 1), **settings) for _ in range(2))
    for run in (whole, killed):
        run.run(until=lambda run=run: len(run.history) == 4)
        run.tell(p.CheckpointAsked())
    whole.run()
    killed.run(until=lambda: killed.checkpoint is not None)
    resumed = train(spec, problem, speeds=(1, 1, 1), resume=killed.checkpoint, coordination_epoch=1, **settings).run()
    first = killed.checkpoint.version.number
    assert 0 < first < 6
    last = max(whole.history) if "noise_scale" not in policy else first + 2
    for number in range(first, last + 1):
        np.testing.assert_array_equal(resumed.history[number], whole.history[number])


def test_a_run_under_another_policy_begins_it_anew(train, least_squares) -> None:
    problem = least_squares(num_samples=60, dim=4, seed=35)
    killed = train("sync", problem, defaults={"batch_size": 8}, checkpoint_every=16, **SETTINGS)
    killed.run(until=lambda: killed.checkpoint is not None)
    spec = {"sync": {"batch_policy": {"adascale": {"per_worker": 16}}}}
    resumed = train(spec, problem, resume=killed.checkpoint, coordination_epoch=1, defaults={"batch_size": 8}, **SETTINGS).run()
    assert resumed.finished == p.Finished("samples")
    assert [notice.text for notice in resumed.notices if notice.kind == "batch"]


# --- what cannot be ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"adascale": {}}, "needs per_worker"),
        ({"adascale": {"per_worker": 0}}, "per_worker >= 1"),
        ({"adascale": {"per_worker": 4, "memory": 1.0}}, "memory < 1"),
        ({"adascale": {"per_worker": 4, "rate": "constant"}}, "linear, sqrt, got 'constant'"),
        ({"linear": {"per_worker": 4, "ramp_steps": -1}}, "ramp_steps >= 0"),
        ({"linear": {"per_worker": 4, "rate": "cubic"}}, "linear, sqrt, constant, got 'cubic'"),
        ({"noise_scale": {}}, "needs most"),
        ({"noise_scale": {"most": 4}}, "must not be below it, got 4"),
        ("adascal", "did you mean 'adascale'"),
    ],
    ids=str,
)
def test_policies_that_cannot_be_are_refused(policy, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        strategies.build({"sync": {"batch_policy": policy}}, {"batch_size": 8})


def test_the_rate_follows_as_suits_the_optimizer_unless_the_user_says_how() -> None:
    assert batch_policy.for_optimizer({"linear": {"per_worker": 4}}, "SGD") == {"linear": {"per_worker": 4, "rate": "linear"}}
    assert batch_policy.for_optimizer({"linear": {"per_worker": 4}}, "adamw") == {"linear": {"per_worker": 4, "rate": "sqrt"}}
    chosen = {"adascale": {"per_worker": 4, "rate": "linear"}}
    assert batch_policy.for_optimizer(chosen, "adamw") == chosen
    assert batch_policy.for_optimizer("fixed", "adamw") == {"fixed": {}}

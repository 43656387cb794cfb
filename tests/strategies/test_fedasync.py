"""FedAsync: literal events, the worked numbers of the specification, and the inner optimizer as the neutral reference."""

import numpy as np
import pytest

from mottle.core import strategy as s
from mottle.core.errors import ConfigError
from mottle.core.protocol import LocalSteps, Version
from mottle.strategies import FedAsyncConfig

SGD = {"sgd": {"lr": 0.1}}
V0 = Version(0, 0)


@pytest.fixture
def fedasync(alone):
    return lambda **options: alone(FedAsyncConfig(**{"batch_size": 4, "optimizer": SGD, "local_steps": 3, **options}))


def update(work_id: int, worker: int, base: int, samples: int = 12) -> s.Update:
    return s.Update(work_id, worker, Version(0, base), samples, norm2=1.0)


# --- literal events ---------------------------------------------------------------------------------------------------------------------


def test_an_order_is_whole_models_after_local_steps(fedasync) -> None:
    local = LocalSteps(4, SGD, advance=8, pull=0.5, whole=True)
    assert fedasync(rho=0.5).hear(s.WorkerIdle(1)) == [s.Assign(1, 12, local=local)]


@pytest.mark.parametrize(
    ("staleness", "shares", "path"),
    [
        ("constant", (0.6, 0.6, 0.6), (0.6, 0.84, 0.336)),
        ({"polynomial": {"a": 0.5}}, (0.6, 0.3, 0.226778684), (0.6, 0.72, 0.556719348)),
        ({"hinge": {"a": 10, "b": 4}}, (0.6, 0.6, 0.028571429), (0.6, 0.84, 0.816)),
    ],
    ids=str,
)
def test_the_worked_example(fedasync, staleness, shares: tuple[float, ...], path: tuple[float, ...]) -> None:
    machine, x = fedasync(staleness=staleness), 0.0
    machine.view.publish(6)
    for (model, base), share, expected in zip(((1.0, 6), (1.0, 3), (0.0, 0)), shares, path, strict=True):
        ((work_id, weight),) = machine.hear(s.UpdateArrived(update(7, 0, base)))[0].terms
        assert (work_id, weight * 12) == (7, pytest.approx(share, rel=1e-7))
        x = (1 - weight * 12) * x + weight * 12 * model
        assert x == pytest.approx(expected, rel=1e-7)


def test_a_model_that_is_too_stale_is_discarded(fedasync) -> None:
    machine = fedasync(max_staleness=2)
    machine.view.publish(5)
    assert machine.hear(s.UpdateArrived(update(7, 0, 2))) == [s.Discard(7, "staleness 3 is above 2")]


def test_a_worker_goes_on_from_the_model_that_its_own_went_into(fedasync) -> None:
    machine = fedasync()
    machine.hear(s.WorkerIdle(0), s.OrderIssued(7, 0, 12), s.UpdateArrived(update(7, 0, 0)))
    assert machine.hear(s.WorkerIdle(0)) == []
    assert [each.worker for each in machine.hear(machine.view.publish(1))] == [0]


@pytest.mark.parametrize(
    "options", [{"alpha": 0.0}, {"alpha": 1.1}, {"rho": -1.0}, {"max_staleness": -1}, {"local_steps": 0}, {"staleness": "linear"}]
)
def test_impossible_options_are_refused(options) -> None:
    with pytest.raises(ConfigError):
        FedAsyncConfig(**{"batch_size": 4, "optimizer": SGD, **options})


# --- on numbers -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_shards", [1, 2])
def test_one_worker_whose_models_replace_the_old_one_is_plain_sgd(train, least_squares, num_shards: int) -> None:
    problem = least_squares(num_samples=40, dim=3, seed=1)
    spec = {"fedasync": {"local_steps": 5, "alpha": 1.0}}
    run = train(spec, problem, defaults={"batch_size": 2}, num_positions=40, max_samples=80, num_shards=num_shards).run()
    x_D, path = problem.start, [problem.start]
    for number in range(40):
        start = 2 * number % 40
        x_D = x_D - 0.1 * problem.gradient_sum(x_D, start, start + 2) / 2
        path.append(x_D)
    assert len(run.history) == 9
    for number, params in run.history.items():
        np.testing.assert_allclose(params, path[5 * number], rtol=1e-12, atol=1e-14)


def test_models_are_mixed_as_they_arrive(train, least_squares) -> None:
    """Worker 1 is three times slower: its first model comes after three of worker 0's and is mixed into theirs."""
    problem = least_squares(num_samples=80, dim=3, seed=2)
    spec = {"fedasync": {"local_steps": 2, "alpha": 0.5, "rho": 0.3, "staleness": "polynomial"}}
    run = train(spec, problem, speeds=(2, 7), defaults={"batch_size": 2}, num_positions=80, max_samples=80)
    run.run(until=lambda: len(run.history) == 5)

    def trained(base_D: np.ndarray, start: int) -> np.ndarray:
        x_D = base_D
        for first in (start, start + 2):
            x_D = x_D - 0.1 * (problem.gradient_sum(x_D, first, first + 2) / 2 + 0.3 * (x_D - base_D))
        return x_D

    x_D = [problem.start]
    for start in (0, 8, 12):
        x_D.append(0.5 * x_D[-1] + 0.5 * trained(x_D[-1], start))
    late = 0.5 * 4**-0.5
    x_D.append((1 - late) * x_D[-1] + late * trained(problem.start, 4))
    for number, params in run.history.items():
        np.testing.assert_allclose(params, x_D[number], rtol=1e-12, atol=1e-14)

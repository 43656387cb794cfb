"""Local AdaAlter and DOMO, which share a second vector beside the parameters: worked numbers, plain loops, neutral references."""

import numpy as np
import pytest

from mottle.core.errors import ConfigError
from mottle.strategies import DOMOConfig, LocalAdaAlterConfig

LR = 0.1


class Pulled:
    """Sample i has loss 0.5 (x - a_i)^2; the samples of an order are those of one worker, so that each worker has a target of its own."""

    def __init__(self, *targets: float, start: float, share: int) -> None:
        self._targets = targets
        self._share = share
        self.start = np.array([start])

    def gradient_sum(self, x_D: np.ndarray, start: int, stop: int) -> np.ndarray:
        target = self._targets[start // self._share % len(self._targets)]
        return np.asarray((stop - start) * (x_D - target))

    def loss(self, x_D: np.ndarray) -> float:
        return 0.0


def second(run) -> float:
    """The newest second vector of a problem of one number."""
    primary = min(run.shards)
    return float(run.shards[primary].values[-1])


@pytest.mark.parametrize(
    ("placeholder", "xs", "accumulators"),
    [("paper", (0.27008323, 0.35429787), (4.54473305, 8.27631302)), ("code", (0.29105339, 0.37036745), (4.54473305, 8.26140032))],
)
def test_the_worked_example_of_local_adaalter(train, placeholder: str, xs, accumulators) -> None:
    spec = {"local_adaalter": {"local_steps": 2, "initial": 1.0, "placeholder": placeholder}}
    settings = {"speeds": (1, 3), "defaults": {"batch_size": 2}, "lr": 0.5, "num_positions": 8, "max_samples": 8}
    run = train(spec, Pulled(2.0, -1.0, start=0.0, share=2), **settings)
    for number, (x, accumulator) in enumerate(zip(xs, accumulators, strict=True), start=1):
        run.run(until=lambda number=number: len(run.history) == number + 1)
        assert run.params[0] == pytest.approx(x, abs=1e-8)
        assert second(run) == pytest.approx(accumulator, abs=1e-8)


@pytest.mark.parametrize(
    ("variant", "xs", "momenta"),
    [("pre", (0.76, 0.4864, 0.265696), (1.2, 1.368, 1.10352)), ("intra", (0.76, 0.4636, 0.211546), (1.2, 1.482, 1.26027))],
)
def test_the_worked_example_of_domo(train, variant: str, xs, momenta) -> None:
    shares = {"local_momentum": 0.5, "server_momentum": 0.5, "fusion": 0.5}
    spec = {"domo": {"local_steps": 2, "variant": variant, **shares}}
    run = train(spec, Pulled(0.0, start=1.0, share=1), defaults={"batch_size": 1}, num_positions=6, max_samples=6)
    for number, (x, momentum) in enumerate(zip(xs, momenta, strict=True), start=1):
        run.run(until=lambda number=number: len(run.history) == number + 1)
        assert run.params[0] == pytest.approx(x, rel=1e-9)
        assert second(run) == pytest.approx(momentum, rel=1e-9)


def same(run, path: list[np.ndarray]) -> None:
    assert sorted(run.history) == list(range(len(path)))
    for number, params in run.history.items():
        np.testing.assert_allclose(params, path[number], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("num_shards", [1, 3])
def test_with_one_local_step_it_is_synchronous_adaalter_with_means_of_squares(train, least_squares, num_shards: int) -> None:
    problem = least_squares(num_samples=48, dim=3, seed=1)
    spec = {"local_adaalter": {"local_steps": 1, "placeholder": "code", "initial": 0.5, "weight_decay": 0.1}}
    settings = {"speeds": (1, 2), "defaults": {"batch_size": 8}, "num_positions": 48, "max_samples": 96, "num_shards": num_shards}
    run = train(spec, problem, **settings).run()
    x_D, h_D, path = problem.start, np.full(3, 0.5), [problem.start]
    for number in range(12):
        start = 8 * number % 48
        grads = [problem.gradient_sum(x_D, first, first + 4) / 4 for first in (start, start + 4)]
        x_D = x_D - LR * (sum(grads) / 2 / np.sqrt(h_D + 1.0) + 0.1 * x_D)
        h_D = h_D + sum(gradient_D**2 for gradient_D in grads) / 2
        path.append(x_D)
    same(run, path)


def domo_path(
    problem, crew: int, steps: int, share: int, num_rounds: int, *, bl: float, bs: float, beta: float, alpha: float, variant: str
):
    """The server's models in plain loops, as the specification writes them."""
    size = len(problem.targets_N)
    x_D, m_D, path = problem.start, np.zeros_like(problem.start), [problem.start]
    for number in range(num_rounds):
        directions = []
        for worker in range(crew):
            first = (number * crew + worker) * steps * share % size
            y_D = x_D - LR * steps * beta * m_D if variant == "pre" else x_D
            z_D, v_D = y_D, np.zeros_like(y_D)
            for start in range(first, first + steps * share, share):
                v_D = bl * v_D + problem.gradient_sum(z_D, start, start + share) / share
                z_D = z_D - LR * v_D - (LR * beta * m_D if variant == "intra" else 0.0)
            directions.append((y_D - z_D) / (LR * steps) - (beta * m_D if variant == "intra" else 0.0))
        m_D = bs * m_D + sum(directions) / crew
        x_D = x_D - alpha * LR * steps * m_D
        path.append(x_D)
    return path


@pytest.mark.parametrize("variant", ["pre", "intra"])
@pytest.mark.parametrize("shares", [(0.5, 0.6, 0.3), (0.0, 0.0, 0.0), (0.5, 0.5, 0.0)])
def test_three_workers_of_domo_take_the_path_of_the_formulas(train, least_squares, variant: str, shares) -> None:
    problem = least_squares(num_samples=72, dim=3, seed=2)
    bl, bs, beta = shares
    options = {"local_steps": 3, "variant": variant, "alpha": 0.9, "local_momentum": bl, "server_momentum": bs, "fusion": beta}
    settings = {"speeds": (1, 2, 4), "defaults": {"batch_size": 6}, "num_positions": 72, "max_samples": 144, "num_shards": 2}
    run = train({"domo": options}, problem, **settings).run()
    same(run, domo_path(problem, 3, 3, 2, 8, bl=bl, bs=bs, beta=beta, alpha=0.9, variant=variant))


def test_domo_of_one_plain_step_is_sgd_with_the_servers_momentum(train, least_squares) -> None:
    problem = least_squares(num_samples=40, dim=3, seed=3)
    spec = {"domo": {"local_steps": 1, "local_momentum": 0.0, "fusion": 0.0, "server_momentum": 0.9}}
    run = train(spec, problem, defaults={"batch_size": 4}, num_positions=40, max_samples=80).run()
    x_D, m_D, path = problem.start, np.zeros(3), [problem.start]
    for number in range(20):
        start = 4 * number % 40
        m_D = 0.9 * m_D + problem.gradient_sum(x_D, start, start + 4) / 4
        x_D = x_D - LR * m_D
        path.append(x_D)
    same(run, path)


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (LocalAdaAlterConfig, {"eps2": 0.0}),
        (LocalAdaAlterConfig, {"initial": -1.0}),
        (LocalAdaAlterConfig, {"placeholder": "both"}),
        (LocalAdaAlterConfig, {"optimizer": "adamw"}),
        (LocalAdaAlterConfig, {"optimizer": {"sgd": {"lr": 0.1, "momentum": 0.9}}}),
        (DOMOConfig, {"fusion": 1.0}),
        (DOMOConfig, {"alpha": 0.0}),
        (DOMOConfig, {"variant": "post"}),
        (DOMOConfig, {"optimizer": {"sgd": {"lr": 0.1, "weight_decay": 0.1}}}),
    ],
)
def test_impossible_options_are_refused(config, options) -> None:
    with pytest.raises(ConfigError):
        config(**{"batch_size": 4, "lr": 0.1, "optimizer": {"sgd": {"lr": 0.1}}, **options})


@pytest.mark.parametrize(
    "spec",
    [
        {"local_sgd": {}},
        {"diloco": {}},
        {"slowmo": {}},
        {"sign_momentum": {}},
        {"slsgd": {"alpha": 0.7}},
        {"local_adaalter": {}},
        {"domo": {}},
        {"domo": {"variant": "intra"}},
    ],
    ids=str,
)
def test_workers_with_the_same_data_are_one_worker(train, spec) -> None:
    """Whatever the method: averaging equals changes nothing."""
    ((name, options),) = spec.items()
    spec, problem = {name: {"local_steps": 3, **options}}, Pulled(4.0, start=0.5, share=1)
    one = train(spec, problem, defaults={"batch_size": 2}, num_positions=24, max_samples=24).run()
    settings = {"defaults": {"batch_size": 6}, "num_positions": 72, "max_samples": 72}
    same(train(spec, problem, speeds=(1, 2, 5), **settings).run(), [one.history[number] for number in sorted(one.history)])

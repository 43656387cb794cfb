"""Schedules and clipping: worked numbers, laws, and mistakes that are named. None of it loads torch."""

import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mottle.core.errors import ConfigError
from mottle.optim.clipping import EPSILON, clip_factor, factor_of_norm
from mottle.optim.schedule import Cosine, Custom, build


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (None, {0: 1.0, 10**9: 1.0}),
        ({"constant": {"factor": 0.5}}, {0: 0.5, 7: 0.5}),
        ({"linear_warmup": {"samples": 100, "start": 0.0}}, {0: 0.0, 25: 0.25, 99: 0.99, 100: 1.0, 500: 1.0}),
        ({"linear_warmup": {"samples": 100, "start": 0.2}}, {0: 0.2, 50: 0.6}),
        ({"cosine": {"samples": 1000}}, {0: 1.0, 250: 0.5 + math.sqrt(2) / 4, 500: 0.5, 1000: 0.0, 5000: 0.0}),
        ({"cosine": {"samples": 1000, "floor": 0.1}}, {0: 1.0, 500: 0.55, 2000: 0.1}),
        ({"step": {"every": 30, "gamma": 0.5}}, {0: 1.0, 29: 1.0, 30: 0.5, 60: 0.25}),
        ({"piecewise_linear": {"points": [[0, 0.0], [10, 1.0], [30, 0.0]]}}, {0: 0.0, 5: 0.5, 10: 1.0, 20: 0.5, 30: 0.0, 99: 0.0}),
        ({"piecewise_linear": {"points": [[10, 0.5]]}}, {0: 0.5, 10: 0.5, 11: 0.5}),
        ({"linear_warmup": {"samples": 100, "start": 0.0, "then": {"cosine": {"samples": 200}}}}, {50: 0.5, 100: 1.0, 200: 0.5, 300: 0.0}),
        (lambda samples: 1 / (1 + samples), {0: 1.0, 3: 0.25}),
    ],
)
def test_factors_are_those_worked_by_hand(spec: object, expected: dict[int, float]) -> None:
    schedule = build(spec)
    assert {samples: schedule(samples) for samples in expected} == pytest.approx(expected, abs=1e-12)


@given(length=st.integers(1, 10**9), floor=st.floats(0, 1), samples=st.lists(st.integers(0, 2 * 10**9), min_size=2, max_size=5))
def test_a_cosine_only_falls_and_stays_between_its_ends(length: int, floor: float, samples: list[int]) -> None:
    factors = [Cosine(samples=length, floor=floor)(each) for each in sorted(samples)]
    assert factors == sorted(factors, reverse=True)
    assert floor - 1e-12 <= factors[-1] <= factors[0] <= 1 + 1e-12


def test_a_schedule_built_already_is_used_as_it_is() -> None:
    schedule = Cosine(samples=3)
    assert build(schedule) is schedule
    custom = Custom(function=lambda samples: 1.0)
    assert build(custom) is custom


@pytest.mark.parametrize("answer", [-0.1, math.nan, math.inf])
def test_a_users_function_that_answers_nonsense_is_named(answer: float) -> None:
    with pytest.raises(ConfigError, match="at 12 samples"):
        build(lambda samples: answer)(12)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cosin", "unknown learning-rate schedule 'cosin'; did you mean 'cosine'"),
        ({"cosine": {"sample": 3}}, "no option 'sample'; did you mean 'samples'"),
        ({"cosine": {}}, "learning-rate schedule 'cosine' needs samples; there is no default"),
        ({"cosine": {"samples": 0}}, "needs samples >= 1 and 0 <= floor <= 1, got Cosine"),
        ({"cosine": {"samples": "many"}}, "'cosine': .* not supported between"),
        ({"linear_warmup": {"samples": 5, "start": 2.0}}, "0 <= start <= 1"),
        ({"linear_warmup": {"samples": 5, "then": "sine"}}, "did you mean 'cosine'"),
        ({"step": {"every": 0}}, "needs every >= 1"),
        ({"constant": {"factor": -1.0}}, "finite and not negative"),
        ({"piecewise_linear": {"points": []}}, "samples rising"),
        ({"piecewise_linear": {"points": [[3, 1.0], [3, 2.0]]}}, "samples rising"),
        ({"piecewise_linear": {"points": [[0, math.nan]]}}, "finite"),
        ({"piecewise_linear": {"points": [1, 2]}}, "'piecewise_linear': cannot unpack"),
        ({"piecewise_linear": {"points": [[1, 2, 3]]}}, "'piecewise_linear': too many values"),
        (3, "learning-rate schedule is named as"),
    ],
)
def test_mistakes_are_named(spec: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(spec)


@pytest.mark.parametrize(
    ("partial", "max_norm", "factor"),
    [([9.0, 16.0], 1.0, 1 / (5 + EPSILON)), ([9.0, 16.0], 5.1, 1.0), ([], 1.0, 1.0), ([0.0], 1e-9, 1e-9 / EPSILON), ([4.0], math.inf, 1.0)],
)
def test_clip_factors_are_those_worked_by_hand(partial: list[float], max_norm: float, factor: float) -> None:
    assert clip_factor(partial, max_norm) == pytest.approx(factor, rel=1e-12)


def test_a_norm_known_already_gives_the_same_factor() -> None:
    assert factor_of_norm(5.0, 2.0) == clip_factor([9.0, 16.0], 2.0)
    assert factor_of_norm(1e200, 1.0) == pytest.approx(1e-200)  # its square would not be a number


@given(parts=st.lists(st.floats(0, 1e30), max_size=9), max_norm=st.floats(1e-9, 1e9), data=st.data())
def test_the_factor_does_not_depend_on_the_order_of_shards_and_keeps_the_bound(parts: list[float], max_norm: float, data: Any) -> None:
    factor = clip_factor(parts, max_norm)
    assert clip_factor(data.draw(st.permutations(parts)), max_norm) == factor
    assert 0 <= factor <= 1
    assert factor * math.sqrt(math.fsum(parts)) <= max_norm * (1 + 1e-12)


@pytest.mark.parametrize(("partial", "max_norm"), [([math.nan], 1.0), ([math.inf], 1.0), ([-1.0], 1.0), ([1.0], 0.0), ([1.0], math.nan)])
def test_norms_and_bounds_without_meaning_are_refused(partial: list[float], max_norm: float) -> None:
    with pytest.raises(ValueError, match=r"got (nan|inf|-1\.0|0\.0)"):
        clip_factor(partial, max_norm)


def test_asking_for_schedules_clipping_or_groups_loads_no_torch() -> None:
    code = "import sys, mottle.optim; mottle.optim.clip_factor([1.0], 1.0); mottle.optim.read('adam'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "False", done.stderr

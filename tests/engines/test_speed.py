"""Calibration of a device: batches are timed by a clock of the test."""

import pytest
import torch

from mottle.core.errors import ConfigError
from mottle.engines.speed import SpeedCurve, measure


class Device:
    """Takes overhead + size * sample, at most `parallel` samples at a time; holds `room` samples."""

    def __init__(self, *, overhead_s: float = 0.0, sample_s: float = 0.001, room: int = 10**9) -> None:
        self.now_s = 0.0
        self.sizes: list[int] = []
        self._overhead_s, self._sample_s, self._room = overhead_s, sample_s, room

    def compute(self, size: int) -> None:
        self.sizes.append(size)
        if size > self._room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.now_s += self._overhead_s + size * self._sample_s

    def curve(self, *, most: int = 256, budget_s: float = 1e9) -> SpeedCurve:
        return measure(self.compute, most=most, budget_s=budget_s, clock=lambda: self.now_s)


def test_overhead_and_time_of_a_sample_are_told_apart() -> None:
    curve = Device(overhead_s=0.016, sample_s=0.001).curve()
    assert [size for size, _ in curve.seconds] == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert curve.line == pytest.approx((0.016, 0.001))


def test_saturation_is_where_nine_tenths_of_the_best_rate_are_reached() -> None:
    assert Device(overhead_s=0.016, sample_s=0.001).curve().saturation == 128  # 889 of at most 941 samples/s; 64 make 800
    assert Device(overhead_s=0.0, sample_s=0.001).curve().saturation == 1


def test_the_memory_limit_is_the_last_size_that_fitted() -> None:
    curve = Device(room=20).curve()
    assert (curve.memory_limit, curve.seconds[-1][0]) == (16, 16)
    assert Device().curve().memory_limit is None


def test_no_size_is_begun_once_the_budget_is_spent() -> None:
    device = Device(sample_s=1.0)
    assert [size for size, _ in device.curve(budget_s=10.0).seconds] == [1, 2]  # four batches of 1 and four of 2 take 12 s


def test_what_is_no_lack_of_memory_is_raised() -> None:
    def broken(size: int) -> None:
        raise RuntimeError("device-side assert")

    with pytest.raises(RuntimeError, match="device-side assert"):
        measure(broken, most=4, budget_s=1, clock=lambda: 0.0)


def test_a_sample_that_does_not_fit_is_said_plainly() -> None:
    with pytest.raises(ConfigError, match="a single sample does not fit"):
        Device(room=0).curve()


def test_a_curve_is_saved_and_read() -> None:
    curve = Device(overhead_s=0.01, room=20).curve()
    assert SpeedCurve.of(curve.as_dict()) == curve
    assert curve.as_dict()["saturation"] == 16
    for nonsense in (None, {}, {"seconds": [[0, 1.0]]}, {"seconds": [[1, -1.0]]}, {"seconds": []}, {"seconds": [["x", 1]]}):
        with pytest.raises(ConfigError):
            SpeedCurve.of(nonsense)

"""Replicas of a placed model: islands of equal speed, shares that end together, an exchange that costs, memory that rules replicas out."""

from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mottle.core.errors import ConfigError
from mottle.placement import Device, Edge, InfeasibleError, Link, Op, Problem, place_replicated
from mottle.placement.replicas import deal, exchange, water_fill

FAST = Link(0, None)


def chain(link: Link = FAST, perm: int = 10, fixed: int = 5) -> Callable[[int, tuple[Device, ...]], Problem]:
    """Two ops, each of `fixed` ticks and one more a sample."""

    def problem_of(samples: int, devices: tuple[Device, ...]) -> Problem:
        ops = tuple(Op(name, fixed + samples, perm) for name in ("a", "b"))
        return Problem(ops=ops, edges=(Edge("a", "b", 4),), devices=devices, default_link=link)

    return problem_of


def devices(*speeds: int, mem: int = 100) -> tuple[Device, ...]:
    return tuple(Device(f"d{x}", "x", mem, speed) for x, speed in enumerate(speeds))


def test_equal_devices_share_the_batch_evenly_where_exchanging_costs_nothing() -> None:
    made = place_replicated(chain(), devices(1000, 1000, 1000, 1000), 40, 100)
    assert [island.share for island in made.islands] == [10, 10, 10, 10]
    assert made.step == 2 * (5 + 10)
    assert made.considered == ((1, 90), (2, 50), (3, 38), (4, 30))


def test_a_slow_exchange_leaves_one_replica() -> None:
    made = place_replicated(chain(Link(0, 1_000_000)), devices(1000, 1000), 40, 10**6)
    assert len(made.islands) == 1
    assert made.exposed == 0


def test_faster_islands_get_larger_shares() -> None:
    made = place_replicated(chain(fixed=0), devices(3000, 1000), 40, 0)
    assert [island.share for island in made.islands] == [30, 10]


def test_replicas_that_do_not_fit_are_not_made() -> None:
    made = place_replicated(chain(perm=60), devices(1000, 1000), 8, 0)
    assert made.considered[1] == (2, None)
    assert len(made.islands[0].plan.devices_used) == 2
    with pytest.raises(InfeasibleError, match="no number of replicas fits"):
        place_replicated(chain(perm=300), devices(1000, 1000), 8, 0)


def test_devices_are_dealt_snake_wise_and_boxes_stay_whole() -> None:
    four = devices(4000, 3000, 2000, 1000)
    speeds = {device.id: float(device.speed_pm) for device in four}
    assert [[device.id for device in island] for island in deal(four, 2, speeds, {})] == [["d0", "d3"], ["d1", "d2"]]
    boxes = {"d0": "left", "d1": "left", "d2": "right", "d3": "right"}
    assert [[device.id for device in island] for island in deal(four, 2, speeds, boxes)] == [["d0", "d1"], ["d2", "d3"]]
    assert [[device.id for device in island] for island in deal(four, 4, speeds, boxes)] == [["d0"], ["d1"], ["d2"], ["d3"]]


def test_a_ring_sends_twice_the_weights_but_a_share() -> None:
    four = devices(1000, 1000, 1000, 1000)
    problem = chain(Link(7, 1_000_000_000))(8, four)
    assert exchange(problem, [[device] for device in four], 1000) == 1500 + 6 * 7
    assert exchange(problem, [four], 1000) == 0


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), min_size=1, max_size=4), st.integers(1, 30))
def test_no_other_shares_of_the_batch_end_much_earlier(lines: list[tuple[int, int]], batch: int) -> None:
    shares = water_fill(lines, batch)
    assert sum(shares) == batch
    assert min(shares) >= 0
    ours = max(base + share * slope for (base, slope), share in zip(lines, shares, strict=True) if share)
    level = min(  # of fractional shares, by bisection over where they end
        (Fraction(end, 4) for end in range(4 * (51 + 20 * batch)) if _poured(lines, Fraction(end, 4)) >= batch),
    )
    assert ours <= level + max(slope for _, slope in lines)


def _poured(lines: list[tuple[int, int]], level: Fraction) -> Fraction:
    return sum((max(Fraction(0), (level - base) / slope) for base, slope in lines), Fraction(0))


def test_no_sample_and_no_device_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least one sample"):
        place_replicated(chain(), devices(1000), 0, 0)
    with pytest.raises(ConfigError, match="a device at least"):
        place_replicated(chain(), (), 4, 0)

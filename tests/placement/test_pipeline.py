"""Pipeline schedules: the textbook's lists, bubbles and stashes; machines under any order of messages; agreement with the simulator."""

from heapq import heappop, heappush

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mottle.core.errors import ConfigError, ProtocolError
from mottle.placement import Device, Link, simulate
from mottle.placement.pipeline import (
    SCHEDULES,
    Arrived,
    Finished,
    Run,
    ScheduleName,
    Send,
    StageCost,
    StageMachine,
    Work,
    as_problem,
    bubble,
    order_of,
)

schedules = st.sampled_from(SCHEDULES)
sizes = st.integers(1, 6)


def spelt(schedule: ScheduleName, stage: int, stages: int, microbatches: int) -> str:
    return " ".join(f"{work.what[0].upper()}{work.microbatch}" for work in order_of(schedule, stage, stages, microbatches))


def test_the_lists_are_those_of_the_text() -> None:
    assert spelt("gpipe", 1, 3, 3) == "F0 F1 F2 B2 B1 B0"
    assert spelt("1f1b", 0, 3, 4) == "F0 F1 F2 B0 F3 B1 B2 B3"
    assert spelt("1f1b", 1, 3, 4) == "F0 F1 B0 F2 B1 F3 B2 B3"
    assert spelt("1f1b", 2, 3, 4) == "F0 B0 F1 B1 F2 B2 F3 B3"
    assert spelt("1f1b", 0, 4, 2) == "F0 F1 B0 B1"


def drive(
    schedule: ScheduleName, costs: list[StageCost], microbatches: int, delays: list[int]
) -> tuple[dict[tuple[int, Work], int], int, list[int]]:
    """Run the machines under a clock: (start of all work, end, largest stashes). Messages take the given delays in turn."""
    machines = [StageMachine(schedule, s, len(costs), microbatches) for s in range(len(costs))]
    queue: list[tuple[int, int, int, Arrived | Finished]] = []
    starts: dict[tuple[int, Work], int] = {}
    now, sent = 0, 0

    def obey(s: int, commands: list[Run | Send]) -> None:
        nonlocal sent
        for command in commands:
            if isinstance(command, Run):
                starts[s, command.work] = now
                length = costs[s].forward if command.work.what == "forward" else costs[s].backward
                heappush(queue, (now + length, len(starts) + sent, s, Finished(command.work)))
            else:
                sent += 1
                heappush(queue, (now + delays[sent % len(delays)], len(starts) + sent, command.stage, Arrived(command.work)))

    for s, machine in enumerate(machines):
        obey(s, machine.start())
    while queue:
        now, _, s, event = heappop(queue)
        obey(s, machines[s].handle(event))
    assert all(machine.done and not machine.stash for machine in machines)
    return starts, now, [machine.largest_stash for machine in machines]


@given(schedules, sizes, sizes, st.integers(1, 5), st.integers(1, 9))
def test_equal_stages_are_idle_for_the_share_of_the_formula(schedule: ScheduleName, stages: int, count: int, f: int, b: int) -> None:
    _, end, stash = drive(schedule, [StageCost(f, b)] * stages, count, [0])
    assert end == (count + stages - 1) * (f + b)
    assert 1 - count * (f + b) / end == pytest.approx(bubble(stages, count))
    assert stash == [count if schedule == "gpipe" else min(count, stages - s) for s in range(stages)]


@given(
    schedules,
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=5),
    sizes,
    st.lists(sizes, min_size=1, max_size=7),
)
def test_no_order_of_messages_leaves_work_undone(
    schedule: ScheduleName, times: list[tuple[int, int]], count: int, delays: list[int]
) -> None:
    starts, _, stash = drive(schedule, [StageCost(f, b) for f, b in times], count, delays)
    assert len(starts) == 2 * count * len(times)
    for (s, work), start in starts.items():
        if work.what == "forward" and s:
            assert start >= starts[s - 1, work] + times[s - 1][0]
        if work.what == "backward" and s + 1 < len(times):
            assert start >= starts[s + 1, work] + times[s + 1][1]
    assert schedule == "gpipe" or all(size <= min(count, len(times) - s) for s, size in enumerate(stash))


@given(schedules, st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=4), sizes, st.integers(0, 4))
def test_the_simulator_sees_the_same_starts(schedule: ScheduleName, times: list[tuple[int, int]], count: int, latency: int) -> None:
    costs = [StageCost(f, b, activations=10, resident=100, sent=1) for f, b in times]
    devices = [Device(f"D{s}", "x", 1000) for s in range(len(times))]
    problem, home, place = as_problem(schedule, costs, count, devices, Link(latency))
    # one transfer at a time: messages of one link never meet as long as a message is no longer than any pass
    assume(latency <= min(min(pair) for pair in times))
    seen = simulate(problem, home, place)
    starts, end, stash = drive(schedule, costs, count, [latency])
    assert (seen.valid, seen.makespan) == (True, end)
    assert seen.start == {f"{w.what} {w.microbatch} on {s}": at for (s, w), at in starts.items()}
    assert all(peak >= 100 + 10 * kept for peak, kept in zip(seen.dynamic_peaks.values(), stash, strict=True))


def test_an_impossible_message_is_an_error_with_its_story() -> None:
    machine = StageMachine("1f1b", 1, 2, 2)
    assert machine.start() == []
    assert machine.handle(Arrived(Work("forward", 0))) == [Run(Work("forward", 0))]
    with pytest.raises(ProtocolError, match="arrived twice"):
        machine.handle(Arrived(Work("forward", 0)))
    with pytest.raises(ProtocolError, match=r"finished, but .*forward.* was running; so far"):
        machine.handle(Finished(Work("backward", 0)))
    with pytest.raises(ProtocolError, match="not of this step"):
        machine.handle(Arrived(Work("forward", 7)))


def test_wrong_schedules_are_told() -> None:
    with pytest.raises(ConfigError, match="did you mean '1f1b'"):
        order_of("1f1", 0, 1, 1)
    with pytest.raises(ConfigError, match="at least one microbatch"):
        order_of("gpipe", 0, 1, 0)
    with pytest.raises(ConfigError, match="one device a stage"):
        as_problem("gpipe", [StageCost(1, 1)], 1, [])

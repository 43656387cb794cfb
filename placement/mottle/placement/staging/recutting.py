"""REPAIR for stages: a process is lost, and the model is cut for those that are left (specification 7.3).

Every other stage keeps all that it has, and what the lost one had goes to its neighbours, cut where the slowest stage is fastest. That is
weighed against cutting everything anew:

    cost = horizon * step + (restart + the longest time in which a process reads weights that are new to it)
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mottle.placement.errors import InfeasibleError
from mottle.placement.pipeline import ScheduleName
from mottle.placement.problem import Link
from mottle.placement.replanning import WORTH_IT
from mottle.placement.staging.cutting import Activations, Bound, Cut, Member, cut_stages
from mottle.placement.staging.predicting import predict_step
from mottle.placement.tracing.capture import PCIE, Capture


class Recut(NamedTuple):
    """What was taken, and what either would cost, in seconds; None where it found no room."""

    cut: Cut
    moved: frozenset[str]
    """Units that are not where they were."""
    repair_s: float | None
    full_s: float | None


def recut(
    captured: Capture,
    old: Cut,
    members: Sequence[Member],
    stays: Mapping[int, int],
    schedule: ScheduleName,
    microbatches: int,
    *,
    link: Link = PCIE,
    activations: Activations | None = None,
    horizon: int = 200,
    restart_s: float = 1.0,
) -> Recut:
    """Cut a model again for the members that are left.

    Args:
        old: in force.
        members: all that there are now; each of them runs a stage.
        stays: member -> the stage that it ran; at least one.
        horizon: steps until the next change, about.
        restart_s: what it costs at least that a member's stage is another one.
    Raises:
        InfeasibleError: what is left cannot hold the model.
        ConfigError: as `cut_stages`.
    """
    best: list[tuple[float, Cut] | None] = []
    in_order = tuple(sorted(stays, key=stays.__getitem__))
    member_of = {stage: member for member, stage in stays.items()}
    home = {unit: member_of[stage] for unit, stage in old.stage_of.items() if stage in member_of}
    for bound in (Bound(in_order, home), None):
        try:
            cut = cut_stages(captured, members, microbatches, link=link, activations=activations, bound=bound)
        except InfeasibleError:
            if bound is None and best[0] is None:
                raise
            best.append(None)
            continue
        step_s = predict_step(cut, schedule, microbatches, link).makespan / 1e9
        best.append((horizon * step_s + _migration_s(captured, home, cut, link, restart_s), cut))
    repaired, fresh = best
    taken = fresh if repaired is None or (fresh is not None and fresh[0] < WORTH_IT * repaired[0]) else repaired
    assert taken is not None
    return Recut(taken[1], moved(home, taken[1]), None if repaired is None else repaired[0], None if fresh is None else fresh[0])


def moved(home: Mapping[str, int], cut: Cut) -> frozenset[str]:
    """Units that go to a member that did not have them.

    Args:
        home: unit -> the member that has it; others had none that is left.
    """
    return frozenset(unit for unit, stage in cut.stage_of.items() if home.get(unit) != cut.members[stage])


def _migration_s(captured: Capture, home: Mapping[str, int], cut: Cut, link: Link, restart_s: float) -> float:
    """Weights come from the shards, to all members at once."""
    new = moved(home, cut)
    fetched: dict[int, int] = defaultdict(int)
    for unit in captured.units:
        if unit.id in new:
            fetched[cut.stage_of[unit.id]] += unit.state.trainable + unit.state.frozen
    if not new:
        return 0.0
    return restart_s + max(fetched.values()) / (link.bytes_per_s or float("inf"))

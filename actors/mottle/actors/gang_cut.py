"""Where a gang's model is cut: for the processes that there are, by what they can do, and by REPAIR where one of them is lost."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mottle.actors.job import Job, WorkerGroup
from mottle.actors.probing import Report
from mottle.actors.stage_bench import capture_for
from mottle.engines.placed import PlacedConfig
from mottle.placement import InfeasibleError, Link
from mottle.placement.staging import Bound, Cut, Member, cut_stages, predict_step, recut
from mottle.placement.tracing import PCIE, Profile

TYPICAL_BYTES = 1 << 20
"""Of a tensor, for telling which of two links is slower."""


class Cutting:
    """One gang's.

    Raises:
        ConfigError: the model cannot be staged.
    """

    def __init__(self, job: Job, group: WorkerGroup, config: PlacedConfig) -> None:
        self._group, self._config = group, config
        self._capture = capture_for(job, job.model())
        self._cut: Cut | None = None
        self.order: list[int] = []
        """Rank of the process that runs each stage."""
        self.link = PCIE
        """The slowest between two of the processes, or what is assumed of it while there is one alone."""
        self.profiles: dict[int, Profile] = {}
        """Of the model's ops, by rank, where they were run."""

    @property
    def cut(self) -> Cut:
        assert self._cut is not None, "a gang that was never formed"
        return self._cut

    def wants_look(self, ranks: Sequence[int]) -> bool:
        """Whether others take part than before, so that what they can do together is to be seen first."""
        return len(ranks) > 1 and sorted(self.order) != list(ranks)

    def seen(self, links: Sequence[Link]) -> None:
        """How long tensors take between the processes, rounded as rates are."""
        slowest = max(links, key=lambda link: link.lat + TYPICAL_BYTES / (link.bytes_per_s or math.inf))
        self.link = Link(_rounded(slowest.lat), slowest.bytes_per_s and _rounded(slowest.bytes_per_s))

    def settle(self, reports: Mapping[int, Report]) -> str:
        """Cut for these processes: as before where the lost ones have been replaced, by REPAIR where they have not.

        Where one more has come, or a newcomer has less memory than its stage wants, it is cut anew.

        Args:
            reports: by rank.
        Returns:
            What became of it, for the log.
        Raises:
            InfeasibleError: they cannot hold the model.
        """
        ranks, told = sorted(reports), "cut anew"
        members, count = self._members(reports), self._config.microbatches
        options: dict[str, Any] = {"activations": self._config.held, "link": self.link}
        if self._cut is None or set(ranks) - set(self.order):
            self._cut = cut_stages(self._capture, members, count, **options)
        elif len(ranks) == len(self.order):
            told = "as before"
            if not self._still_fits(self._cut, members, options):
                self._cut, told = cut_stages(self._capture, members, count, **options), "cut anew: a process has less memory than before"
        else:
            stays = {number: self.order.index(rank) for number, rank in enumerate(ranks)}
            found = recut(self._capture, self._cut, members, stays, self._config.flushing, count, **options)
            self._cut, told = found.cut, f"after a loss, {len(found.moved)} of {len(found.cut.stage_of)} ops elsewhere than before"
        self.order = [ranks[member] for member in self._cut.members]
        return f"ranks {self.order}, {told}; {self._predicted(on_hosts=any(each.kind == 'cpu' for each in reports.values()))}"

    def _still_fits(self, cut: Cut, members: Sequence[Member], options: Mapping[str, Any]) -> bool:
        as_before = Bound(cut.members, {unit: cut.members[stage] for unit, stage in cut.stage_of.items()})
        try:
            return cut_stages(self._capture, members, self._config.microbatches, bound=as_before, **options).activations == cut.activations
        except InfeasibleError:
            return False

    def _members(self, reports: Mapping[int, Report]) -> list[Member]:
        """What the processes can do; those of a host share its memory."""
        nodes = [report.node for report in reports.values()]
        members = []
        for rank, found in sorted(reports.items()):
            declared = self._group.resources.get("memory")
            shared = found.mem // nodes.count(found.node) if found.kind == "cpu" else found.mem
            mem, profile = int(declared) if declared else shared, self.profiles.get(rank)
            members.append(
                Member(found.rates, mem) if profile is None else Member(found.rates, mem, measured=profile.units, loss=profile.loss)
            )
        return members

    def _predicted(self, *, on_hosts: bool) -> str:
        """What a micro-batch and a round of them take; with `dsp` the slowest stage is never idle between them."""
        times_ns, count = [sum(passes) for passes in self.cut.times_ns], self._config.microbatches
        if self._config.schedule == "dsp":
            step_ns = count * max(times_ns)
        else:
            step_ns = predict_step(self.cut, self._config.schedule, count, self.link, overlap=not on_hosts).makespan
        return f"predicted {', '.join(f'{each / 1e6:.3g}' for each in times_ns)} ms a micro-batch, {step_ns / 1e6:.3g} ms for {count}"


def _rounded(value: float) -> int:
    """To a power of two: links that are busy in different ways count as equal."""
    return 1 << max(0, round(math.log2(value)))

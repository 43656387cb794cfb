"""Where a gang's model is cut: for the processes that there are, by what they can do, and by REPAIR where one of them is lost."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mottle.actors.job import Job, WorkerGroup
from mottle.actors.probing import Report
from mottle.actors.stage_bench import capture_for
from mottle.engines.placed import PlacedConfig
from mottle.placement import InfeasibleError, Link
from mottle.placement.staging import Bound, Cut, Drift, Member, cut_stages, predict_step, recut
from mottle.placement.staging.drifting import STEPS, Seen
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
        self._overlaps = False
        """Whether every process computes while tensors travel."""
        self.link = PCIE
        """The slowest between two of the processes, or what is assumed of it while there is one alone."""
        self.profiles: dict[int, Profile] = {}
        """Of the model's ops, by rank, where they were run."""
        self._seen = Seen()
        """Of the model's ops in training, by rank."""
        self._next: tuple[Cut, str] | None = None
        """A better cut than the one in force, and why."""

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
        members, count, options = self._members(reports), self._config.microbatches, self._options
        (better, why), self._next = self._next or (None, ""), None
        if self._cut is None or set(ranks) - set(self.order):
            self._cut = cut_stages(self._capture, members, count, **options)
        elif len(ranks) == len(self.order) and better is not None:
            self._cut, told = better, why
        elif len(ranks) == len(self.order):
            told = "as before"
            if not self._still_fits(self._cut, members, options):
                self._cut, told = cut_stages(self._capture, members, count, **options), "cut anew: a process has less memory than before"
        else:
            stays = {number: self.order.index(rank) for number, rank in enumerate(ranks)}
            found = recut(self._capture, self._cut, members, stays, self._config.flushing, count, **options)
            self._cut, told = found.cut, f"after a loss, {len(found.moved)} of {len(found.cut.stage_of)} ops elsewhere than before"
        self.order = [ranks[member] for member in self._cut.members]
        self._overlaps = not any(each.kind == "cpu" for each in reports.values())
        return f"ranks {self.order}, {told}; {self._predicted()}"

    @property
    def _options(self) -> dict[str, Any]:
        return {"activations": self._config.held, "link": self.link}

    # --- measured against predicted ---------------------------------------------------------------------------------------------------

    def watch(self, patience: int = STEPS) -> Drift:
        """For the rounds of the cut in force."""
        return Drift(self._round_ns(), [self._config.microbatches * sum(passes) for passes in self.cut.times_ns], patience)

    def improve(self, reports: Mapping[int, Report], drift: Drift) -> bool:
        """Learn what rounds took, and see whether another cut is worth it by that; `settle` takes it then.

        Args:
            reports: of the processes that run the stages, by rank.
            drift: of the cut in force.
        """
        for stage, (rank, factor) in enumerate(zip(self.order, drift.factors, strict=True)):
            self._seen.learn(rank, [unit for unit, home in self.cut.stage_of.items() if home == stage], factor)
        ranks = sorted(reports)
        stays = {number: self.order.index(rank) for number, rank in enumerate(ranks)}
        found = recut(
            self._capture, self.cut, self._members(reports), stays, self._config.flushing, self._config.microbatches, **self._options
        )
        if not found.moved:
            self._cut = found.cut  # the same stages, with what they really take
            return False
        told = (
            f"cut anew: rounds took {drift.seen_ns / 1e6:.3g} ms and not {drift.step_ns / 1e6:.3g}, so that by measured times "
            f"{len(found.moved)} of {len(found.cut.stage_of)} ops are better off elsewhere"
        )
        self._next = found.cut, told
        return True

    def forget(self, rank: int) -> None:
        """Another process has this rank, or none."""
        self._seen.forget(rank)

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
            factors = {unit.id: self._seen.factor(rank, unit.id) for unit in self._capture.units}
            member = Member(found.rates, int(declared) if declared else shared, factors=factors)
            if (profile := self.profiles.get(rank)) is not None:
                member = replace(member, measured=profile.units, loss=profile.loss)
            members.append(member)
        return members

    def _predicted(self) -> str:
        """What a micro-batch and a round of them take."""
        times_ns = [sum(passes) for passes in self.cut.times_ns]
        each = ", ".join(f"{each / 1e6:.3g}" for each in times_ns)
        return f"predicted {each} ms a micro-batch, {self._round_ns() / 1e6:.3g} ms for {self._config.microbatches}"

    def _round_ns(self) -> int:
        """With `dsp` the slowest stage is never idle."""
        if self._config.schedule == "dsp":
            return self._config.microbatches * max(sum(passes) for passes in self.cut.times_ns)
        return predict_step(self.cut, self._config.schedule, self._config.microbatches, self.link, overlap=self._overlaps).makespan


def _rounded(value: float) -> int:
    """To a power of two: links that are busy in different ways count as equal."""
    return 1 << max(0, round(math.log2(value)))

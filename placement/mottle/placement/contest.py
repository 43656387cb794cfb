"""The contest behind `auto`: what was judged by SIM on the original graph, the best of it, and what there is to say about the rest."""

from dataclasses import dataclass, field

from mottle.placement.budget import Budget, sim_us
from mottle.placement.graph import Graph
from mottle.placement.judge import Trace, run
from mottle.placement.placed import NoRoom, Placement, positions
from mottle.placement.plans import Candidate
from mottle.placement.problem import Problem
from mottle.placement.relief import Relieved


@dataclass
class Contest:
    """Candidates that were judged on the original graph, and what there is to say about the rest."""

    problem: Problem
    budget: Budget
    patient: bool = True
    """While nothing fits, go beyond the budget."""
    rows: list[Candidate] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    best: tuple[tuple[int, int, int], str, Placement, Trace] | None = None
    last_words: tuple[str, list[int]] | None = None
    """The op for which a placer found no room, and the (D,) bytes committed by then."""
    proven: bool = False
    """Nothing fits: the integer program says so."""
    crowded: list[tuple[int, str, Placement]] = field(default_factory=list)
    """(makespan, name, placement) of candidates that run, but hold more than some device can."""
    rescued: bool = False
    """Recomputation and offload were tried."""
    relieved: Relieved | None = None
    """The best so far is this one, on a problem with reductions in it."""

    @property
    def graph(self) -> Graph:
        return self.problem.graph

    @property
    def desperate(self) -> bool:
        """Nothing fits so far, and whatever it takes to find something is worth it."""
        return self.patient and self.best is None

    def judge(self, name: str, placement: Placement, position: int | None = None) -> bool:
        """SIM on the original graph; True when the candidate is valid. `position` breaks ties; None: the order of judging."""
        self.budget.spend(sim_us(self.graph))
        trace = run(self.graph, placement.device, positions(placement.order))
        used = len(set(placement.device))
        self.rows.append(Candidate(name, trace.makespan if trace.valid else None, used, "original"))
        if trace.valid:
            key = (trace.makespan, used, len(self.rows) if position is None else position)
            if self.best is None or key < self.best[0]:
                self.best = (key, name, placement, trace)
        elif not trace.deadlock:
            self.crowded.append((trace.makespan, name, placement))
        return trace.valid

    def take(self, name: str, relieved: Relieved) -> None:
        """A placement that fits with reductions, and is faster than the best so far."""
        used = len(set(relieved.placement.device))
        makespan = relieved.trace.makespan
        self.rows.append(Candidate(name, makespan, used, "original"))
        self.best = ((makespan, used, len(self.rows)), name, relieved.placement, relieved.trace)
        self.relieved = relieved

    def gave_up(self, name: str, room: NoRoom, graph: Graph, judged_on: str) -> None:
        """A candidate found no room on a graph."""
        self.last_words = (graph.names[room.op], room.loads)
        self.rows.append(Candidate(name, None, 0, judged_on))

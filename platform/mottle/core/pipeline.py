"""Steps under way: from a strategy's "apply these updates" to a version that every shard has made.

A step may need a small exchange first: statistics of a robust rule, or the norm of the direction for clipping. Steps are taken strictly in
the order in which they were decided; the numbers of versions are given here and nowhere else. Knows no lease, member or strategy.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from mottle.core import exactsum
from mottle.core.protocol import (
    PARAMS,
    ApplyRule,
    Combine,
    Distances,
    Drop,
    Keep,
    Measure,
    Replace,
    ReplicaId,
    RuleStatistics,
    Settings,
    Step,
    Version,
    model_name,
    update_name,
)
from mottle.core.shards import ShardMap

DIRECTION = "direction"


@dataclass(frozen=True, slots=True)
class RuleDecision:
    """What a rule makes of a round: which rows go in (indices into the rows given) and what the shards are told."""

    selected: tuple[int, ...]
    instructions: Settings
    skip: str = ""
    """Why the rule cannot be run on this round; then no step is taken."""


class RuleBook(Protocol):
    """Decision side of the robust rules, on small statistics; handed in because the core knows no rule."""

    def wants_statistics(self, rule: Settings) -> bool: ...

    def wants_trusted(self, rule: Settings) -> frozenset[str]:
        """Inputs from trusted data: `reference`, `score`."""

    def least_crew(self, rule: Settings) -> int:
        """Fewest rows of which the rule can make a step."""

    def decide(
        self,
        rule: Settings,
        statistics: tuple[int, ...],
        counts: tuple[float, ...],
        num_expected: int,
        descents: tuple[float, ...] | None = None,
    ) -> RuleDecision: ...


@dataclass(frozen=True, slots=True)
class Trusted:
    """What the validator gave for one step."""

    reference: str | None = None
    """Name of the reference vector that the shards hold."""
    descents: tuple[float, ...] | None = None
    """Loss before minus loss after each row."""
    failure: str = ""
    """Why there is neither."""


Pairs = tuple[tuple[str, str], ...]
Answered = Callable[[tuple[int, ...]], None]
Kind = type[Measure] | type[Distances]
"""What is measured of pairs of vectors."""

Obtain = Callable[[frozenset[str], tuple[str, ...], Callable[[Trusted], None]], None]
"""Gets the inputs of these kinds for rows of these names, now or later."""


@dataclass(slots=True)
class Application:
    """One step on its way. `terms` are (work id, weight); with a rule the weights are not used, `counts` are."""

    terms: tuple[tuple[int, float], ...]
    unselected: tuple[int, ...] = ()
    rule: Settings | None = None
    counts: tuple[float, ...] = ()
    num_expected: int = 0
    chunks: tuple[int, ...] = ()
    """Chunks whose samples the terms contain once each."""
    lead: int = 0
    """Samples by which the schedule's argument is ahead of those spent."""
    scores: dict[int, float] = field(default_factory=dict)
    staleness: dict[int, int] = field(default_factory=dict)
    skip: str = ""
    fragment: int | None = None
    version: Version | None = None
    buffers: str | None = None
    """See `protocol.Step`."""
    replaces: bool = False
    """No step, but another model in the place of the one before."""
    rate: float = 1.0
    """See `protocol.Step`."""

    @property
    def accepted(self) -> tuple[int, ...]:
        return tuple(work_id for work_id, _ in self.terms)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(update_name(work_id) for work_id in (*self.accepted, *self.unselected))


@dataclass(slots=True)
class _Question:
    then: Callable[[tuple[int, ...]], None]
    answers: dict[ReplicaId, tuple[int, ...]] = field(default_factory=dict)


Context = Callable[[], tuple[int, tuple[tuple[int, tuple[str, ...]], ...], tuple[str, ...]]]


class Pipeline:
    """Takes applications in order, talks to the shards, reports versions in order.

    Args:
        shards: where batches are collected and which replicas must answer.
        version: the version that the shards hold now.
        max_grad_norm: bound on the norm of the direction (over all shards), or None.
        rules: the decision side of the robust rules.
        context: gives (samples applied so far, who has come to hold which version, who holds nothing any more) when a step is told.
        obtain: gets a rule's inputs from trusted data.
    """

    def __init__(
        self,
        shards: ShardMap,
        version: Version,
        *,
        max_grad_norm: float | None,
        rules: RuleBook | None,
        context: Context,
        obtain: Obtain | None = None,
    ) -> None:
        self.published = version
        self.head = version
        self._shards = shards
        self._max_grad_norm = max_grad_norm
        self._rules = rules
        self._context = context
        self._obtain = obtain
        self._waiting: deque[Application] = deque()
        self._asking: Application | None = None
        self.told: deque[Application] = deque()
        """Steps that are told and not published yet, in order."""
        self.skipped: list[Application] = []
        """What `take_skipped` will return."""
        self._stepped: dict[Version, set[ReplicaId]] = {}
        self._questions: dict[int, _Question] = {}
        self._next_request = 0
        self._held = False
        self._deferred: list[tuple[Pairs, Answered, Kind]] = []
        """Questions that came while steps are held."""
        self.moved: int | None = None
        """The fragment that the newest published version moved."""
        self.keeps_models = False
        """Whether the shards keep every version that they make, until they are told to drop it."""

    @property
    def idle(self) -> bool:
        """No step is under way and no question to the shards is open."""
        return not (self._waiting or self._asking or self.told or self._questions or self._deferred)

    @property
    def depth(self) -> int:
        """Steps decided and not yet published."""
        return len(self._waiting) + len(self.told) + (self._asking is not None)

    # --- in ---------------------------------------------------------------------------------------------------------------------------

    def submit(self, application: Application) -> None:
        self._waiting.append(application)
        self._advance()

    def ask(self, pairs: Pairs, then: Answered, kind: Kind = Measure) -> None:
        """Have the shards measure inner products, or distances; `then` gets the exact sums."""
        if self._held:
            self._deferred.append((pairs, then, kind))
        else:
            self._ask(pairs, then, kind)

    def _ask(self, pairs: Pairs, then: Answered, kind: Kind = Measure) -> None:
        self._shards.tell(kind(self._question(then), pairs))

    def answered(self, replica: ReplicaId, request: int, values: tuple[int, ...]) -> None:
        if request in self._questions:
            self._questions[request].answers[replica] = values
            self._settle_questions()

    def stepped(self, replica: ReplicaId, version: Version) -> None:
        if version in self._stepped:
            self._stepped[version].add(replica)

    def replica_lost(self) -> None:
        """Fewer replicas to wait for."""
        self._settle_questions()

    def hold(self) -> bool:
        """Tell the shards no further step and no question until `go_on`.

        Returns:
            Whether every step told so far is published and every question answered: a place for a snapshot or a newcomer.
        """
        self._held = True
        return self._asking is None and not self.told and not self._questions

    def replace(self, source: str) -> None:
        """While held: forget the steps decided and not told, and make a version of a new lineage out of what the shards fetched.

        Still held afterwards: `go_on` when it is published.
        """
        self.forget()
        self.head = Version(self.head.lineage + 1, self.head.number + 1)
        _, holds, released = self._context()
        self._shards.tell(Replace(self.head, source, self.published.number, holds, (source,), released))
        self.told.append(Application((), version=self.head, replaces=True))
        self._stepped[self.head] = set()

    def forget(self) -> None:
        """While held: the steps decided and not told, and questions not asked, are for nobody any more."""
        assert self._held, "what was told must be published first"
        self._waiting.clear()
        self._deferred.clear()

    def go_on(self) -> None:
        self._held = False
        deferred, self._deferred = self._deferred, []
        for question in deferred:
            self._ask(*question)
        self._advance()

    # --- out --------------------------------------------------------------------------------------------------------------------------

    def take_published(self) -> list[Application]:
        """Steps that every live replica has made since the last call, in order."""
        done = []
        while self.told:
            version = self.told[0].version
            assert version is not None
            if not self._shards.covered_by(self._stepped[version]):
                break
            del self._stepped[version]
            self.published, self.moved = version, self.told[0].fragment
            done.append(self.told.popleft())
        return done

    def take_skipped(self) -> list[Application]:
        """Applications whose rule could not run; no step was taken for them."""
        skipped, self.skipped = self.skipped, []
        return skipped

    # --- one application at a time ----------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        while self._asking is None and self._waiting and not self._held:
            application = self._asking = self._waiting.popleft()
            if application.rule is None:
                self._combine(application)
            elif kinds := self._rule_book.wants_trusted(application.rule):
                assert self._obtain is not None, "a rule needs trusted data in a run without a validator"
                names = tuple(update_name(work_id) for work_id in application.accepted)
                self._obtain(kinds, names, lambda trusted, a=application: self._trust(a, trusted))  # type: ignore[misc]
            else:
                self._measure(application, Trusted())

    def _trust(self, application: Application, trusted: Trusted) -> None:
        if trusted.failure:
            self._skip(application, trusted.failure)
        else:
            self._measure(application, trusted)
        self._advance()

    def _measure(self, application: Application, trusted: Trusted) -> None:
        assert application.rule is not None
        if not self._rule_book.wants_statistics(application.rule):
            self._run_rule(application, (), trusted)
            return
        request = self._question(lambda sums: self._run_rule(application, sums, trusted))
        self._shards.tell(RuleStatistics(request, application.rule, self._rows(application), trusted.reference))

    def _skip(self, application: Application, reason: str) -> None:
        application.skip = reason
        self.skipped.append(application)
        self._asking = None

    @property
    def _rule_book(self) -> RuleBook:
        assert self._rules is not None, "a strategy applied a rule in a run without a rule book"
        return self._rules

    @staticmethod
    def _rows(application: Application) -> tuple[tuple[str, float], ...]:
        pairs = zip(application.accepted, application.counts, strict=True)
        return tuple((update_name(work_id), count) for work_id, count in pairs)

    def _run_rule(self, application: Application, statistics: tuple[int, ...], trusted: Trusted) -> None:
        assert application.rule is not None
        counts, expected = application.counts, application.num_expected
        decision = self._rule_book.decide(application.rule, statistics, counts, expected, trusted.descents)
        if decision.skip:
            self._skip(application, decision.skip)
            return
        rows = self._rows(application)
        self._shards.tell(ApplyRule(DIRECTION, application.rule, rows, decision.instructions))
        chosen = set(decision.selected)
        left_out = tuple(work_id for i, work_id in enumerate(application.accepted) if i not in chosen)
        application.terms = tuple(term for i, term in enumerate(application.terms) if i in chosen)
        application.unselected = (*application.unselected, *left_out)
        self._clip(application, DIRECTION, 1.0)

    def _combine(self, application: Application) -> None:
        terms = tuple((update_name(work_id), weight) for work_id, weight in application.terms)
        if len(terms) == 1:
            self._clip(application, terms[0][0], terms[0][1])
            return
        # Equal weights are taken out of the sum: sum first, divide once, and one pass over memory less.
        common = terms[0][1] if len({weight for _, weight in terms}) == 1 else 1.0
        self._shards.tell(Combine(DIRECTION, tuple((name, weight / common) for name, weight in terms)))
        self._clip(application, DIRECTION, common)

    def _clip(self, application: Application, source: str, scale: float) -> None:
        if self._max_grad_norm is None:
            self._tell_step(application, source, scale)
            return
        limit = self._max_grad_norm

        def bounded(sums: tuple[int, ...]) -> None:
            norm = abs(scale) * exactsum.to_float(sums[0]) ** 0.5
            self._tell_step(application, source, scale * min(1.0, limit / (norm + 1e-6)))  # torch's clip_grad_norm_ adds 1e-6 as well

        self._ask(((source, source),), bounded)

    def _tell_step(self, application: Application, source: str, scale: float) -> None:
        self.head = self.head.next()
        application.version = self.head
        samples, holds, released = self._context()
        drop = application.names if source != DIRECTION else (*application.names, DIRECTION)
        step = Step(
            self.head,
            source,
            scale,
            samples + application.lead,
            self.published.number,
            holds,
            drop,
            released,
            buffers=application.buffers,
            fragment=application.fragment,
            rate=application.rate,
        )
        self._shards.tell(step)
        if self.keeps_models:
            self.keep(model_name(self.head.number), PARAMS)
        self.told.append(application)
        self._stepped[self.head] = set()
        self._asking = None

    # --- questions to the shards ------------------------------------------------------------------------------------------------------

    def _question(self, then: Callable[[tuple[int, ...]], None]) -> int:
        self._next_request += 1
        self._questions[self._next_request] = _Question(then)
        return self._next_request

    def _settle_questions(self) -> None:
        for request in [r for r, q in self._questions.items() if self._shards.covered_by(q.answers.keys())]:
            question = self._questions.pop(request)
            question.then(exact_totals(question.answers))
        self._advance()

    def keep(self, into: str, source: str) -> None:
        self._shards.tell(Keep(into, source))

    def drop(self, names: tuple[str, ...]) -> None:
        if names:
            self._shards.tell(Drop(names))


def exact_totals(answers: dict[ReplicaId, tuple[int, ...]]) -> tuple[int, ...]:
    """Add the partial sums of one replica per shard; all replicas of a shard hold the same range."""
    if len(answers) == 1:
        return next(iter(answers.values()))
    per_shard = {replica.shard: values for replica, values in sorted(answers.items(), reverse=True)}
    return tuple(sum(column) for column in zip(*per_shard.values(), strict=True))

"""Executes what `mottle.core.shard.Shard` orders: the driver's half that touches numbers.

Memory of a range of P bytes: the newest version, a published copy of each version that somebody may still read, the optimizer's slots, and
P for every held vector. A decoded update is copied into memory of its own before it is measured, so a sender that dies, or goes on writing
into what it sent, changes nothing.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from mottle import compression, optim
from mottle.compression import PayloadError
from mottle.core import protocol as p
from mottle.core.errors import ProtocolError
from mottle.core.exactsum import to_float
from mottle.core.layout import Layout, Range
from mottle.core.shard import Ran, RangeStored
from mottle.optim.schedule import Schedule
from mottle.vectors.measure import exact_distance, exact_dot, squared_norm
from mottle.vectors.rules import RangeRules

CENTER = f"{p.KEPT}center"

POOLED = 8
"""Free buffers that are kept: as many as updates usually come in a round."""


class Publisher(Protocol):
    """Makes a copy that readers on other processes can take; what it returns is given to them as it is."""

    def __call__(self, range_D: Tensor) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class ShardSpec:
    """What a shard must know of the job."""

    layout: Layout
    owned: Range
    optimizer: Mapping[str, Any] | str
    codec: Mapping[str, Any] | str = "identity"
    schedule: Schedule | None = None
    """Factor on the learning rate as a function of samples spent."""


@dataclass(frozen=True, kw_only=True)
class Holding:
    """All numbers of a shard at one place of the command order: views of its own memory, to be copied before it goes on."""

    version: int
    values: Tensor
    slots: Mapping[str, Tensor]
    vectors: Mapping[str, tuple[Tensor, float]]
    """With what each sum is divided by to give a mean."""
    settings: Mapping[str, Any]


@dataclass(slots=True)
class _Held:
    values: Tensor
    weight: float
    """What the sum is divided by to give a mean."""


@dataclass(slots=True)
class ShardMemory:
    """Numbers of one shard.

    Args:
        spec: the job's part.
        values: values of the range at `version`; taken over.
        version: number of the version that they are.
        publish: makes the copy that readers get.
    """

    spec: ShardSpec
    values: Tensor
    version: int
    publish: Publisher
    _vectors: dict[str, _Held] = field(default_factory=dict, init=False)
    _published: dict[int, Any] = field(default_factory=dict, init=False)
    _settings: dict[str, Any] = field(default_factory=dict, init=False)
    _codec: Any = field(init=False)
    _plain: Any = field(init=False)
    """References come from the validator as they are."""
    _optimizer: Any = field(init=False)
    _rules: RangeRules = field(init=False)
    _pool: list[Tensor] = field(default_factory=list, init=False)
    """Buffers of dropped vectors, used again: fresh pages cost more than the copy itself."""

    def __post_init__(self) -> None:
        self._codec = compression.build(self.spec.codec)
        self._rules = RangeRules()
        self._plain = compression.build("identity")
        self._optimizer = optim.build_server(self.spec.optimizer, self.values, self.spec.layout.groups_in(self.spec.owned))

    @property
    def _num_params(self) -> int:
        """Coordinates of the range that are parameters; behind them lie buffers."""
        return max(0, min(self.spec.owned.stop, self.spec.layout.num_params) - self.spec.owned.start)

    # --- vectors ----------------------------------------------------------------------------------------------------------------------

    @property
    def held(self) -> tuple[str, ...]:
        """Names of the vectors that take memory."""
        return tuple(self._vectors)

    def store(self, name: str, start: int, stop: int, weight: float, payload: Any, references: tuple[str, ...]) -> RangeStored:
        """Decode and copy coordinates [start, stop), then measure them; a payload that does not fit is a fault, not an exception."""
        begin, end = start - self.spec.owned.start, stop - self.spec.owned.start
        held = self._vectors.get(name)
        if held is None:
            held = self._vectors[name] = _Held(self._buffer(), weight)
        try:
            self._decode(self._plain if name.startswith("reference/") else self._codec, payload, held.values[begin:end])
        except (ValueError, TypeError) as error:
            return RangeStored(name, start, stop, False, 0, fault=str(error))
        values = held.values[begin : min(end, self._num_params)]
        finite, norm2 = squared_norm(values)
        # A sum of ordinary size over next to no weight: its mean is none that could be computed with.
        finite = finite and not (weight > 0 and math.sqrt(to_float(norm2)) / weight > torch.finfo(values.dtype).max)
        finite = finite and bool(torch.isfinite(held.values[max(begin, self._num_params) : end]).all())
        if not finite:
            return RangeStored(name, start, stop, False, 0)
        others = [(each, self._vectors[each].values[begin : begin + len(values)]) for each in references]
        return RangeStored(name, start, stop, True, norm2, tuple((each, exact_dot(values, other_D)) for each, other_D in others))

    @staticmethod
    def _decode(codec: Any, payload: Any, out: Tensor) -> None:
        """A payload, or a tuple of payloads of consecutive coordinates, into `out`.

        Raises:
            PayloadError: it is not what the codec sends for that many coordinates.
        """
        if not isinstance(payload, tuple):
            codec.decode(payload, out)
            return
        claimed = [getattr(piece, "num_coordinates", None) for piece in payload]
        lengths = [length for length in claimed if type(length) is int and length > 0]
        if len(lengths) < len(claimed) or sum(lengths) != len(out):
            raise PayloadError(f"pieces of {claimed!s:.100} coordinates do not make up {len(out)}")
        for piece, part in zip(payload, torch.split(out, lengths), strict=True):
            codec.decode(piece, part)

    def _buffer(self) -> Tensor:
        return self._pool.pop() if self._pool else torch.empty_like(self.values)

    def _drop(self, names: tuple[str, ...]) -> None:
        for name in names:
            held = self._vectors.pop(name, None)
            if held is not None and len(self._pool) < POOLED:
                self._pool.append(held.values)

    # --- commands ---------------------------------------------------------------------------------------------------------------------

    def run(self, command: p.ShardCommand) -> Ran:
        """Execute one command of a batch."""
        match command:
            case p.Step():
                self._step(command)
            case p.Combine(into, terms):
                self._combine(into, terms)
            case p.Measure(_, pairs):
                params = slice(0, self._num_params)
                dots = [exact_dot(self._vectors[a].values[params], self._vectors[b].values[params]) for a, b in pairs]
                return Ran(command, tuple(dots))
            case p.Distances(_, pairs):
                return Ran(command, tuple(self._distance(*pair) for pair in pairs))
            case p.Keep(into, source):
                self._keep(into, source)
            case p.RuleStatistics(_, rule, rows, name):
                reference = None if name is None else self._vectors[name].values
                return Ran(command, self._rules.measure(rule, self._means(rows), self._center(rule), reference, self._num_params))
            case p.ApplyRule():
                self._apply_rule(command)
            case p.Drop(names):
                self._drop(names)
            case p.Configure(settings):
                self._settings.update(settings)
            case p.Award() | p.Snapshot() | p.Adopt() | p.Sync() | p.Wean():
                pass  # what there is to do is the driver's and the machine's
            case _:
                raise ProtocolError(f"a shard cannot run {type(command).__name__}")
        return Ran(command)

    def _combine(self, into: str, terms: tuple[tuple[str, float], ...]) -> None:
        """Parameters: sum of weight * vector. Buffers: the same, normalised to a mean over samples. The first vector's memory is used.

        Weights of a decoded sum may be negative. Running statistics are no sums to be decoded, every worker's are an estimate of the whole
        batch's: they are averaged with the weights' absolute values, so that a variance stays one.
        """
        count = sum(abs(weight) * self._vectors[name].weight for name, weight in terms)
        cut, vectors = self._num_params, [(self._vectors[name].values, weight) for name, weight in terms]
        add_up([(values[:cut], weight) for values, weight in vectors])
        add_up([(values[cut:], abs(weight) / count if count else 0.0) for values, weight in vectors])
        self._vectors[into] = _Held(self._vectors.pop(terms[0][0]).values, 1.0)

    def _distance(self, *names: str) -> int:
        first, second = (self._vectors[name] for name in names)
        cut = self._num_params
        return exact_distance(first.values[:cut], first.weight, second.values[:cut], second.weight)

    def _keep(self, into: str, source: str) -> None:
        values, weight = (self.values, 1.0) if source == p.PARAMS else (self._vectors[source].values, self._vectors[source].weight)
        if into not in self._vectors:
            self._vectors[into] = _Held(self._buffer(), 1.0)
        torch.div(values, weight, out=self._vectors[into].values)

    # --- robust rules -----------------------------------------------------------------------------------------------------------------

    def _means(self, rows: tuple[tuple[str, float], ...]) -> list[Tensor]:
        """The vectors as means, whatever they were: a rule compares workers, not sample counts."""
        for name, _ in rows:
            held = self._vectors[name]
            if held.weight != 1.0:
                held.values.div_(held.weight)
                held.weight = 1.0
        return [self._vectors[name].values for name, _ in rows]

    def _center(self, rule: p.Settings) -> Tensor | None:
        """The last direction, for rules that clip around it: zeros before the first one."""
        if not self._rules.wants_center(rule):
            return None
        if CENTER not in self._vectors:
            self._vectors[CENTER] = _Held(torch.zeros_like(self.values), 1.0)
        return self._vectors[CENTER].values

    def _apply_rule(self, order: p.ApplyRule) -> None:
        """Parameters by the rule; buffers by the median, since a rule on gradients says nothing about running statistics."""
        rows, center = self._means(order.rows), self._center(order.rule)
        direction = self._buffer()
        self._rules.apply(order.rule, order.decision, rows, center, self._num_params, direction)
        if center is not None:
            center.copy_(direction)
        self._vectors[order.into] = _Held(direction, 1.0)

    def _step(self, step: p.Step) -> None:
        previous = step.version.number - 1
        if previous not in self._published:
            self._published[previous] = self.publish(self.values)
        source = self._vectors[step.source]
        scale = step.scale
        if self._optimizer.wants_mean:
            scale *= source.weight
            self._means(((step.source, 0.0),))
        self._choose_buffers(source, step.buffers)
        factor = 1.0 if self.spec.schedule is None else self.spec.schedule(step.samples)
        base = self._settings.get("lr")
        lr = None if base is None and factor == 1.0 else factor * (self._optimizer.base_lr if base is None else base)
        self._optimizer.step(source.values, lr, scale)
        self.version = step.version.number
        self._drop(step.drop)

    def _choose_buffers(self, source: _Held, instead: str | None) -> None:
        """The step's buffers, as a mean, into the source."""
        buffers = source.values[self._num_params :]
        if instead is None:
            buffers.div_(source.weight)
        elif instead:
            other = self._vectors[instead]
            torch.div(other.values[self._num_params :], other.weight, out=buffers)
        else:
            buffers.zero_()

    # --- versions ---------------------------------------------------------------------------------------------------------------------

    def read(self, number: int) -> Any:
        """What the publisher made of a version; made at its first reading."""
        if number not in self._published:
            if number != self.version:
                raise ProtocolError(f"version {number} was not kept, the newest is {self.version}")
            self._published[number] = self.publish(self.values)
        return self._published[number]

    def mean(self, name: str) -> Any:
        """What the publisher made of a held vector, divided by its weight.

        Raises:
            ProtocolError: no such vector.
        """
        if name not in self._vectors:
            raise ProtocolError(f"there is no vector {name!r}")
        (values,) = self._means(((name, 0.0),))
        return self.publish(values)

    def free(self, numbers: tuple[int, ...]) -> None:
        for number in numbers:
            self._published.pop(number, None)

    # --- newcomers --------------------------------------------------------------------------------------------------------------------

    def holding(self) -> Holding:
        """What a newcomer goes on from."""
        vectors = {name: (held.values, held.weight) for name, held in self._vectors.items()}
        slots = self._optimizer.state()
        return Holding(version=self.version, values=self.values, slots=slots, vectors=vectors, settings=dict(self._settings))

    @classmethod
    def of(cls, spec: ShardSpec, holding: Holding, publish: Publisher) -> "ShardMemory":
        """A newcomer's memory: copies of what it was handed."""
        memory = cls(spec, holding.values.clone(), holding.version, publish)
        memory.restore_optimizer(holding.slots)
        memory._settings.update(holding.settings)
        memory._vectors |= {name: _Held(values.clone(), weight) for name, (values, weight) in holding.vectors.items()}
        return memory

    # --- checkpoints ------------------------------------------------------------------------------------------------------------------

    def optimizer_state(self) -> dict[str, Tensor]:
        """Copies of the optimizer's slots, as of the newest version, and of what a rule or a strategy keeps from step to step."""
        kept = {name: held.values.clone() for name, held in self._vectors.items() if name.startswith(p.KEPT)}
        return {**self._optimizer.state(), **kept}

    def restore_optimizer(self, state: Mapping[str, Tensor]) -> None:
        """Take up slots that are cut to this range; the values came with the constructor."""
        self._vectors |= {name: _Held(values.clone(), 1.0) for name, values in state.items() if name.startswith(p.KEPT)}
        self._optimizer.load_state({name: slot for name, slot in state.items() if not name.startswith(p.KEPT)})


def add_up(terms: list[tuple[Tensor, float]]) -> None:
    """Into the first vector: sum of weight * vector, in order."""
    (total, weight), *others = terms
    if weight != 1.0:
        total.mul_(weight)
    for values, alpha in others:
        total.add_(values, alpha=alpha)

"""Executes what `mottle.core.shard.Shard` orders: the driver's half that touches numbers.

Memory of a range of P bytes: the newest version, a published copy of each version that somebody may still read, the optimizer's slots, and
P for every held vector. An update lies in memory of the shard's own before it is measured, so a sender that dies, or goes on writing into
what it sent, changes nothing.
"""

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from mottle import compression, optim
from mottle.compression import Identity, Payload, PayloadError
from mottle.compression.bf16 import narrowed
from mottle.core import protocol as p
from mottle.core.errors import ProtocolError
from mottle.core.exactsum import to_float
from mottle.core.fragments import Fragments
from mottle.core.layout import Layout, Range
from mottle.core.shard import Ran, RangeStored
from mottle.optim.fragments import FragmentOptimizers
from mottle.optim.schedule import Schedule
from mottle.vectors.measure import exact_distance, exact_dot, squared_norm
from mottle.vectors.rules import RangeRules

CENTER = f"{p.KEPT}center"

AS_IT_IS = -1
"""In the place of a version's number: one of several models side by side, until it moves."""

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
    fragments: Fragments | None = None
    """Of the model, where they are stepped apart."""


@dataclass(frozen=True, kw_only=True)
class Holding:
    """All numbers of a shard at one place of the command order: views of its own memory, to be copied before it goes on."""

    version: int
    values: Tensor
    slots: Mapping[str, Tensor]
    vectors: Mapping[str, tuple[Tensor, float, int | None]]
    """With what each sum is divided by to give a mean, and the fragment that it is of."""
    versions: Mapping[tuple[int, int | None], Any]
    """Older versions that are kept, and fragments of them, as the publisher made them."""
    settings: Mapping[str, Any]


Model = tuple[Tensor, Mapping[str, Tensor]]
"""Values of a range, and the optimizer's slots."""
Offer = tuple[Any, Mapping[str, Any]]
"""The same as the publisher made them, for other runs to fetch."""


class Taken(NamedTuple):
    """A payload whose body lies in `room`, memory that `ShardMemory.room` gave for it: it may be kept there."""

    payload: Payload
    room: Tensor


@dataclass(slots=True)
class _Held:
    values: Tensor
    weight: float
    """What the sum is divided by to give a mean."""
    fragment: int | None = None
    """What it is of, in the fragment's own coordinates; None: everything."""


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
    _published: dict[tuple[int, int | None], Any] = field(default_factory=dict, init=False)
    """By version (or `AS_IT_IS`) and fragment; None: the whole range."""
    _moved: int | None = field(default=None, init=False)
    """The fragment that the last step moved."""
    _settings: dict[str, Any] = field(default_factory=dict, init=False)
    _codec: Any = field(init=False)
    _plain: Any = field(init=False)
    """References come from the validator as they are."""
    _optimizer: Any = field(init=False)
    _rules: RangeRules = field(init=False)
    _offers: dict[str, Offer] = field(default_factory=dict, init=False)
    _fetched: dict[str, Model] = field(default_factory=dict, init=False)
    _pool: list[Tensor] = field(default_factory=list, init=False)
    """Buffers of dropped vectors, used again: fresh pages cost more than the copy itself."""

    def __post_init__(self) -> None:
        self._codec = compression.build(self.spec.codec)
        self._rules = RangeRules()
        self._plain = compression.build("identity")
        groups, pieces = self.spec.layout.groups_in(self.spec.owned), self._pieces
        if pieces:
            self._optimizer = FragmentOptimizers(self.spec.optimizer, self.values, groups, pieces)
        else:
            self._optimizer = optim.build_server(self.spec.optimizer, self.values, groups)

    @property
    def _pieces(self) -> list[tuple[Range, ...]]:
        """Where each fragment lies in the range."""
        fragments = self.spec.fragments
        return [] if fragments is None else [fragments.pieces(each, self.spec.owned) for each in range(len(fragments))]

    def _space(self, fragment: int | None) -> Range:
        """What this shard holds of a fragment, in its own coordinates; of the layout for None."""
        return self.spec.owned if fragment is None else self._fragments.owned(fragment, self.spec.owned)

    @property
    def _fragments(self) -> Fragments:
        if self.spec.fragments is None:
            raise ProtocolError("this model has no fragments")
        return self.spec.fragments

    def _num_params(self, fragment: int | None) -> int:
        """Coordinates of the range, or of what it has of a fragment, that are parameters; behind them lie buffers."""
        num_params = max(0, min(self.spec.owned.stop, self.spec.layout.num_params) - self.spec.owned.start)
        return num_params if fragment is None else sum(max(0, min(each.stop, num_params) - each.start) for each in self._pieces[fragment])

    def _params_of(self, name: str) -> Tensor:
        """A held vector without its buffers."""
        held = self._vectors[name]
        return held.values[: self._num_params(held.fragment)]

    # --- vectors ----------------------------------------------------------------------------------------------------------------------

    @property
    def held(self) -> tuple[str, ...]:
        """Names of the vectors that take memory."""
        return tuple(self._vectors)

    def store(
        self,
        name: str,
        start: int,
        stop: int,
        weight: float,
        payload: Any,
        references: tuple[str, ...],
        fragment: int | None = None,
    ) -> RangeStored:
        """Decode and copy coordinates [start, stop), then measure them; a payload that does not fit is a fault, not an exception.

        Args:
            fragment: what the vector is of, and its coordinates; None: the layout's.
        """
        space, num_params = self._space(fragment), self._num_params(fragment)
        begin, end = start - space.start, stop - space.start
        codec = self._plain if name.startswith("reference/") else self._codec
        held, lying = self._vectors.get(name), None
        if held is None:
            lying = self._lying(codec, payload, space.size) if end - begin == space.size else None
            held = self._vectors[name] = _Held(self._buffer(space.size) if lying is None else lying, weight, fragment)
        try:
            if lying is None:
                self._decode(codec, payload, held.values[begin:end])
        except (ValueError, TypeError) as error:
            return RangeStored(name, start, stop, False, 0, fault=str(error))
        values = held.values[begin : min(end, num_params)]
        finite, norm2 = squared_norm(values)
        # A sum of ordinary size over next to no weight: its mean is none that could be computed with.
        finite = finite and not (weight > 0 and math.sqrt(to_float(norm2)) / weight > torch.finfo(values.dtype).max)
        finite = finite and bool(torch.isfinite(held.values[max(begin, num_params) : end]).all())
        if not finite:
            return RangeStored(name, start, stop, False, 0)
        others = [(each, self._vectors[each].values[begin : begin + len(values)]) for each in references]
        return RangeStored(name, start, stop, True, norm2, tuple((each, exact_dot(values, other_D)) for each, other_D in others))

    def room(self, num_bytes: int) -> Tensor:
        """Memory of at least so many bytes for the body of a payload that will be stored as `Taken`."""
        return self._buffer(-(-num_bytes // self.values.itemsize))

    def _lying(self, codec: Any, payload: Any, size: int) -> Tensor | None:
        """The coordinates where they lie, of a plain payload that was taken; None of all others, as of one that does not fit."""
        if not isinstance(payload, Taken) or not isinstance(codec, Identity):
            return None
        with suppress(PayloadError):
            return codec.view(payload.payload, size, self.values.dtype)
        return None

    def _decode(self, codec: Any, payload: Any, out: Tensor) -> None:
        """A payload, or a tuple of payloads of consecutive coordinates, into `out`.

        Raises:
            PayloadError: it is not what the codec sends for that many coordinates.
        """
        if isinstance(payload, Taken):
            codec.decode(payload.payload, out)
            self._recycle(payload.room)
            return
        if not isinstance(payload, tuple):
            codec.decode(payload, out)
            return
        claimed = [getattr(piece, "num_coordinates", None) for piece in payload]
        lengths = [length for length in claimed if type(length) is int and length > 0]
        if len(lengths) < len(claimed) or sum(lengths) != len(out):
            raise PayloadError(f"pieces of {claimed!s:.100} coordinates do not make up {len(out)}")
        for piece, part in zip(payload, torch.split(out, lengths), strict=True):
            codec.decode(piece, part)

    def _buffer(self, size: int) -> Tensor:
        fitting = next((index for index, free in enumerate(self._pool) if len(free) == size), None)
        return self.values.new_empty(size) if fitting is None else self._pool.pop(fitting)

    def _recycle(self, buffer: Tensor) -> None:
        if len(self._pool) < POOLED:
            self._pool.append(buffer)

    def _drop(self, names: tuple[str, ...]) -> None:
        for name in names:
            self._offers.pop(name, None)
            self._fetched.pop(name, None)
            held = self._vectors.pop(name, None)
            if held is not None:
                self._recycle(held.values)
            if name.startswith(p.KEPT):
                for slot in self._slots_of(name):
                    del self._vectors[f"{name}/{slot}"]

    # --- commands ---------------------------------------------------------------------------------------------------------------------

    def run(self, command: p.ShardCommand, *, save: bool = True) -> Ran:
        """Execute one command of a batch.

        Args:
            save: whether the version that a step or a replacement ends may still be read.
        """
        if save and isinstance(command, p.Step | p.Replace):
            self._publish_newest()
        match command:
            case p.Step():
                self._step(command)
            case p.Combine(into, terms):
                self._combine(into, terms)
            case p.Measure(_, pairs):
                return Ran(command, tuple(exact_dot(self._params_of(a), self._params_of(b)) for a, b in pairs))
            case p.Distances(_, pairs):
                return Ran(command, tuple(self._distance(*pair) for pair in pairs))
            case p.Keep(into, source):
                self._keep(into, source)
            case p.Retain(name):
                self._retain(name)
            case p.RuleStatistics(_, rule, rows, name):
                reference, fragment = None if name is None else self._vectors[name].values, self._vectors[rows[0][0]].fragment
                center, num_params = self._center(rule, fragment), self._num_params(fragment)
                return Ran(command, self._rules.measure(rule, self._means(rows), center, reference, num_params))
            case p.ApplyRule():
                self._apply_rule(command)
            case p.Drop(names):
                self._drop(names)
            case p.Configure(settings):
                self._configure(settings)
            case p.Offer(name):
                slots = {key: self.publish(slot) for key, slot in self._optimizer.state().items()}
                self._offers[name] = (self.read(self.version), slots)
            case p.Replace():
                self._replace(command)
            case p.Fetch() | p.Award() | p.Snapshot() | p.Adopt() | p.Sync() | p.Wean():
                pass  # what there is to do is the driver's and the machine's
            case _:
                raise ProtocolError(f"a shard cannot run {type(command).__name__}")
        return Ran(command)

    def _configure(self, settings: Mapping[str, Any]) -> None:
        """The learning rate is told at each step, whose schedule has a say in it; all else is the optimizer's at once."""
        self._settings.update(settings)
        for option, value in settings.items():
            if option != "lr":
                self._optimizer.set(option, value)

    def _combine(self, into: str, terms: tuple[tuple[str, float], ...]) -> None:
        """Parameters: sum of weight * vector. Buffers: the same, normalised to a mean over samples. The first vector's memory is used.

        Weights of a decoded sum may be negative. Running statistics are no sums to be decoded, every worker's are an estimate of the whole
        batch's: they are averaged with the weights' absolute values, so that a variance stays one.
        """
        count = sum(abs(weight) * self._vectors[name].weight for name, weight in terms)
        first = self._vectors[terms[0][0]]
        cut, vectors = self._num_params(first.fragment), [(self._vectors[name].values, weight) for name, weight in terms]
        add_up([(values[:cut], weight) for values, weight in vectors])
        add_up([(values[cut:], abs(weight) / count if count else 0.0) for values, weight in vectors])
        del self._vectors[terms[0][0]]
        self._vectors[into] = _Held(first.values, 1.0, first.fragment)

    def _distance(self, *names: str) -> int:
        first, second = (self._vectors[name] for name in names)
        return exact_distance(self._params_of(names[0]), first.weight, self._params_of(names[1]), second.weight)

    def _keep(self, into: str, source: str) -> None:
        values, weight = (self.values, 1.0) if source == p.PARAMS else (self._vectors[source].values, self._vectors[source].weight)
        if into not in self._vectors:
            self._vectors[into] = _Held(self._buffer(len(self.values)), 1.0)
        torch.div(values, weight, out=self._vectors[into].values)

    def _retain(self, name: str) -> None:
        """Slots lie beside it as vectors of their own: newcomers and checkpoints get them as they get all others."""
        self._keep(name, p.PARAMS)
        self._vectors |= {f"{name}/{key}": _Held(slot, 1.0) for key, slot in self._optimizer.state().items()}

    def _slots_of(self, name: str) -> dict[str, Tensor]:
        """Of a version that is retained; empty of every other vector."""
        beside = f"{name}/"
        return {each.removeprefix(beside): held.values for each, held in self._vectors.items() if each.startswith(beside)}

    # --- robust rules -----------------------------------------------------------------------------------------------------------------

    def _means(self, rows: tuple[tuple[str, float], ...]) -> list[Tensor]:
        """The vectors as means, whatever they were: a rule compares workers, not sample counts."""
        for name, _ in rows:
            held = self._vectors[name]
            if held.weight != 1.0:
                held.values.div_(held.weight)
                held.weight = 1.0
        return [self._vectors[name].values for name, _ in rows]

    def _center(self, rule: p.Settings, fragment: int | None) -> Tensor | None:
        """The last direction (a copy, of a fragment), for rules that clip around it: zeros before the first one."""
        if not self._rules.wants_center(rule):
            return None
        if CENTER not in self._vectors:
            self._vectors[CENTER] = _Held(torch.zeros_like(self.values), 1.0)
        center = self._vectors[CENTER].values
        return center if fragment is None else self._gathered(center, fragment)

    def _move_center(self, direction: Tensor, fragment: int | None) -> None:
        start, center = 0, self._vectors[CENTER].values
        for piece in [Range(0, len(center))] if fragment is None else self._pieces[fragment]:
            center[piece.start : piece.stop] = direction[start : start + piece.size]
            start += piece.size

    def _apply_rule(self, order: p.ApplyRule) -> None:
        """Parameters by the rule; buffers by the median, since a rule on gradients says nothing about running statistics."""
        fragment = self._vectors[order.rows[0][0]].fragment
        rows, center = self._means(order.rows), self._center(order.rule, fragment)
        direction = self._buffer(self._space(fragment).size)
        self._rules.apply(order.rule, order.decision, rows, center, self._num_params(fragment), direction)
        if center is not None:
            self._move_center(direction, fragment)
        self._vectors[order.into] = _Held(direction, 1.0, fragment)

    def _step(self, step: p.Step) -> None:
        source = self._vectors[step.source]
        scale = step.scale
        if self._optimizer.wants_mean:
            scale *= source.weight
            self._means(((step.source, 0.0),))
        self._choose_buffers(source, step.buffers)
        factor = step.rate * (1.0 if self.spec.schedule is None else self.spec.schedule(step.samples))
        base = self._settings.get("lr")
        lr = None if base is None and factor == 1.0 else factor * (self._optimizer.base_lr if base is None else base)
        if step.fragment is None:
            self._optimizer.step(source.values, lr, scale)
        else:
            self._optimizer.step(step.fragment, source.values, lr, scale)
        self.version, self._moved = step.version.number, step.fragment
        self._published.pop((AS_IT_IS, step.fragment), None)
        self._drop(step.drop)

    def _choose_buffers(self, source: _Held, instead: str | None) -> None:
        """The step's buffers, as a mean, into the source."""
        buffers = source.values[self._num_params(source.fragment) :]
        if instead is None:
            buffers.div_(source.weight)
        elif instead:
            other = self._vectors[instead]
            torch.div(other.values[self._num_params(None) :], other.weight, out=buffers)
        else:
            buffers.zero_()

    # --- other models -----------------------------------------------------------------------------------------------------------------

    def offered(self, name: str) -> Offer | None:
        """What is kept for others under that name; None before the place of its `Offer`, and after that of its `Drop`."""
        return self._offers.get(name)

    def misfit(self, model: Model) -> str:
        """Why what was fetched cannot take the place of this one's; empty if it can. Any thread may ask."""
        values = model[0]
        if values.shape != self.values.shape or values.dtype != self.values.dtype:
            return f"wanted {len(self.values)} values of {self.values.dtype}, got {len(values)} of {values.dtype}"
        if len(values) and not torch.isfinite(torch.stack(torch.aminmax(values))).all():  # a fifth of the time of looking at each
            return "the model that was fetched is not finite"
        return ""

    def take(self, name: str, model: Model) -> None:
        """Keep what was fetched and fits; nobody changes it."""
        self._fetched[name] = model

    def _replace(self, command: p.Replace) -> None:
        """Slots of another optimizer are left behind: this one's then begin afresh."""
        source = command.source
        values, slots = self._fetched[source] if source in self._fetched else (self._vectors[source].values, self._slots_of(source))
        self.values.copy_(values)
        try:
            self._optimizer.load_state(slots)
        except ValueError:
            self._optimizer.load_state({})
        self._vectors.pop(CENTER, None)
        self.version, self._moved = command.version.number, None
        self.free((AS_IT_IS,))
        self._drop(command.drop)

    def _publish_newest(self) -> None:
        self.read(self.version)
        if self._moved is not None and not self._apart:  # what workers read of it
            self.read(self.version, self._moved)

    # --- versions ---------------------------------------------------------------------------------------------------------------------

    def read(self, number: int, fragment: int | None = None) -> Any:
        """What the publisher made of a version, or of a fragment of it; made at its first reading. One of several models is read as it is
        now: the machine lets nobody read it who wants an older one."""
        current = self._apart and fragment is not None
        wanted = AS_IT_IS if current else number, fragment
        if wanted not in self._published:
            if number != self.version and not current:
                raise ProtocolError(f"version {number} was not kept, the newest is {self.version}")
            self._published[wanted] = self.publish(self.values if fragment is None else self._travelling(fragment))
        return self._published[wanted]

    @property
    def _apart(self) -> bool:
        return self.spec.fragments is not None and self.spec.fragments.apart

    def _travelling(self, fragment: int) -> Tensor:
        values = self._gathered(self.values, fragment)
        return narrowed(values) if self._fragments.narrow else values

    def _gathered(self, values: Tensor, fragment: int) -> Tensor:
        """A fragment's part of the range, in memory of its own."""
        pieces = [values[piece.start : piece.stop] for piece in self._pieces[fragment]]
        return torch.cat(pieces) if pieces else values.new_empty(0)

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
        for wanted in [each for each in self._published if each[0] in numbers]:
            del self._published[wanted]

    # --- newcomers --------------------------------------------------------------------------------------------------------------------

    def holding(self) -> Holding:
        """What a newcomer goes on from."""
        vectors = {name: (held.values, held.weight, held.fragment) for name, held in self._vectors.items()}
        versions = {wanted: published for wanted, published in self._published.items() if wanted[0] not in (self.version, AS_IT_IS)}
        return Holding(
            version=self.version,
            values=self.values,
            slots=self._optimizer.state(),
            vectors=vectors,
            versions=versions,
            settings=dict(self._settings),
        )

    @classmethod
    def of(cls, spec: ShardSpec, holding: Holding, publish: Publisher) -> "ShardMemory":
        """A newcomer's memory: copies of what it was handed; its versions are tensors again."""
        memory = cls(spec, holding.values.clone(), holding.version, publish)
        memory.restore_optimizer(holding.slots)
        memory._configure(holding.settings)
        memory._vectors |= {name: _Held(values.clone(), weight, fragment) for name, (values, weight, fragment) in holding.vectors.items()}
        memory._published = {wanted: publish(values) for wanted, values in holding.versions.items()}
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

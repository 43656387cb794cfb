"""What every attack is: a frozen configuration with four seams, which leave what they are handed alone unless the attack says otherwise.

An honest step of a worker passes them in this order::

    labels    the batch's labels, before the loss                  (data)
    step      one round on tensors, or `corrupt` in a live worker  (update)
    messages  what is put on the wire                              (message)
    ingress   what a parameter server's link makes of all rows     (link)

An attack is pure: its randomness is a generator that the caller seeds, independent of data loading; what it remembers is a state that the
caller keeps and checkpoints. It never writes into what it is given. With worker momentum the update is the transmitted momentum vector.
Arithmetic is float64, cast to the dtype of the update at the end: a value beyond its range becomes infinite, as it would on the wire.

Letters: N workers, H honest, Q faulty, D coordinates, S coordinates of a shard.
"""

from abc import ABC
from dataclasses import dataclass, fields
from dataclasses import replace as replace_fields
from typing import Any, ClassVar, Literal, TypeVar, final

import numpy as np
import torch
from torch import Tensor

from mottle.attacks.checks import number, whole
from mottle.attacks.view import Knowledge, Message, RoundView, Rule
from mottle.core.errors import ConfigError

State = Any
"""What an attack remembers between rounds: None, or a frozen dataclass of its own."""

T = TypeVar("T")

ATTACK_STREAM = 0x61747461636B  # "attack": keeps apart from spawn keys that count up from 0

Stage = Literal["data", "update", "message", "link"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Turn:
    """One turn of the attackers: the round, blinded to what they may know, who of them acts, and their dice."""

    attack: str
    view: RoundView
    active: Tensor
    """Which faulty workers act now; the rows of the others are replaced by their honest ones afterwards."""
    generator: np.random.Generator | None

    @property
    def own(self) -> Tensor:
        """The faulty workers' own honest updates."""
        return self._given("own", self.view.own, "the faulty workers' own updates")

    @property
    def honest(self) -> Tensor:
        """The honest updates."""
        return self._given("honest", self.view.honest, "the honest updates of the round")

    @property
    def rule(self) -> Rule:
        """The defender's rule."""
        return self._given("rule", self.view.rule, "the aggregation rule")

    @property
    def dice(self) -> np.random.Generator:
        """The attack's own generator."""
        return dice(self.attack, self.generator)

    def same_for_all(self, row_D: Tensor) -> Tensor:
        """The row, cast to the update's dtype, once for every faulty worker."""
        return row_D.to(self.view.dtype).repeat(self.view.num_faulty, 1)

    def _given(self, name: str, value: T | None, meaning: str) -> T:
        if value is None:
            raise ConfigError(
                f"{self.attack} needs {meaning}, but the view has no {name}; fill it, in a live job by opening the collusion channel"
            )
        return value


def generator_for(seed: int, *, worker: int | None = None) -> np.random.Generator:
    """The attacks' own stream of a seed, independent of every other use of it: of one worker, or shared by all colluders."""
    key = (ATTACK_STREAM,) if worker is None else (ATTACK_STREAM, worker)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """Rows that reach a shard: in which round, and where the shard lies in the whole update."""

    round: int
    first: int
    num_coordinates: int


def dice(attack: str, generator: np.random.Generator | None) -> np.random.Generator:
    """The generator, or an error that asks for one."""
    if generator is None:
        raise ConfigError(f"{attack} is random here and needs a seeded numpy generator; pass generator=numpy.random.default_rng(seed)")
    return generator


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """Base of all attacks. A subclass sets the class variables, adds fields, and replaces the private methods of the seams it uses.

    Raises:
        ConfigError: on construction, naming every field that is out of range.
    """

    name: ClassVar[str]
    citation: ClassVar[str]
    stage: ClassVar[Stage] = "update"
    passes_gate: ClassVar[str] = "yes"
    """Whether what it sends is finite and well formed, so that only a rule can stop it."""

    start: int = 0
    """First round, or version, in which the attack acts; before it the workers are honest."""
    message_probability: float = 1.0
    """Chance that a worker's message is faulty, drawn anew for each; q/n with all workers faulty is the asynchronous convention."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if isinstance(getattr(self, field.name), list):  # what YAML makes of a tuple
                object.__setattr__(self, field.name, tuple(getattr(self, field.name)))
        problems = whole("start", self.start, least=0) + number("message_probability", self.message_probability, least=0.0, most=1.0)
        problems += self._problems()
        if problems:
            raise ConfigError(f"attack {self.name}: " + "; ".join(problems))

    @property
    def knowledge(self) -> Knowledge:
        """How much the attack needs to know as configured."""
        return Knowledge.OWN

    @property
    def deterministic(self) -> bool:
        """Whether the attack itself, as configured, rolls no dice (`message_probability` below 1 does)."""
        return True

    @final
    def spec(self) -> dict[str, dict[str, Any]]:
        """The form for a job file; `build(attack.spec())` is an equal attack."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {self.name: {key: value.spec() if isinstance(value, Attack) else value for key, value in values.items()}}

    def init(self) -> State:
        """State before the first round."""
        return None

    @final
    def labels(self, labels: Tensor, *, round: int = 0, generator: np.random.Generator | None = None) -> Tensor:
        """What a faulty worker trains on instead of these labels; to be called on its training batches only, before the loss."""
        if self.stage != "data":
            return self._labels(labels, round, generator)
        return self._labels(labels, round, generator) if self._acts(round, generator) else labels

    @final
    def step(self, view: RoundView, state: State = None, *, generator: np.random.Generator | None = None) -> tuple[Tensor, State]:
        """One round on tensors: the rows that the faulty workers send, and the state after it.

        An attack with a state watches the rounds before `start` too. Draw order: one uniform number per faulty worker where
        `message_probability` is below 1, then what the attack's own docstring says.

        Args:
            view: what there is to see; blinded here to the attack's knowledge.
            state: what the last call returned; None starts afresh.
            generator: the attack's own dice; needed by random attacks only.
        Returns:
            Rows of shape (Q, D) in ascending worker id and in the dtype of the updates, fresh memory ((0, D) without faulty workers).
            A Sybil attack returns a row for each of its identities.
        Raises:
            ConfigError: the view or the call lacks something that the attack needs.
        """
        state = self.init() if state is None else state
        if not view.faulty_ids:
            return torch.empty(0, view.length, dtype=view.dtype, device=view.device), state
        active_Q = self._active(view, generator) if self.stage == "update" else torch.ones(view.num_faulty, dtype=torch.bool)
        turn = Turn(attack=self.name, view=view.limited_to(self.knowledge), active=active_Q, generator=generator)
        honest = Turn(attack=f"{self.name}, where it does not act,", view=view, active=active_Q, generator=None)
        if self.stage in ("data", "link") or (state is None and not active_Q.any()):
            return honest.own.clone(), state
        rows_QD, state = self._rows(turn, state)
        rows_QD = rows_QD.to(view.dtype)
        if not active_Q.all():
            rows_QD = torch.where(active_Q[:, None].to(view.device), rows_QD, honest.own)
        return rows_QD, state

    @final
    def rows(self, view: RoundView, *, generator: np.random.Generator | None = None) -> Tensor:
        """The rows of one round by itself, from a fresh state; see `step`."""
        return self.step(view, generator=generator)[0]

    @final
    def corrupt(
        self,
        update_D: Tensor,
        *,
        worker: int,
        num_workers: int,
        round: int,
        state: State = None,
        generator: np.random.Generator | None = None,
        channel: RoundView | None = None,
    ) -> tuple[Tensor, State]:
        """Inside one live worker: what it sends instead of its own flat update.

        Up to `Knowledge.OWN` the worker acts alone and the channel is not looked at; its random draws are those of a round with one
        faulty worker. Above that, every colluder evaluates the same channel with an equally seeded generator, and sends its own row.

        Args:
            update_D: the worker's own update, 1-D; left as it is. In the unit of the channel's rows: where workers push gradient sums,
                the mean over the worker's samples, to be multiplied by their number again.
            worker: its id.
            channel: the round as the colluders see it, for attacks whose `knowledge` is above OWN.
        Returns:
            A fresh 1-D tensor of the same dtype, and the state.
        Raises:
            ConfigError: an attack that needs the channel got none, or one of another round or without this worker.
        """
        if self.knowledge <= Knowledge.OWN:
            others = tuple(i for i in range(num_workers + 1) if i != worker)[: num_workers - 1]
            view = RoundView(num_workers=num_workers, faulty_ids=(worker,), honest_ids=others, round=round, own=update_D[None])
        else:
            view = self._through(channel, worker, round, update_D)
        rows_QD, state = self.step(view, state, generator=generator)
        return rows_QD[view.faulty_ids.index(worker)], state

    @final
    def messages(self, message: Message, *, state: State = None, generator: np.random.Generator | None = None) -> list[Message]:
        """What a faulty worker puts on the wire in place of this message, in order of sending; its payload is already corrupted.

        Args:
            state: the state after this round's `step` or `corrupt`.
        """
        if self.stage == "message" and not self._acts(message.round, generator):
            return [message]
        return self._messages(message, state, generator)

    @final
    def ingress(
        self,
        rows_NS: Tensor,
        *,
        round: int = 0,
        first: int = 0,
        num_coordinates: int | None = None,
        generator: np.random.Generator | None = None,
    ) -> Tensor:
        """What arrives behind a faulty link when the workers, honest or not, send these rows to a shard.

        Args:
            first: place of the shard's first coordinate in the whole update.
            num_coordinates: length of the whole update; without it the rows are whole.
        Returns:
            The same tensor where the link is sound, else a corrupted copy.
        """
        if self.stage == "link" and not self._acts(round, generator):
            return rows_NS
        length = first + rows_NS.shape[1] if num_coordinates is None else num_coordinates
        return self._ingress(rows_NS, Arrival(round=round, first=first, num_coordinates=length), generator)

    def _problems(self) -> list[str]:
        """Complaints about the subclass's own fields."""
        return []

    def _labels(self, labels: Tensor, round: int, generator: np.random.Generator | None) -> Tensor:
        return labels

    def _rows(self, turn: Turn, state: State) -> tuple[Tensor, State]:
        return turn.own.clone(), state

    def _messages(self, message: Message, state: State, generator: np.random.Generator | None) -> list[Message]:
        return [message]

    def _ingress(self, rows_NS: Tensor, arrival: Arrival, generator: np.random.Generator | None) -> Tensor:
        return rows_NS

    def _acts(self, round: int, generator: np.random.Generator | None) -> bool:
        if round < self.start:
            return False
        return self.message_probability == 1.0 or bool(dice(self.name, generator).random() < self.message_probability)

    def _active(self, view: RoundView, generator: np.random.Generator | None) -> Tensor:
        if view.round < self.start or self.message_probability == 1.0:
            return torch.full((view.num_faulty,), view.round >= self.start)
        return torch.from_numpy(dice(self.name, generator).random(view.num_faulty) < self.message_probability)

    def _through(self, channel: RoundView | None, worker: int, round: int, update_D: Tensor) -> RoundView:
        if channel is None:
            raise ConfigError(
                f"{self.name} needs knowledge {self.knowledge.name} (K{self.knowledge}); open the collusion channel for its group"
            )
        if worker not in channel.faulty_ids or channel.round != round:
            raise ConfigError(
                f"{self.name}: worker {worker} needs a channel of round {round} that lists it as faulty, got round {channel.round} "
                f"with faulty workers {channel.faulty_ids}"
            )
        if channel.own is not None:
            return channel
        # Only this worker's row is read, so its own update may stand in for those of colluders who did not share theirs, unless the attack
        # needs them: then the missing rows must stay missing.
        if self.knowledge == Knowledge.COLLUDERS:
            return channel
        return replace_fields(channel, own=update_D[None].expand(channel.num_faulty, -1))

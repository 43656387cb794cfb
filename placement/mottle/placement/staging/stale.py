"""DSP: a pipeline that never runs empty, because no stage waits for a batch to come back before it updates (specification 9).

Each stage has one copy of its parameters. A batch goes forward through them as they are, comes back `m_k` steps later, is run forward again
with the parameters of then, and updates them. So stage k learns from gradients that are m_k updates late, and the last one from fresh ones:

    m_k = sum over j >= k of (forward slots of queue j + gradient slots of queue j)

Use it on request only, with a small learning rate (`lr * L * (m_0 + 1) <= 0.5` on a quadratic of curvature L); with no slots at all it is
synchronous SGD. Xu, Huo, Huang, CVPR 2020, arXiv 1909.02625; the exact rule is a reconstruction.

A stage is a generator that says what it puts and takes; what drives it is a thread of its own, or, for a replay, a loop over all of them.
"""

import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from mottle.core.errors import ConfigError

Loss = Callable[[Tensor, Any], Tensor]
"""`loss(output, batch)`: a mean over the batch."""


class Put(NamedTuple):
    """A stage hands this on; it goes on when there is room."""

    queue: tuple[Literal["forward", "gradient"], int]
    value: Tensor


class Take(NamedTuple):
    """A stage wants what is next in a queue."""

    queue: tuple[Literal["forward", "gradient"], int]


Steps = Generator[Put | Take, Tensor | None, None]


@dataclass(frozen=True, kw_only=True)
class StaleConfig:
    """Raises ConfigError where it cannot be."""

    lr: float
    momentum: float = 0.0
    forward_slots: tuple[int, ...]
    """p: of the queue behind each stage but the last."""
    gradient_slots: tuple[int, ...] | None = None
    """q: of the queues back; None: as many."""

    def __post_init__(self) -> None:
        slots = (*self.forward_slots, *self.back)
        if not self.lr > 0 or not 0 <= self.momentum < 1 or any(each < 0 for each in slots) or len(self.back) != len(self.forward_slots):
            raise ConfigError(
                "wanted a rate above 0, a momentum in [0, 1), and as many gradient slots as forward slots, none negative; "
                f"got {self.lr}, {self.momentum}, {self.forward_slots} and {self.back}"
            )

    @property
    def back(self) -> tuple[int, ...]:
        """q."""
        return self.forward_slots if self.gradient_slots is None else self.gradient_slots

    @property
    def staleness(self) -> tuple[int, ...]:
        """m, by stage."""
        sums = [p + q for p, q in zip(self.forward_slots, self.back, strict=True)]
        return tuple(sum(sums[k:]) for k in range(len(sums) + 1))


@dataclass
class StaleRun:
    """What became of it. The stages' parameters are trained in place."""

    losses: list[float]
    """Of every batch, with the last stage's parameters at its turn."""
    most_waiting: dict[tuple[str, int], int]
    """Queue -> the most that it held."""


def train_stale(
    stages: Sequence[nn.Module], loss: Loss, batches: Sequence[tuple[Tensor, Any]], config: StaleConfig, *, threads: bool = True
) -> StaleRun:
    """Train a chain of stages on batches, in order, each stage in a thread of its own.

    Args:
        stages: each takes what the one before it gives, one tensor; on devices of their own.
        batches: (input, what the loss is given beside the output).
        threads: False: the same steps, one after the other; the same numbers.
    Raises:
        ConfigError: not one queue fewer than stages, or no batch.
        And whatever a stage or the loss raises.
    """
    if len(config.forward_slots) != len(stages) - 1 or not batches:
        raise ConfigError(
            f"{len(stages)} stages have {len(stages) - 1} queues between them, and want a batch at least; "
            f"got slots {config.forward_slots} and {len(batches)} batches"
        )
    run = StaleRun([], {})
    programs = [_stage(k, stages, loss, batches, config, run.losses) for k in range(len(stages))]
    queues: Queues = {("forward", k): slots for k, slots in enumerate(config.forward_slots)}
    queues |= {("gradient", k): slots for k, slots in enumerate(config.back)}
    (_in_threads if threads else _in_turn)(programs, queues, run.most_waiting)
    return run


def _stage(
    k: int, stages: Sequence[nn.Module], loss: Loss, batches: Sequence[tuple[Tensor, Any]], config: StaleConfig, losses: list[float]
) -> Steps:
    """All local steps of a stage: forward of batch t, backward of batch t - m_k; the last m_k steps are backward only."""
    stage, last, late = stages[k], k == len(stages) - 1, config.staleness[k]
    parameters = [parameter for parameter in stage.parameters() if parameter.requires_grad]
    momenta = [torch.zeros_like(parameter) for parameter in parameters]
    device = next((parameter.device for parameter in parameters), torch.device("cpu"))
    stash: deque[Tensor] = deque()
    for t in range(len(batches) + late):
        if t < len(batches):
            given = batches[t][0] if k == 0 else (yield Take(("forward", k - 1)))
            assert given is not None
            stash.append(given.to(device))
            if not last:
                with torch.no_grad():
                    out = stage(stash[-1])
                yield Put(("forward", k), out)
        b = t - late
        if b < 0:
            continue
        back = None if last else (yield Take(("gradient", k)))
        taken = stash.popleft().detach().requires_grad_(k > 0)
        wanted = [*parameters, *([taken] if k else [])]
        out = stage(taken)
        if last:
            head = loss(out, batches[b][1])
            losses.append(float(head.detach()))
            found = torch.autograd.grad(head, wanted, allow_unused=True)
        else:
            assert back is not None
            found = torch.autograd.grad(out, wanted, back.to(device), allow_unused=True)
        _step(parameters, momenta, found, config)
        if k:
            yield Put(("gradient", k - 1), torch.zeros_like(taken) if found[-1] is None else found[-1])


@torch.no_grad()
def _step(parameters: Sequence[Tensor], momenta: Sequence[Tensor], gradients: Sequence[Tensor | None], config: StaleConfig) -> None:
    """v <- mu v + g; x <- x - lr v."""
    for parameter, momentum, gradient in zip(parameters, momenta, gradients, strict=False):
        if gradient is not None:
            momentum.mul_(config.momentum).add_(gradient)
            parameter.sub_(momentum, alpha=config.lr)


# --- drivers ----------------------------------------------------------------------------------------------------------------------------

Queues = dict[tuple[str, int], int]
"""Queue -> its slots; one of no slots hands over: who puts waits until it is taken."""


class _Halls:
    """All queues, under one lock."""

    def __init__(self, slots: Queues, most: dict[tuple[str, int], int]) -> None:
        self.slots, self.most = slots, most
        self.of: dict[tuple[str, int], deque[Tensor]] = {queue: deque() for queue in slots}
        self.taken: dict[tuple[str, int], int] = dict.fromkeys(slots, 0)
        self.put_in: dict[tuple[str, int], int] = dict.fromkeys(slots, 0)

    def room(self, queue: tuple[str, int]) -> bool:
        """A queue of no slots holds what is being handed over."""
        return len(self.of[queue]) < max(1, self.slots[queue])

    def put(self, put: Put) -> int:
        """The number of what was put."""
        self.of[put.queue].append(put.value)
        self.put_in[put.queue] += 1
        self.most[put.queue] = max(self.most.get(put.queue, 0), len(self.of[put.queue]))
        return self.put_in[put.queue]

    def settled(self, queue: tuple[str, int], number: int) -> bool:
        """Whether who put it may go on."""
        return self.slots[queue] > 0 or self.taken[queue] >= number

    def take(self, queue: tuple[str, int]) -> Tensor:
        self.taken[queue] += 1
        return self.of[queue].popleft()


def _in_threads(programs: Sequence[Steps], slots: Queues, most: dict[tuple[str, int], int]) -> None:
    halls, changed, errors = _Halls(slots, most), threading.Condition(), []

    def drive(program: Steps) -> None:
        answer: Tensor | None = None
        try:
            while True:
                asked = program.send(answer)
                with changed:
                    answer = _obey(asked)
                    changed.notify_all()
        except StopIteration:
            return
        except BaseException as error:  # raised again by the caller's thread
            with changed:
                errors.append(error)
                changed.notify_all()

    def wait(condition: Callable[[], bool]) -> None:
        changed.wait_for(lambda: condition() or bool(errors))
        if errors:
            raise InterruptedError("another stage failed")

    def _obey(asked: Put | Take) -> Tensor | None:
        queue = asked.queue
        if isinstance(asked, Take):
            wait(lambda: bool(halls.of[queue]))
            return halls.take(queue)
        wait(lambda: halls.room(queue))
        number = halls.put(asked)
        changed.notify_all()
        wait(lambda: halls.settled(queue, number))
        return None

    threads = [threading.Thread(target=drive, args=(program,), name=f"stage {k}") for k, program in enumerate(programs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _in_turn(programs: Sequence[Steps], slots: Queues, most: dict[tuple[str, int], int]) -> None:
    """One thread: whoever can go on does, the first stage first."""
    halls = _Halls(slots, most)
    asked = {k: wish for k, program in enumerate(programs) if (wish := next(program, None)) is not None}
    handed: dict[int, int] = {}
    """Stage -> the number of what it put and may not go on from yet."""
    while asked:
        stuck = True
        for k, wish in list(asked.items()):
            answer: Tensor | None = None
            if isinstance(wish, Take):
                if not halls.of[wish.queue]:
                    continue
                answer = halls.take(wish.queue)
            else:
                if k not in handed and halls.room(wish.queue):
                    handed[k], stuck = halls.put(wish), False
                if k not in handed or not halls.settled(wish.queue, handed[k]):
                    continue
                del handed[k]
            stuck = False
            try:
                asked[k] = programs[k].send(answer)
            except StopIteration:
                del asked[k]
        assert not stuck, f"nobody can go on: {asked}"

"""A model with dropout and data with random augmentation: the same update, whatever the threads of a worker do at the same time."""

import threading
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from mottle import data
from mottle.data import GLOBAL_RANDOMNESS, Loader, Positions, Prefetcher, derive_seed
from mottle.engines import TorchEngine, layout_of

NUM_SAMPLES = 6
OVERLAP_S = 0.2  # how long a reading waits for the model to draw; with the lock it always waits that long, and in vain


class Meeting:
    """Lets a reading and a forward pass run into each other's draws."""

    def __init__(self) -> None:
        self.reading = threading.Event()
        self.drew = threading.Event()


class Augmented(Dataset[Tensor]):
    """Two draws a sample; between them the model may draw, if it does not wait."""

    def __init__(self, meeting: Meeting | None) -> None:
        self._meeting = meeting

    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, row: int) -> Tensor:
        first = torch.randn(4)
        if self._meeting is not None:
            self._meeting.reading.set()
            self._meeting.drew.wait(OVERLAP_S)
        return first + torch.randn(4)


class Dropping(nn.Module):
    def __init__(self, meeting: Meeting | None) -> None:
        super().__init__()
        self._meeting = meeting
        self.layer = nn.Linear(4, 4)

    def forward(self, features_NF: Tensor) -> Tensor:
        dropped = nn.functional.dropout(features_NF, 0.5)
        if self._meeting is not None:
            self._meeting.drew.set()
        out: Tensor = nn.functional.dropout(self.layer(dropped), 0.5)
        return out


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    squares: Tensor = model(batch).square().mean()
    return squares


def engine_of(meeting: Meeting | None) -> TorchEngine:
    torch.manual_seed(0)
    model = Dropping(meeting)
    return TorchEngine(model, loss, layout_of(model), "cpu", 1, global_randomness=GLOBAL_RANDOMNESS)


def update_of(engine: TorchEngine, fetch: Any) -> Tensor:
    engine.zero()
    engine.accumulate(fetch, 0, NUM_SAMPLES, seed_of_position=lambda position: derive_seed(0, "model", 0, position))
    return engine.update().clone()


def test_a_prefetching_worker_makes_the_update_of_one_that_does_one_thing_at_a_time() -> None:
    alone = Loader(data.build(Augmented(None)), seed=0)
    expected_D = update_of(engine_of(None), lambda start, stop: alone.load(Positions(0, start, stop)))

    meeting = Meeting()
    shared = Loader(data.build(Augmented(meeting)), seed=0)
    with Prefetcher(shared.load, depth=2) as prefetcher:

        def fetch(start: int, stop: int) -> Any:
            """The batch, once the next one is being read."""
            batch = prefetcher.take(Positions(0, start, stop))
            meeting.reading.clear()
            meeting.drew.clear()
            if stop < NUM_SAMPLES:
                prefetcher.request(Positions(0, stop, stop + 1))
                assert meeting.reading.wait(10.0)
            return batch

        update_D = update_of(engine_of(meeting), fetch)
    assert torch.equal(update_D, expected_D)


def test_neither_loading_nor_computing_leaves_a_trace_in_the_processes_generators() -> None:
    torch.manual_seed(7)
    state = torch.get_rng_state()
    loader = Loader(data.build(Augmented(None)), seed=0)
    made = engine_of(None)
    torch.set_rng_state(state)
    update_of(made, lambda start, stop: loader.load(Positions(0, start, stop)))
    assert torch.equal(torch.get_rng_state(), state)

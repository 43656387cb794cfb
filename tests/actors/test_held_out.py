"""Validation and test data with random transforms: a reading that is repeated gives the same numbers."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mottle import data
from mottle.actors.held_out import read_rows

ROWS = np.array([3, 0, 5])


class Noisy(Dataset[Tensor]):
    """Every reading of a row draws anew."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, row: int) -> Tensor:
        return row + torch.rand(2)


def job(*, seed: int = 1, seed_samples: bool = True) -> Any:
    source = data.build(Noisy())
    return SimpleNamespace(seed=seed, loader=data.Loader(source, seed=seed, seed_samples=seed_samples))


def reading(job: Any, *place: int) -> Tensor:
    batch: Tensor = read_rows(job, job.loader.source, ROWS, "validation/sample", *place)
    return batch


def test_a_repeated_reading_is_the_same_and_another_one_is_not() -> None:
    first = reading(job(), 7)
    torch.manual_seed(123)
    assert torch.equal(reading(job(), 7), first)
    assert not torch.equal(reading(job(), 8), first)
    assert not torch.equal(reading(job(seed=2), 7), first)
    assert first[:, 0].long().tolist() == ROWS.tolist()


def test_a_row_is_the_same_whatever_it_is_read_with() -> None:
    alone = read_rows(job(), job().loader.source, ROWS[1:2], "validation/sample", 7)
    assert torch.equal(alone[0], reading(job(), 7)[1])


def test_a_job_that_seeds_no_samples_leaves_the_generators_alone() -> None:
    readings = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        readings.append(reading(job(seed_samples=False), 7))
    assert not torch.equal(*readings)

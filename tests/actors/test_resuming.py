"""Going on from a checkpoint of a live run: with an equal fleet bit by bit, with another one to the same model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.actors import live
from torch import Tensor

from mottle.checkpoint.manifest import numbers
from mottle.sdk import Run, Trainer, WorkerGroup
from mottle.storage import Folder

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


def described(folder: Path, **options: Any) -> Trainer:
    """Ten steps with noise on every reading, two moments a coordinate and a schedule; a checkpoint after every third step."""
    return live.trainer(
        folder,
        live.perceptron,
        live.dict_cross_entropy,
        live.Jittered(100),
        optimizer={"adamw": {"lr": 0.01}},
        lr_schedule={"cosine": {"samples": 400}},
        checkpoint_every=60,
        **options,
    )


def end_of(job: Trainer, begin: Callable[[], Run]) -> dict[str, Tensor]:
    with live.started(job, begin) as run:
        live.wait_for_end(run)
        return run.parameters()


def test_a_run_goes_on_where_a_checkpoint_was_taken(tmp_path: Path) -> None:
    job = described(tmp_path)
    whole = end_of(job, job.start)
    first, *later = numbers(Folder.at(tmp_path / "run"))
    assert later

    same = described(tmp_path)
    again = end_of(same, lambda: same.resume(first))
    assert all(torch.equal(again[name], whole[name]) for name in whole)

    smaller = described(tmp_path, shards=3, scaling_config=WorkerGroup(count=1, num_cpus=0.5))
    other = end_of(smaller, lambda: smaller.resume(first))
    torch.testing.assert_close(other, whole, rtol=1e-3, atol=1e-5)

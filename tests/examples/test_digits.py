"""The digits example: its data, its model, and its story of a kill and two arrivals in short."""

from itertools import combinations
from pathlib import Path

import demo
import digits
import pytest
import torch
from torch.utils.data import TensorDataset

SPLITS = {"train": digits.train_data, "validation": digits.validation_data, "test": digits.test_data}


def scans_of(split: TensorDataset) -> set[bytes]:
    return {image.numpy().tobytes() for image in split.tensors[0]}


def test_the_splits_are_disjoint_and_together_everything() -> None:
    scans = {name: scans_of(build()) for name, build in SPLITS.items()}
    for one, other in combinations(scans, 2):
        assert not scans[one] & scans[other], f"{one} and {other} share scans"
    assert sum(len(build()) for build in SPLITS.values()) == 1797


def test_every_split_has_every_digit_and_standardised_pixels() -> None:
    for build in SPLITS.values():
        images, labels = build().tensors
        assert images.shape[1:] == (1, 8, 8)
        assert images.dtype == torch.float32
        assert abs(float(images.mean())) < 0.05
        assert 0.95 < float(images.std()) < 1.05
        assert set(labels.tolist()) == set(range(10))


def test_the_model_gives_ten_logits_a_scan() -> None:
    model = digits.DigitNet()
    assert model(torch.zeros(3, 1, 8, 8)).shape == (3, 10)
    assert sum(param.numel() for param in model.parameters()) == 9930
    batch = [torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])]
    assert digits.loss(model, batch).shape == ()
    assert 0.0 <= float(digits.accuracy(model, batch)) <= 1.0


@pytest.mark.ray
def test_the_story_in_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local_ray: None) -> None:
    """A killed worker, two arrivals and a liar: the run ends with nothing lost, and the liar is refused.

    New processes may take longer to come than so short a run, so it pauses until they are there.
    """
    monkeypatch.setattr(demo, "EPOCHS", 5)
    run = demo.trainer("short", tmp_path, demo.ZENO).start()
    story = demo.Story(run)
    paused = False
    for snapshot in run.watch(every_s=0.05):
        story.tell(snapshot)
        asked = snapshot.samples >= demo.JOIN_AT * (snapshot.total_samples or 0)
        missing = asked and not {"w4", "w5"} <= {worker.id for worker in snapshot.workers}
        if missing != paused:
            (run.pause if missing else run.resume)()
            paused = missing
    result = run.result()
    assert result.error is None
    assert result.summary is not None
    summary = result.summary
    assert summary.problems() == []
    assert summary.samples == 5 * len(digits.train_data())
    assert summary.updates.lost == summary.updates.duplicated == 0
    assert all(epoch.repeated == 0 for epoch in summary.epochs)
    workers = {worker.id: worker for worker in summary.workers}
    assert {id_ for id_, worker in workers.items() if (worker.left_reason or "").startswith("died")} == {"w1"}
    assert {id_ for id_, worker in workers.items() if worker.joined_s > 0} == {"w4", "w5"}
    assert workers["w4"].accepted + workers["w5"].accepted > 0
    assert workers["w3"].accepted < workers["w3"].rejected  # the liar

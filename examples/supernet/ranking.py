"""How good architectures are: with the weights that they inherit, trained alone, and how far the two rankings agree.

A score is a cross-entropy on held-out scans, in nats: less is better. Accuracies would do as well, but those of 300 scans tie all the time.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from scipy import stats
from space import Architecture, contains, label
from supernet import Measured, Supernet, loss, measure, test_data, train_data, validation_data

BATCH = 32
FLOOR = 0.05
"""Of the learning rate, at the end of its cosine."""

Scores = Mapping[Architecture, float]


class Correlation(NamedTuple):
    """Of two rankings; 1 where they are the same, 0 where they know nothing of each other."""

    kendall: float
    """tau-b: pairs in the same order less pairs in opposite ones, over all pairs; ties are accounted for."""
    spearman: float
    """rho: of the ranks."""

    def __str__(self) -> str:
        return f"tau {self.kendall:+.3f}, rho {self.spearman:+.3f}"


def correlate(one: Scores, other: Scores) -> Correlation:
    """Over the architectures that both know.

    Raises:
        ValueError: fewer than two of them.
    """
    both = sorted(one.keys() & other.keys())
    if len(both) < 2:
        raise ValueError(f"a ranking needs two architectures that both know, got {len(both)}; score more of them")
    pairs = [one[path] for path in both], [other[path] for path in both]
    return Correlation(float(stats.kendalltau(*pairs).statistic), float(stats.spearmanr(*pairs).statistic))


def inherited(models: Sequence[Supernet], paths: Iterable[Architecture]) -> dict[Architecture, float]:
    """Each path's score on the validation data, with the weights of the model whose space it is in.

    Raises:
        ValueError: a path that is in no model's space, or in several.
    """
    scores = {}
    for path in paths:
        owners = [model for model in models if contains(model.space, path)]
        if len(owners) != 1:
            raise ValueError(f"spaces of sub-supernets are to be disjoint and together everything, and path {path} is in {len(owners)}")
        scores[path] = measure(owners[0], path, validation_data()).loss
    return scores


class Alone:
    """Architectures trained by themselves, measured on the test data; what this takes most of the time for may be kept in a file.

    Args:
        kept: a JSON file; what is in it is not trained again, and what is trained goes into it at once.
    """

    def __init__(self, *, epochs: int, lr: float, kept: Path | None = None) -> None:
        self._epochs, self._lr, self._file = epochs, lr, kept
        self._kept: dict[str, list[float]] = json.loads(kept.read_text()) if kept is not None and kept.exists() else {}

    def measure(self, path: Architecture, seeds: Iterable[int]) -> list[Measured]:
        """Once for each seed."""
        return [self._one(path, seed) for seed in seeds]

    def _one(self, path: Architecture, seed: int) -> Measured:
        key = f"{label(path)}, seed {seed}, {self._epochs} epochs, rate {self._lr:g}"
        if key not in self._kept:
            model = train_alone(path, seed, epochs=self._epochs, lr=self._lr)
            self._kept[key] = list(measure(model, path, test_data()))
            if self._file is not None:
                self._file.write_text(json.dumps(self._kept, indent=1))
        return Measured(*self._kept[key])


def train_alone(path: Architecture, seed: int, *, epochs: int, lr: float) -> Supernet:
    """In plain PyTorch, from weights of its own: the supernet's optimizer, batch and schedule, in this process."""
    images, labels = train_data().tensors
    num_steps = epochs * (len(labels) // BATCH)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Supernet(tuple((each,) for each in path))
        optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps, eta_min=FLOOR * lr)
        for _ in range(epochs):
            for rows in torch.randperm(len(labels))[: len(labels) // BATCH * BATCH].split(BATCH):
                optimizer.zero_grad()
                loss(model, [images[rows], labels[rows]]).backward()
                optimizer.step()
                schedule.step()
    return model

"""Handwritten digits: scikit-learn's bundled scans, and a small convolutional net.

1797 real 8 x 8 scans are split once, by a fixed permutation, into training data, trusted validation data and a test set; the three are
disjoint.
"""

from functools import cache

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

NUM_TEST = 360
NUM_VALIDATION = 300
MEAN, DEVIATION = 0.305, 0.376
"""Of a pixel in [0, 1], over all scans."""


class DigitNet(nn.Module):
    """Two convolutions and a linear layer: 10 k parameters; images come as (B, 1, 8, 8), standardised."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(512, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits


@cache
def _splits() -> dict[str, TensorDataset]:
    digits = load_digits()
    images = (torch.from_numpy(digits.images.astype(np.float32) / 16.0).unsqueeze(1) - MEAN) / DEVIATION
    labels = torch.from_numpy(digits.target.astype(np.int64))
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(labels)))
    cuts = {
        "test": order[:NUM_TEST],
        "validation": order[NUM_TEST : NUM_TEST + NUM_VALIDATION],
        "train": order[NUM_TEST + NUM_VALIDATION :],
    }
    return {name: TensorDataset(images[rows], labels[rows]) for name, rows in cuts.items()}


def train_data() -> TensorDataset:
    return _splits()["train"]


def validation_data() -> TensorDataset:
    """Trusted data: what Zeno++ takes its reference gradients on."""
    return _splits()["validation"]


def test_data() -> TensorDataset:
    return _splits()["test"]


def loss(model: nn.Module, batch: list[Tensor]) -> Tensor:
    images, labels = batch
    return nn.functional.cross_entropy(model(images), labels)


def accuracy(model: nn.Module, batch: list[Tensor]) -> Tensor:
    images, labels = batch
    return (model(images).argmax(dim=1) == labels).float().mean()

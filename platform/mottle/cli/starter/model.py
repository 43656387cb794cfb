"""A small model on scikit-learn's handwritten digits. Put your own model, data and loss here; job.yaml names them."""

from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset


class Net(nn.Module):
    """One hidden layer; images come as (B, 64) in [0, 1]."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits


@cache
def _digits() -> TensorDataset:
    digits = load_digits()
    images = torch.as_tensor(digits.data, dtype=torch.float32) / 16
    return TensorDataset(images, torch.as_tensor(digits.target))


def train_data() -> TensorDataset:
    """The first 1500 scans."""
    return TensorDataset(*(tensor[:1500] for tensor in _digits().tensors))


def test_data() -> TensorDataset:
    """The other 297."""
    return TensorDataset(*(tensor[1500:] for tensor in _digits().tensors))


def loss(model: nn.Module, batch: list[Tensor]) -> Tensor:
    """The mean over the batch."""
    images, labels = batch
    return nn.functional.cross_entropy(model(images), labels)


def accuracy(model: nn.Module, batch: list[Tensor]) -> Tensor:
    """The share of the batch that is recognised."""
    images, labels = batch
    right: Tensor = model(images).argmax(dim=1) == labels
    return right.float().mean()

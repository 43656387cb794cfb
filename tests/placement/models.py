"""Small models of the families that capture and execution are tested on."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """Convolutions, BatchNorm, in-place ReLU and addition, dropout: a ResNet block with a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.relu, self.drop, self.head = nn.ReLU(inplace=True), nn.Dropout(0.2), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(x))
        y += x
        answer: Tensor = self.head(self.drop(self.relu(y).mean((2, 3))))
        return answer


class Tied(nn.Module):
    """A transformer layer between an embedding and a projection that share their weight, with a mask made on the way."""

    def __init__(self, vocabulary: int = 20, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.layer = nn.TransformerEncoderLayer(width, 4, 32, dropout=0.1, batch_first=True)
        self.project = nn.Linear(width, vocabulary, bias=False)
        self.project.weight = self.embed.weight
        self.register_buffer("scale", torch.full((1,), 0.5), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) * self.scale
        causal = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1], device=tokens.device)
        x = self.layer(x, src_mask=causal) + self.scale
        answer: Tensor = self.project(x)
        return answer


class Recurrent(nn.Module):
    """Two LSTM layers and a keyword argument; a dict comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LSTM(6, 8, batch_first=True), nn.LSTM(8, 8, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor, *, temperature: Tensor) -> dict[str, Tensor]:
        x, _ = self.first(x)
        x, (h, _) = self.second(x)
        return {"logits": self.head(x) / temperature, "state": h}


class Writes(nn.Module):
    """Writes through a view, calls a module twice, and computes a part without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.out = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            gate = torch.sigmoid(self.out(x))
        y = self.shared(x) * 2
        y[:, 0] = 1.0
        answer: Tensor = self.out(self.shared(y) * gate + y)
        return answer


class Branching(nn.Module):
    """Control flow on values: no static graph exists."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.small(x) if float(x.sum()) < 0 else self.large(x)
        answer: Tensor = self.out(torch.relu(x))
        return answer


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 24), nn.GELU(), nn.Linear(24, 5))


FAMILIES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "perceptron": (perceptron, lambda: torch.randn(7, 12)),
    "residual": (Residual, lambda: torch.randn(2, 3, 8, 8)),
    "tied": (Tied, lambda: torch.randint(0, 20, (2, 6))),
    "recurrent": (Recurrent, lambda: {"x": torch.randn(2, 5, 6), "temperature": torch.tensor(2.0)}),
    "writes": (Writes, lambda: torch.randn(3, 4)),
}


def recurrent_input() -> dict[str, Tensor]:
    return {"x": torch.empty(2, 5, 6, device="meta"), "temperature": torch.empty((), device="meta")}

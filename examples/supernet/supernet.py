"""A supernet on the digits: one set of weights that holds every architecture of the space.

All operators of a layer are slices of one 5 x 5 convolution (weight entanglement): the 3 x 3 is its middle, the 1 x 1 the middle of that,
the depthwise one the diagonal over channels, and skipping is the empty slice. A micro-batch trains the slices of one path, which the loss
draws.

Source: TangleNAS, arXiv 2312.10440, for the entanglement and the superposed weight; training by uniform single paths is Guo et al. 2020
(SPOS, arXiv 1904.00420).
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from space import OPERATORS, Architecture, Operator, Space, draw, whole
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

sys.path.append(str(Path(__file__).resolve().parent.parent / "digits"))  # beside this example, not installed
import digits

# B batch, C channels, H height, W width, K side of the largest kernel, O operators, L layers, D parameters

CHANNELS = 8
NUM_LAYERS = 4
SIDE = max(operator.side for operator in OPERATORS)

train_data, validation_data, test_data = digits.train_data, digits.validation_data, digits.test_data


def mask(operator: Operator, channels: int = CHANNELS) -> Tensor:
    """The operator's slice of the largest weight: 1 inside and 0 outside, shape (C, C, K, K): to, from, row, column."""
    inside = torch.zeros(channels, channels, SIDE, SIDE)
    _middle(inside, operator.side).fill_(1)
    return inside * torch.eye(channels).view(channels, channels, 1, 1) if operator.depthwise else inside


def _middle(weight_CCKK: Tensor, side: int) -> Tensor:
    first = (SIDE - side) // 2
    return weight_CCKK[:, :, first : first + side, first : first + side]


class Layer(nn.Module):
    """`x + relu(conv(norm(x)))`, with a convolution of any of the operators; (B, C, H, W) to the same."""

    def __init__(self, channels: int = CHANNELS) -> None:
        super().__init__()
        # Of each image by itself: statistics over batches would mix those of all paths (a batch norm is measured anew for each of them).
        self.norm = nn.GroupNorm(1, channels)
        self.weight = nn.Parameter(torch.empty(channels, channels, SIDE, SIDE))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("masks_OCCKK", torch.stack([mask(each, channels) for each in OPERATORS]), persistent=False)

    def forward(self, x_BCHW: Tensor, operator: int) -> Tensor:
        """With one operator: what it does not use is neither read nor computed, and gets no gradient."""
        chosen = OPERATORS[operator]
        if not chosen.side:
            return x_BCHW
        weight, groups = _middle(self.weight, chosen.side), 1
        if chosen.depthwise:
            weight, groups = weight.diagonal().permute(2, 0, 1).unsqueeze(1), len(self.bias)
        mapped = functional.conv2d(self.norm(x_BCHW), weight, self.bias, padding=chosen.side // 2, groups=groups)
        return x_BCHW + functional.relu(mapped)

    def mixed(self, x_BCHW: Tensor, shares_O: Tensor) -> Tensor:
        """With all of them at the cost of the largest: one convolution with the superposed weight, the sum of each slice times its share.

        One operator's share 1 and the others' 0 is `forward` with that one.
        """
        masks_OCCKK = self.get_buffer("masks_OCCKK")
        weight_CCKK = self.weight * torch.einsum("o,ocdhw->cdhw", shares_O, masks_OCCKK)
        computing_O = masks_OCCKK.flatten(1).any(dim=1).to(shares_O.dtype)
        bias_C = self.bias * (shares_O @ computing_O)
        return x_BCHW + functional.relu(functional.conv2d(self.norm(x_BCHW), weight_CCKK, bias_C, padding=SIDE // 2))


class Supernet(nn.Module):
    """Images (B, 1, 8, 8) to logits (B, 10), along one path or along all at once; 6.9 k parameters, of which a path uses its slices.

    Args:
        space: what `loss` draws paths from. A space of one path is that architecture by itself.
    """

    def __init__(self, space: Space = whole(NUM_LAYERS)) -> None:  # noqa: B008  # a tuple
        super().__init__()
        self.space = space
        self.stem = nn.Conv2d(1, CHANNELS, 3, padding=1)
        self.layers = nn.ModuleList(Layer() for _ in space)
        self.norm = nn.GroupNorm(1, CHANNELS)
        self.head = nn.Linear(4 * CHANNELS, 10)

    def forward(self, images: Tensor, path: Architecture) -> Tensor:
        layers = zip(self.layers, path, strict=True)
        return self._through(images, [partial(layer, operator=operator) for layer, operator in layers])

    def mixed(self, images: Tensor, shares_LO: Tensor) -> Tensor:
        """Along all paths at once, by each layer's shares of its operators."""
        layers = zip(self.layers, shares_LO, strict=True)
        return self._through(images, [partial(Layer.mixed, layer, shares_O=shares_O) for layer, shares_O in layers])

    def _through(self, images: Tensor, steps: Sequence[Callable[[Tensor], Tensor]]) -> Tensor:
        x_BCHW = self.stem(images)
        for number, step in enumerate(steps):
            if number == len(steps) // 2:
                x_BCHW = functional.max_pool2d(x_BCHW, 2)
            x_BCHW = step(x_BCHW)
        quarters_BCHW = functional.adaptive_avg_pool2d(self.norm(x_BCHW), 2)
        logits: Tensor = self.head(quarters_BCHW.flatten(1))
        return logits


def loss(model: Supernet, batch: list[Tensor]) -> Tensor:
    """Mean cross-entropy along one path of the model's space, drawn here."""
    images, labels = batch
    return functional.cross_entropy(model(images, draw(model.space)), labels)


def accuracy(model: Supernet, batch: list[Tensor]) -> Tensor:
    """Along one path, drawn here; over a data set that is the mean over as many paths as batches, the same ones at every evaluation."""
    images, labels = batch
    return (model(images, draw(model.space)).argmax(dim=1) == labels).float().mean()


class Measured(NamedTuple):
    """Of one path."""

    loss: float
    """Cross-entropy, nats."""
    accuracy: float


@torch.no_grad()
def measure(model: Supernet, path: Architecture, data: TensorDataset) -> Measured:
    """With the weights as they are."""
    images, labels = data.tensors
    logits = model(images, path)
    return Measured(functional.cross_entropy(logits, labels).item(), (logits.argmax(dim=1) == labels).float().mean().item())


def num_params(path: Architecture) -> int:
    """How many parameters it uses: stem, last norm and head, and of each layer the operator's slice, bias and norm."""
    outside = Supernet(())
    return sum(param.numel() for param in outside.parameters()) + sum(_num_used(OPERATORS[each]) for each in path)


def _num_used(operator: Operator) -> int:
    return int(mask(operator).sum()) + 3 * CHANNELS if operator.side else 0

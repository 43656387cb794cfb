"""TangleNAS on the digits: the shares of the operators are parameters, trained beside the weights that they superpose.

Half of the training data is for the weights, the other half for the shares (first order: either sees the other as it is). The paper takes
turns; here one update carries both gradients, for asynchronous workers have no turns. The architecture is the largest share of each layer.
"""

import torch
from space import OPERATORS, Architecture, whole
from supernet import NUM_LAYERS, Supernet, train_data
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.utils.data import TensorDataset

# L layers, O operators

FASTER = 10
"""Of the shares, over the rate of the weights: their gradients are small, and there are few of them."""


class Tangled(nn.Module):
    """A supernet of which every layer is the superposition of its operators. All of them are to choose from."""

    def __init__(self, num_layers: int = NUM_LAYERS) -> None:
        super().__init__()
        self.net = Supernet(whole(num_layers))
        self.alpha_LO = nn.Parameter(torch.zeros(num_layers, len(OPERATORS)))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 1, 8, 8) to logits (B, 10), by shares `softmax(alpha)`."""
        logits: Tensor = self.net.mixed(images, self.alpha_LO.softmax(dim=1))
        return logits

    def chosen(self) -> Architecture:
        return tuple(self.alpha_LO.argmax(dim=1).tolist())


def halved_data() -> TensorDataset:
    """The training data, every other scan marked as one for the shares."""
    images, labels = train_data().tensors
    return TensorDataset(images, labels, torch.arange(len(labels)) % 2 == 1)


def loss(model: Tangled, batch: list[Tensor]) -> Tensor:
    """Mean cross-entropy; each scan's gradient reaches the weights or the shares, by its mark. Without marks it is that of the mix."""
    images, labels, *marks = batch
    if not marks:
        return functional.cross_entropy(model(images), labels)
    (for_shares,) = marks
    held = {name: param.detach() for name, param in model.named_parameters()}
    weights_only = functional_call(model, {"alpha_LO": held["alpha_LO"]}, images[~for_shares])
    shares_only = functional_call(model, {name: each for name, each in held.items() if name != "alpha_LO"}, images[for_shares])
    logits, targets = torch.cat([weights_only, shares_only]), torch.cat([labels[~for_shares], labels[for_shares]])
    return functional.cross_entropy(logits, targets)


def accuracy(model: Tangled, batch: list[Tensor]) -> Tensor:
    images, labels = batch
    return (model(images).argmax(dim=1) == labels).float().mean()

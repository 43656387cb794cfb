"""Two small learning problems with real gradients, for studies that train thousands of models: handwritten digits and a convex one.

A model is one flat vector of parameters, and everything here works on several of them at once: the gradients of all workers of a round are
one backward pass, and so are the losses of all candidates that a validator scores.

Letters: M models (one a worker), B examples of a batch, F features, C classes, D parameters.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional

from mottle.core.naming import lookup

NUM_CLASSES = 10


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """Labelled examples: inputs (count, F) float32, labels (count,) int64."""

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, places: Tensor) -> "Examples":
        """The examples at these places, in the shape of the places."""
        return Examples(inputs=self.inputs[places], labels=self.labels[places])


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """Data and model of one problem, for one seed."""

    name: str
    train: Examples
    """What the workers share out among them."""
    trusted: Examples
    """What a server may keep for itself, for rules that need a reference or a score."""
    test: Examples
    sizes: tuple[int, ...]
    """Width of every layer, input and classes included; two make a softmax regression, which is convex."""
    learning_rate: float
    start: Tensor
    """Parameters before the first round, (D,)."""

    def logits(self, params_MD: Tensor, inputs_MBF: Tensor) -> Tensor:
        """Outputs (M, B, C) of each model on its own inputs."""
        hidden, first = inputs_MBF, 0
        for width_in, width_out in pairwise(self.sizes):
            last = first + width_in * width_out
            weight = params_MD[:, first:last].view(-1, width_in, width_out)
            bias = params_MD[:, None, last : last + width_out]
            hidden = torch.baddbmm(bias, hidden if first == 0 else hidden.relu(), weight)
            first = last + width_out
        return hidden

    def losses(self, params_MD: Tensor, batches: Examples) -> Tensor:
        """Mean cross-entropy (M,) of each model on its own batch."""
        logits = self.logits(params_MD, batches.inputs)
        each = functional.cross_entropy(logits.flatten(0, 1), batches.labels.flatten(), reduction="none")
        return each.view(len(params_MD), -1).mean(1)

    def gradients(self, params_D: Tensor, batches: Examples) -> Tensor:
        """Gradient (M, D) of the mean loss on each of M batches at the same parameters."""
        params_MD = params_D.repeat(len(batches), 1).requires_grad_()
        (gradients_MD,) = torch.autograd.grad(self.losses(params_MD, batches).sum(), params_MD)
        return gradients_MD

    def accuracy(self, params_D: Tensor) -> float:
        """Share of the test examples that the model gets right; 0 for a model that is not finite, which predicts nothing."""
        if not torch.isfinite(params_D).all():
            return 0.0
        predicted = self.logits(params_D[None], self.test.inputs[None])[0].argmax(1)
        return float((predicted == self.test.labels).double().mean())


def digits(seed: int) -> Task:
    """The 1,797 handwritten digits of scikit-learn, 8 by 8 pixels, on a network with one hidden layer of 32."""
    inputs, labels = _images()
    dice = np.random.default_rng([seed, 0])
    order = torch.from_numpy(dice.permutation(len(labels)))
    examples = Examples(inputs=torch.from_numpy(inputs / 16.0).float(), labels=torch.from_numpy(labels).long()).take(order)
    return _cut("digits", examples, num_test=400, sizes=(64, 32, NUM_CLASSES), learning_rate=0.5, dice=dice)


@cache
def _images() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Pixels from 0 to 16 and labels; read once a process, since reading takes as long as ten rounds of training."""
    inputs, labels = load_digits(return_X_y=True)
    return inputs, labels


def convex(seed: int) -> Task:
    """Ten overlapping normal clouds in 20 dimensions, 3,000 points, on a softmax regression."""
    dice = np.random.default_rng([seed, 1])
    labels = dice.integers(NUM_CLASSES, size=3000)
    inputs = 0.8 * dice.standard_normal((NUM_CLASSES, 20))[labels] + dice.standard_normal((3000, 20))
    examples = Examples(inputs=torch.from_numpy(inputs).float(), labels=torch.from_numpy(labels).long())
    return _cut("convex", examples, num_test=1000, sizes=(20, NUM_CLASSES), learning_rate=0.3, dice=dice)


TASKS: Mapping[str, Callable[[int], Task]] = MappingProxyType({"digits": digits, "convex": convex})


def build_task(name: str, seed: int) -> Task:
    """The task of that name; the seed decides its cut, its start and, where the data are made up, the data."""
    return lookup(name, TASKS, "task")(seed)


def _cut(name: str, examples: Examples, *, num_test: int, sizes: tuple[int, ...], learning_rate: float, dice: np.random.Generator) -> Task:
    places = torch.arange(len(examples))
    num_trusted = 100
    weights = [np.concatenate([(dice.standard_normal((a, b)) / np.sqrt(a)).ravel(), np.zeros(b)]) for a, b in pairwise(sizes)]
    return Task(
        name=name,
        test=examples.take(places[:num_test]),
        trusted=examples.take(places[num_test : num_test + num_trusted]),
        train=examples.take(places[num_test + num_trusted :]),
        sizes=sizes,
        learning_rate=learning_rate,
        start=torch.from_numpy(np.concatenate(weights)).float(),
    )

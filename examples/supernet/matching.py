"""Few-shot search by gradient matching: split the supernet where its children pull the shared weights apart.

For one layer, force each operator in turn while the other layers draw theirs, and accumulate the gradient of the weights; two operators
agree as the cosine of their gradients. The layer's operators are cut into groups of (nearly) equal size so that the sum of the agreements
across is least; the layers with the least sum are split, and every choice of groups is a smaller space with a copy of the weights.

Source: "Generalizing Few-Shot NAS with Gradient Matching", arXiv 2203.15207. Differs: there operators of one layer share nothing. Where
they are slices of one weight, two of them share the overlap of their slices, so that it belongs to what is compared.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations, product
from typing import NamedTuple

import torch
from space import OPERATORS, Space, draw
from supernet import Supernet, mask
from torch import Tensor
from torch.nn import functional
from torch.utils.data import TensorDataset

# O operators of the layer, D parameters of the model

Groups = tuple[tuple[int, ...], ...]
MOST_OPERATORS = 8
"""Cuts are looked for among all; there are 35 of eight operators in two halves."""


class Cut(NamedTuple):
    groups: Groups
    """Operators by their place in the layer, each group in ascending order."""
    weight: float
    """Sum of the agreements between operators of different groups."""


# --- agreement ------------------------------------------------------------------------------------------------------------------------


def gradients(model: Supernet, layer: int, data: TensorDataset, *, draws: int, seed: int, batch: int = 128) -> Tensor:
    """Mean gradient of all parameters with each operator of the layer forced, shape (O, D), by the layer's place in the model's space.

    Args:
        draws: paths through the other layers, each on a batch of its own. Every operator sees the same ones, so that equal operators have
            equal gradients.
    """
    generator = torch.Generator().manual_seed(seed)
    images, labels = data.tensors
    params = list(model.parameters())
    sums_OD = torch.zeros(len(model.space[layer]), sum(param.numel() for param in params))
    for _ in range(draws):
        path = draw(model.space, generator)
        rows = torch.randint(len(labels), (batch,), generator=generator)
        for place, operator in enumerate(model.space[layer]):
            forced = (*path[:layer], operator, *path[layer + 1 :])
            loss = functional.cross_entropy(model(images[rows], forced), labels[rows])
            parts = torch.autograd.grad(loss, params, allow_unused=True, materialize_grads=True)
            sums_OD[place] += torch.cat([part.flatten() for part in parts])
    return sums_OD / draws


def used(model: Supernet, layer: int) -> Tensor:
    """Which parameters a path with that operator in the layer may use, shape (O, D), 1 or 0: outside of the layer all, inside the slice."""
    rows = []
    for operator in (OPERATORS[each] for each in model.space[layer]):
        inside = {"weight": mask(operator), "norm.weight": operator.side > 0, "norm.bias": operator.side > 0, "bias": operator.side > 0}
        own = {f"layers.{layer}.{name}": value for name, value in inside.items()}
        rows.append(torch.cat([(torch.ones_like(param) * own.get(name, 1)).flatten() for name, param in model.named_parameters()]))
    return torch.stack(rows).detach()


def agreement(grads_OD: Tensor, used_OD: Tensor) -> Tensor:
    """Cosine of each pair of gradients over the parameters that both may use, shape (O, O), float64; 0 where one of them is 0 there."""
    grads_OD, used_OD = grads_OD.double(), used_OD.double()
    dots_OO = grads_OD @ grads_OD.T  # a gradient is zero outside of what is used
    norms_OO = (grads_OD.square() @ used_OD.T).sqrt()  # of row i where j is used as well
    return dots_OO / (norms_OO * norms_OO.T).clamp(min=torch.finfo(torch.float64).tiny)


# --- the cut --------------------------------------------------------------------------------------------------------------------------


def cut(agreement_OO: Sequence[Sequence[float]] | Tensor, num_groups: int = 2) -> Cut:
    """The balanced cut of least weight, the first of equals. Sizes of groups differ by one at most: all cuts part equally many pairs.

    Raises:
        ValueError: fewer operators than groups, fewer than two groups, or more than `MOST_OPERATORS` operators.
    Example:
        >>> cut([[1, 0.9, 0.1, 0.2], [0.9, 1, 0.3, 0.1], [0.1, 0.3, 1, 0.8], [0.2, 0.1, 0.8, 1]])
        Cut(groups=((0, 1), (2, 3)), weight=0.7)
    """
    matrix_OO = torch.as_tensor(agreement_OO, dtype=torch.float64)
    num_operators = len(matrix_OO)
    if not 2 <= num_groups <= num_operators <= MOST_OPERATORS:
        raise ValueError(
            f"needs 2 <= groups <= operators <= {MOST_OPERATORS}, got {num_groups} groups of {num_operators} operators; all cuts are tried"
        )
    everything = balanced(tuple(range(num_operators)), num_groups)
    return min((Cut(groups, _across(matrix_OO, groups)) for groups in everything), key=lambda each: each.weight)


def balanced(operators: tuple[int, ...], num_groups: int) -> Iterator[Groups]:
    """All ways to part them into groups whose sizes differ by one at most, each once: a group's first is the least that is left."""
    if num_groups == 1:
        yield (operators,)
        return
    first, *others = operators
    small = len(operators) // num_groups
    sizes = {small} if len(operators) % num_groups == 0 else {small, small + 1}
    for size in sorted(sizes):
        for rest in combinations(others, size - 1):
            left = tuple(each for each in others if each not in rest)
            for more in balanced(left, num_groups - 1):
                yield ((first, *rest), *more)


def _across(matrix_OO: Tensor, groups: Groups) -> float:
    return sum(matrix_OO[i, j].item() for one, other in combinations(groups, 2) for i, j in product(one, other))


# --- the spaces -----------------------------------------------------------------------------------------------------------------------


def split(space: Space, cuts: Sequence[Cut], num_layers: int = 1) -> list[Space]:
    """The sub-spaces when the layers with the least cut weights are split: as many as there are choices of groups.

    Args:
        cuts: of each layer.
        num_layers: to split, T in the paper.
    """
    best = sorted(range(len(space)), key=lambda layer: cuts[layer].weight)[:num_layers]
    choices = [
        [tuple(allowed[each] for each in group) for group in cuts[layer].groups] if layer in best else [allowed]
        for layer, allowed in enumerate(space)
    ]
    return list(product(*choices))

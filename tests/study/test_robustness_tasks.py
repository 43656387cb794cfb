"""The small problems learn, their gradients are those of autograd on one model at a time, and their parts do not overlap."""

import pytest
import torch
from torch.nn import functional

from mottle.core.errors import ConfigError
from mottle.study.robustness_tasks import TASKS, Examples, build_task

each_task = pytest.mark.parametrize("name", TASKS)


def plain_loss(task, params_D, batch):
    """The model written out with torch's own layers."""
    hidden, rest = batch.inputs, params_D
    for place, (width_in, width_out) in enumerate(zip(task.sizes, task.sizes[1:], strict=False)):
        weight, bias, rest = rest.split([width_in * width_out, width_out, len(rest) - (width_in + 1) * width_out])
        hidden = functional.linear(hidden.relu() if place else hidden, weight.view(width_in, width_out).T, bias)
    assert len(rest) == 0
    return functional.cross_entropy(hidden, batch.labels)


@each_task
def test_the_gradients_of_all_workers_are_those_of_each_alone(name):
    task = build_task(name, seed=0)
    batches = task.train.take(torch.arange(24).view(3, 8))
    gradients = task.gradients(task.start, batches)
    for worker in range(3):
        params = task.start.clone().requires_grad_()
        alone = Examples(inputs=batches.inputs[worker], labels=batches.labels[worker])
        (expected,) = torch.autograd.grad(plain_loss(task, params, alone), params)
        torch.testing.assert_close(gradients[worker], expected, rtol=1e-4, atol=1e-6)


@each_task
def test_plain_training_learns(name):
    task = build_task(name, seed=1)
    params, untrained = task.start, task.accuracy(task.start)
    whole = Examples(inputs=task.train.inputs[None], labels=task.train.labels[None])
    for _ in range(60):
        params = params - task.learning_rate * task.gradients(params, whole)[0]
    assert untrained < 0.4
    assert task.accuracy(params) > 0.85


@each_task
def test_a_seed_decides_everything_and_seeds_differ(name):
    first, again, other = build_task(name, 3), build_task(name, 3), build_task(name, 4)
    assert torch.equal(first.train.inputs, again.train.inputs)
    assert torch.equal(first.start, again.start)
    assert not torch.equal(first.train.inputs, other.train.inputs)
    assert not torch.equal(first.start, other.start)


@each_task
def test_training_trusted_and_test_examples_are_apart(name):
    task = build_task(name, 0)
    parts = [{tuple(row) for row in part.inputs.tolist()} for part in (task.train, task.trusted, task.test)]
    assert not parts[0] & parts[2]
    assert not parts[0] & parts[1]
    assert not parts[1] & parts[2]


def test_a_model_that_is_not_finite_predicts_nothing():
    task = build_task("convex", 0)
    assert task.accuracy(torch.full_like(task.start, torch.nan)) == 0.0
    assert task.accuracy(torch.where(torch.arange(len(task.start)) == 3, torch.inf, task.start)) == 0.0


def test_an_unknown_task_is_named():
    with pytest.raises(ConfigError, match="did you mean 'digits'"):
        build_task("digit", 0)

"""What a `Trainer` finds out before anything starts: no Ray here."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from mottle.core.errors import ConfigError
from mottle.engines import flatten, layout_of
from mottle.sdk import Trainer, WorkerGroup

NUM_SAMPLES = 12
FEATURES = torch.arange(NUM_SAMPLES * 3.0).view(NUM_SAMPLES, 3) / 10
LABELS = torch.arange(NUM_SAMPLES) % 2
DATA = TensorDataset(FEATURES, LABELS)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))


def mean_loss(model: nn.Module, batch: list[Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def weighted_loss(model: nn.Module, batch: list[Tensor]) -> tuple[Tensor, int]:
    return mean_loss(model, batch), 7 * len(batch[0])


def one(model: nn.Module, batch: list[Tensor]) -> float:
    return 1.0


def trainer(folder: Path, **options: Any) -> Trainer:
    defaults: dict[str, Any] = {
        "model": network,
        "loss": mean_loss,
        "train_data": DATA,
        "optimizer": {"sgd": {"lr": 0.1}},
        "batch_size": 4,
        "until": {"epochs": 1},
        "strategy": "sync",
        "folder": folder,
    }
    return Trainer(**{**defaults, **options})


# --- what it finds out ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("loss", "weighted"), [(mean_loss, False), (weighted_loss, True)])
def test_a_loss_with_a_weight_of_its_own_is_noticed(tmp_path: Path, loss: Any, weighted: bool) -> None:
    assert trainer(tmp_path, loss=loss).job.brain.weighted_loss is weighted


def test_trying_the_loss_changes_neither_the_model_nor_anybodys_random_numbers(tmp_path: Path) -> None:
    torch.manual_seed(3)
    wanted = network()
    torch.manual_seed(11)
    before = torch.get_rng_state()
    made = trainer(tmp_path, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(made._values, flatten(wanted, layout_of(wanted)))


def test_a_module_that_was_given_is_not_touched(tmp_path: Path) -> None:
    given = network()
    before = {name: tensor.clone() for name, tensor in given.state_dict().items()}
    made = trainer(tmp_path, model=given)
    assert all(torch.equal(tensor, before[name]) for name, tensor in given.state_dict().items())
    assert made.job.model() is not given


def test_limits_are_counted_in_samples(tmp_path: Path) -> None:
    assert trainer(tmp_path, until={"epochs": 2.5}).job.brain.max_samples == 30
    assert trainer(tmp_path, until={"epochs": 2, "samples": 13}).job.brain.max_samples == 13
    timed = trainer(tmp_path, until={"seconds": 1.5}).job.brain
    assert (timed.max_samples, timed.max_ns) == (None, 1_500_000_000)


def test_a_batch_policy_follows_as_suits_the_optimizer(tmp_path: Path) -> None:
    policy = {"adascale": {"per_worker": 4}}
    made = trainer(tmp_path, batch_policy=policy, optimizer={"adamw": {"lr": 0.1}})
    assert made.job.strategy_defaults["batch_policy"] == {"adascale": {"per_worker": 4, "rate": "sqrt"}}
    assert "batch_policy" not in trainer(tmp_path).job.strategy_defaults


# --- what it refuses --------------------------------------------------------------------------------------------------------------------


def per_sample(model: nn.Module, batch: list[Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def detached(model: nn.Module, batch: list[Tensor]) -> Tensor:
    return mean_loss(model, batch).detach()


def as_number(model: nn.Module, batch: list[Tensor]) -> float:
    return mean_loss(model, batch).item()


def wrong_key(model: nn.Module, batch: Any) -> Tensor:
    return mean_loss(model, batch["images"])


def frozen() -> nn.Module:
    return network().requires_grad_(False)


ZENO = {"zeno++": {"rho": 0.01}}
OTHERS = TensorDataset(-FEATURES - 1.0, LABELS)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"loss": per_sample}, r"the loss must be a scalar, got a tensor of shape \(4,\)"),
        ({"loss": detached}, "does not depend on a trainable parameter"),
        ({"loss": as_number}, "must be a torch tensor"),
        ({"loss": wrong_key}, "the loss fails on the first 4 samples of the training data: TypeError"),
        ({"model": frozen}, "no trainable parameter"),
        ({"model": "resnet"}, "model is a torch module or a function without arguments that makes one, got str"),
        ({"train_data": []}, "at least one row"),
        ({"train_data": TensorDataset(FEATURES[:, :2], LABELS)}, "the loss fails on the first 4 samples"),
        ({"strategy": "sinc"}, "sync"),
        ({"strategy": {"sync": {"quorun": 2}}}, "quorum"),
        ({"optimizer": {"adan": {"lr": 0.1}}}, "(?i)adam"),
        ({"optimizer": {"sgd": {"lr": 0.1, "momentun": 0.9}}}, "momentum"),
        ({"optimizer": {"lbfgs": {"lr": 0.1}}}, "(?i)lbfgs"),
        ({"codec": "bf61"}, "bf16"),
        ({"rule": {"phocaz": {"trim": 1}}}, "phocas"),
        ({"strategy": "async", "rule": {"phocas": {"trim": 1}}}, "'async' applies no robust rule"),
        ({"strategy": "abs_sgd", "batch_policy": {"linear": {"per_worker": 4}}}, "'abs_sgd' has no batch of the whole crew"),
        ({"batch_policy": {"adascale": {}}}, "batch policy 'adascale' needs per_worker"),
        (
            {"batch_policy": "fixed", "rule": {"zeno": {"trim": 1, "rho": 0.01}}, "validation_data": OTHERS},
            "batch_policy changes it; leave one out",
        ),
        ({"strategy": ZENO}, "give validation_data, disjoint from test_data"),
        ({"strategy": ZENO, "validation_data": OTHERS, "optimizer": {"adam": {"lr": 0.1}}}, "takes plain SGD only"),
        ({"validation_data": OTHERS, "test_data": OTHERS}, "disjoint"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"batch_size": 2.5}, r"batch_size must be an integer of at least 1, got 2\.5"),
        ({"batch_size": "4", "evaluate_every": 0}, "batch_size must be .*; evaluate_every must be an integer of at least 1, got 0"),
        ({"checkpoint_every": 0}, "checkpoint_every must be an integer of at least 1, got 0"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"seed": "lucky"}, "seed must be an integer of at least 0"),
        ({"micro_batch_size": -1}, "micro_batch_size must be an integer of at least 1"),
        ({"until": {}}, "until needs epochs, samples, seconds or a metric"),
        ({"until": {"epoch": 3}}, "epochs"),
        ({"until": {"epochs": -1}}, r"until\.epochs must be above 0"),
        ({"until": {"metric": {"test_accuracy": 0.9}}}, "nothing without test_data"),
        ({"until": {"metric": {"accuracy": 0.9}}, "test_data": OTHERS, "metrics": {"accuracy": one}}, "test_loss, test_accuracy"),
        ({"test_data": OTHERS, "metrics": {"loss": one}}, "'loss' cannot be a metric's name"),
        ({"shards": 0}, "shards must be an integer of at least 1, got 0"),
        ({"replicas": 2}, "replicas is 0 or 1 further copy of each shard, got 2"),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be above 0"),
        ({"strategy": "single_merging", "max_grad_norm": 1.0}, "averages whole models, which max_grad_norm would shorten"),
        ({"strategy": "single_merging", "rule": "median"}, "'single_merging' applies no robust rule"),
        ({"max_grad_norm_per_worker": -1.0}, "max_grad_norm_per_worker must be above 0"),
        ({"scaling_config": WorkerGroup(autocast="fp8")}, "autocast is one of bf16, fp16"),
        ({"scaling_config": WorkerGroup(attack={"sign_flop": {}})}, "sign_flip"),
        ({"scaling_config": 4}, "ScalingConfig"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) and value else None,
)
def test_what_cannot_work_is_refused_with_what_to_do(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        trainer(tmp_path, **options)


def test_a_refused_job_has_made_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        trainer(tmp_path / "run", loss=per_sample)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_a_run_is_not_started_into(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "result.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds a run already"):
        trainer(tmp_path / "run").start()


# --- local steps ------------------------------------------------------------------------------------------------------------------------


def test_with_local_steps_the_optimizer_is_the_workers_and_the_shards_have_the_strategys(tmp_path: Path) -> None:
    job = trainer(tmp_path, strategy={"diloco": {"outer_lr": 0.5}}, optimizer={"adamw": {"lr": 0.01}}).job
    assert job.optimizer == {"adamw": {"lr": 0.01}}
    assert job.server_optimizer == {"outer_sgd": {"lr": 0.5, "momentum": 0.9, "nesterov": True}}
    assert trainer(tmp_path).job.server_optimizer is None


def test_a_second_vector_lies_beside_the_parameters_of_every_model_that_is_made(tmp_path: Path) -> None:
    made = trainer(tmp_path, strategy={"local_adaalter": {"initial": 0.25}})
    plain = layout_of(network())
    assert made.job.layout == layout_of(made.job.model())
    beside = [piece for piece in made.job.layout.buffers if piece.name.endswith("__companion")]
    assert [piece.size for piece in beside] == [piece.size for piece in plain.parameters]
    assert all((made._values[piece.start : piece.stop] == 0.25).all() for piece in beside)


GANGS = WorkerGroup(count=1, engine={"placed": {"stages": 2}})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"strategy": "slowmo", "optimizer": "sgd"}, "strategy slowmo needs lr"),
        ({"strategy": "domo", "rule": "median"}, "strategy 'domo' applies no robust rule"),
        ({"strategy": "domo", "optimizer": {"adamw": {"lr": 0.1}}}, "domo needs optimizer sgd with an lr and nothing else"),
        ({"strategy": "diloco", "rule": "fltrust", "validation_data": DATA}, "these are sums of local steps"),
        ({"strategy": {"slsgd": {"trim": 1}}, "rule": "median"}, "slsgd needs either trim or a rule"),
        ({"strategy": {"diloco": {"local_step": 3}}}, "did you mean 'local_steps'"),
        ({"strategy": {"streaming_diloco": {"fragments": 9}}}, "9 fragments need as many layers"),
        ({"strategy": {"streaming_diloco": {"fragments": 1}}, "scaling_config": GANGS}, "gangs .workers. cannot send fragments"),
    ],
    ids=["no rate", "no rule", "no optimizer", "no trusted rule", "two rules", "a misspelt option", "few layers", "gangs"],
)
def test_what_local_steps_do_not_go_with_is_refused(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        trainer(tmp_path, **options)

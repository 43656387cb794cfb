"""Ray's config classes: every field of the installed Ray is honoured, mapped or refused by name."""

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray.train
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, UserCallback

from mottle.actors.job import KeepCheckpoints, WorkerGroup
from mottle.core.errors import ConfigError
from mottle.sdk import configs
from mottle.sdk.configs import FIELDS, check_families, groups_of, settings_of
from mottle.sdk.schema import ray_fields

DOCS = Path(__file__).resolve().parents[2] / "docs"


def group(**options: Any) -> WorkerGroup:
    """The one group that a `ScalingConfig` becomes."""
    (made,) = groups_of(ScalingConfig(**options), None)
    return made


# --- the table ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", sorted(FIELDS))
def test_the_table_has_a_row_for_each_field_of_the_installed_class_and_no_other(cls: str) -> None:
    installed = {field.name for field in dataclasses.fields(getattr(ray.train, cls))}
    assert installed == set(FIELDS[cls])


def test_the_page_in_the_docs_is_the_table() -> None:
    assert (DOCS / "ray-configs.md").read_text() == ray_fields.markdown(), "run: python -m mottle.sdk.schema"


def test_a_field_that_a_newer_ray_adds_is_refused_when_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    older = {name: field for name, field in FIELDS["ScalingConfig"].items() if name != "use_gpu"}
    monkeypatch.setattr(ray_fields, "FIELDS", {**FIELDS, "ScalingConfig": older})
    assert group(num_workers=1).num_gpus == 0
    with pytest.raises(ConfigError, match=r"ScalingConfig\.use_gpu=True is refused: this Mottle does not know it yet"):
        group(num_workers=1, use_gpu=True)


SET_TO = {
    "placement_strategy": "SPREAD",
    "elastic_resize_monitor_interval_s": 5.0,
    "use_tpu": True,
    "topology": "2x2",
    "trainer_resources": {"CPU": 1},
    "storage_filesystem": object(),
    "worker_runtime_env": {"env_vars": {"A": "1"}},
    "logging_config": ray.train.LoggingConfig(log_level="DEBUG"),
    "sync_config": object(),
    "verbose": 2,
    "stop": {"training_iteration": 3},
    "progress_reporter": object(),
    "log_to_file": True,
    "checkpoint_frequency": 3,
    "checkpoint_at_end": True,
    "fail_fast": True,
    "controller_failure_limit": 3,
    "max_preemption_failures": 3,
}
REFUSED = [(cls, name) for cls, table in FIELDS.items() for name, field in table.items() if field.fate == "refused"]


@pytest.mark.parametrize(("cls", "name"), REFUSED)
def test_a_refused_field_is_named_with_its_reason_when_it_is_set(cls: str, name: str) -> None:
    config = getattr(ray.train, cls)()
    setattr(config, name, SET_TO[name])  # several of them Ray itself refuses at the door, though not afterwards
    read: dict[str, Callable[[], object]] = {
        "ScalingConfig": lambda: groups_of(config, None),
        "RunConfig": lambda: settings_of(config, None),
        "CheckpointConfig": lambda: settings_of(RunConfig(checkpoint_config=config), None),
        "FailureConfig": lambda: settings_of(RunConfig(failure_config=config), None),
    }
    with pytest.raises(ConfigError) as caught:
        read[cls]()
    assert f"{cls}.{name}=" in str(caught.value)
    assert FIELDS[cls][name].text in str(caught.value)


def test_all_refused_fields_are_told_at_once() -> None:
    config = RunConfig(worker_runtime_env={"pip": ["x"]}, failure_config=FailureConfig(max_preemption_failures=3))
    with pytest.raises(ConfigError, match=r"RunConfig\.worker_runtime_env.*FailureConfig\.max_preemption_failures"):
        settings_of(config, None)


class Callback(UserCallback):
    """A user's own."""


CALLBACK = Callback()
KEPT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # field -> what is set on ScalingConfig, what the group says then
    "num_workers": ({"num_workers": 3}, {"count": 3, "max_count": None}),
    "resources_per_worker": (
        {"resources_per_worker": {"CPU": 2, "memory": 1e9, "fast_disk": 0.5}},
        {"num_cpus": 2, "num_gpus": 0, "resources": {"memory": 1e9, "fast_disk": 0.5}},
    ),
    "use_gpu": ({"use_gpu": True}, {"num_gpus": 1, "num_cpus": 0}),
    "accelerator_type": ({"accelerator_type": "A10G"}, {"accelerator_type": "A10G"}),
    "label_selector": ({"label_selector": {"zone": "b"}}, {"label_selector": {"zone": "b"}}),
}
RUN_KEPT: dict[str, tuple[RunConfig, dict[str, Any]]] = {
    "name": (RunConfig(name="digits", storage_path="/data"), {"name": "digits"}),
    "storage_path": (RunConfig(name="digits", storage_path="/data"), {"folder": "/data/digits"}),
    "callbacks": (RunConfig(callbacks=[CALLBACK]), {"callbacks": (CALLBACK,)}),
    "failure_config": (RunConfig(failure_config=FailureConfig(max_failures=2)), {"max_failures": 2}),
    "max_failures": (RunConfig(failure_config=FailureConfig(max_failures=-1)), {"max_failures": -1}),
    "relax_collectives_on_preemption": (RunConfig(failure_config=FailureConfig(relax_collectives_on_preemption=True)), {}),
    "preemption_grace_s": (RunConfig(failure_config=FailureConfig(preemption_grace_s=30.0)), {}),
    "checkpoint_config": (RunConfig(checkpoint_config=CheckpointConfig(num_to_keep=2)), {"keep": KeepCheckpoints(count=2)}),
    "num_to_keep": (RunConfig(checkpoint_config=CheckpointConfig(num_to_keep=1)), {"keep": KeepCheckpoints(count=1)}),
    "checkpoint_score_attribute": (
        RunConfig(checkpoint_config=CheckpointConfig(checkpoint_score_attribute="test_loss")),
        {"keep": KeepCheckpoints(score="test_loss")},
    ),
    "checkpoint_score_order": (
        RunConfig(checkpoint_config=CheckpointConfig(checkpoint_score_order="min")),
        {"keep": KeepCheckpoints(highest=False)},
    ),
}


def test_every_field_that_is_not_refused_has_a_case_below() -> None:
    kept = {name for table in FIELDS.values() for name, field in table.items() if field.fate != "refused"}
    assert kept == KEPT.keys() | RUN_KEPT.keys()


@pytest.mark.parametrize("name", KEPT)
def test_a_scaling_field_reaches_the_worker_group(name: str) -> None:
    given, wanted = KEPT[name]
    made = dataclasses.asdict(group(**given))
    assert {key: made[key] for key in wanted} == wanted


@pytest.mark.parametrize("name", RUN_KEPT)
def test_a_run_field_reaches_the_settings(name: str) -> None:
    given, wanted = RUN_KEPT[name]
    settings = settings_of(given, None)
    assert {key: getattr(settings, key) for key in wanted} == wanted


# --- ScalingConfig --------------------------------------------------------------------------------------------------------------------


def test_a_pair_of_workers_starts_the_least_and_may_grow_to_the_most() -> None:
    made = group(num_workers=(2, 8))
    assert (made.count, made.max_count) == (2, 8)


def test_without_resources_a_worker_reserves_what_ray_train_reserves() -> None:
    assert (group(num_workers=1).num_cpus, group(num_workers=1).num_gpus) == (1, 0)
    with_gpu = group(use_gpu=True, resources_per_worker={"CPU": 4, "GPU": 0.5})
    assert (with_gpu.num_cpus, with_gpu.num_gpus) == (4, 0.5)


def test_a_list_of_selectors_becomes_a_group_for_each_that_differs() -> None:
    selectors = [{"zone": "b"}, {"zone": "a"}, {"zone": "b"}, {"zone": "c"}]
    made = groups_of(ScalingConfig(num_workers=(2, 4), label_selector=selectors), None)
    assert [(each.name, each.count, each.max_count, each.label_selector) for each in made] == [
        ("workers-0", 1, 2, {"zone": "b"}),
        ("workers-1", 1, 1, {"zone": "a"}),
        ("workers-2", 0, 1, {"zone": "c"}),
    ]


def test_a_list_of_equal_selectors_stays_one_group() -> None:
    (made,) = groups_of(ScalingConfig(num_workers=2, label_selector=[{"zone": "a"}, {"zone": "a"}]), None)
    assert (made.name, made.count, made.max_count, made.label_selector) == ("workers", 2, None, {"zone": "a"})


def test_rays_local_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"ScalingConfig\.num_workers=0 is Ray's local mode"):
        group(num_workers=0)


def test_configs_and_groups_may_be_mixed_and_an_attack_of_the_fleet_is_everybodys() -> None:
    made = groups_of([ScalingConfig(num_workers=1), WorkerGroup(name="slow", delay_s=0.1)], {"sign_flip": {"scale": 10}})
    assert [(each.name, each.attack) for each in made] == [
        ("workers", {"sign_flip": {"scale": 10}}),
        ("slow", {"sign_flip": {"scale": 10}}),
    ]


def test_nothing_said_is_two_workers() -> None:
    assert groups_of(None, None) == (WorkerGroup(name="workers", count=2),)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([WorkerGroup(name="a"), WorkerGroup(name="a")], "names of their own, got a, a"),
        (WorkerGroup(count=0, max_count=3), "at least one worker"),
        (WorkerGroup(count=3, max_count=2), "'workers': wanted 0 <= count <= max_count and room for one worker, got 3 and 2"),
        (WorkerGroup(count=-1), "got -1 and None"),
        (WorkerGroup(delay_s=-0.1), "'workers': delay_s must not be negative, got -0.1"),
        (WorkerGroup(num_cpus=float("nan")), "num_cpus must not be negative, got nan"),
        (WorkerGroup(resources={"fast_disk": -1}), "fast_disk must not be negative"),
        (WorkerGroup(resources={"TPU": 1}), "CPU or CUDA"),
        (WorkerGroup(attack="sign_flop"), "unknown attack 'sign_flop'; did you mean 'sign_flip'"),
        (3, "scaling_config is a ray.train.ScalingConfig, a WorkerGroup or a list of them, got builtins.int"),
        ("workers", "got builtins.str"),
    ],
)
def test_groups_that_cannot_be_are_refused(wrong: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        groups_of(wrong, None)
    assert message in str(caught.value)


# --- RunConfig ------------------------------------------------------------------------------------------------------------------------


def test_without_a_run_config_a_run_lies_under_runs() -> None:
    settings = settings_of(None, None)
    assert (settings.name, settings.folder, settings.max_failures, settings.callbacks) == (
        "mottle",
        str(Path("runs/mottle").absolute()),
        0,
        (),
    )


def test_a_folder_wins_over_the_storage_path() -> None:
    settings = settings_of(RunConfig(name="digits", storage_path="/data"), Path("/elsewhere/run"))
    assert (settings.name, settings.folder) == ("digits", "/elsewhere/run")
    assert settings_of(None, Path("/elsewhere/run")).name == "run"


def test_a_uri_stays_a_uri_and_a_home_is_found() -> None:
    assert settings_of(RunConfig(name="x", storage_path="s3://bucket/runs/"), None).folder == "s3://bucket/runs/x"
    assert settings_of(RunConfig(name="x", storage_path="~/runs"), None).folder == str(Path.home() / "runs" / "x")


def test_a_callback_of_another_class_is_refused() -> None:
    config = RunConfig()
    config.callbacks = [print]  # Ray looks at them only when the config is made
    with pytest.raises(ConfigError, match=r"RunConfig\.callbacks holds ray\.train\.UserCallback objects, got builtins\."):
        settings_of(config, None)


def test_fewer_failures_than_without_limit_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"FailureConfig\.max_failures is -1 \(without limit\) or more, got -2"):
        settings_of(RunConfig(failure_config=FailureConfig(max_failures=-2)), None)


def test_another_class_is_refused_by_its_full_name() -> None:
    with pytest.raises(ConfigError, match=r"run_config is a ray\.train\.RunConfig, got builtins\.dict"):
        settings_of({"name": "x"}, None)


# --- Tune's classes -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tune() -> Any:
    return pytest.importorskip("ray.tune")


@pytest.mark.parametrize(("field", "cls"), [("checkpoint_config", "CheckpointConfig"), ("failure_config", "FailureConfig")])
def test_a_tune_run_config_with_train_sub_configs_is_refused_in_one_sentence(tune: Any, field: str, cls: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray itself only warns
        config = tune.RunConfig(**{field: getattr(ray.train, cls)()})
    with pytest.raises(ConfigError) as caught:
        settings_of(config, None)
    assert str(caught.value) == (
        f"a ray.tune.RunConfig carries a ray.train.{cls} as {field}; use ray.tune.{cls} there, for their fields differ"
    )


@pytest.mark.parametrize(("field", "cls"), [("checkpoint_config", "CheckpointConfig"), ("failure_config", "FailureConfig")])
def test_a_train_run_config_with_tune_sub_configs_is_refused_in_one_sentence(tune: Any, field: str, cls: str) -> None:
    config = RunConfig()
    setattr(config, field, getattr(tune, cls)())
    with pytest.raises(ConfigError) as caught:
        settings_of(config, None)
    assert str(caught.value) == (
        f"a ray.train.RunConfig carries a ray.tune.{cls} as {field}; use ray.train.{cls} there, for their fields differ"
    )


def test_a_tune_run_config_is_the_tuners(tune: Any) -> None:
    with pytest.raises(ConfigError, match=r"belongs to ray\.tune\.Tuner; give the trainer a ray\.train\.RunConfig"):
        settings_of(tune.RunConfig(), None)


def test_a_run_config_of_one_family_passes() -> None:
    check_families(RunConfig(checkpoint_config=CheckpointConfig(), failure_config=FailureConfig()))


def test_the_table_is_part_of_the_configs_module() -> None:
    assert configs.FIELDS is ray_fields.FIELDS

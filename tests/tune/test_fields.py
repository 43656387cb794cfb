"""One point of a search space put into a job: every way to name a field, and what is refused."""

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mottle.sdk.schema import Job, JobFileError
from mottle.tune.fields import GIVEN, NAMED, REFERENCES, applied, leaves, plain, touched

JOB: dict[str, Any] = {
    "model": {"model:Net": {"width": 64}},
    "loss": "model:loss",
    "train_data": "model:train_data",
    "test_data": {"files": "data/*.parquet"},
    "metrics": {"accuracy": "model:accuracy"},
    "optimizer": {"sgd": {"lr": 0.1, "momentum": 0.9}},
    "strategy": "sync",
    "batch_size": 32,
    "until": {"epochs": 2.0},
    "fleet": [{"name": "fast", "count": [2, 4]}, {"name": "slow", "delay_s": 0.01}],
}
ONE_GROUP = {**JOB, "fleet": [{"count": 3}]}


@pytest.mark.parametrize(
    ("values", "field", "wanted"),
    [
        pytest.param({"batch_size": 64}, "batch_size", 64, id="a plain value"),
        pytest.param({"optimizer.lr": 0.5}, "optimizer", {"sgd": {"lr": 0.5, "momentum": 0.9}}, id="an option of whatever there is"),
        pytest.param({"optimizer.sgd.lr": 0.5}, "optimizer", {"sgd": {"lr": 0.5, "momentum": 0.9}}, id="an option by its full name"),
        pytest.param({"optimizer.SGD.lr": 0.5}, "optimizer", {"sgd": {"lr": 0.5, "momentum": 0.9}}, id="names are compared folded"),
        pytest.param({"optimizer": {"sgd": {"lr": 0.5}}}, "optimizer", {"sgd": {"lr": 0.5, "momentum": 0.9}}, id="nested"),
        pytest.param({"optimizer": {"lr": 0.5, "momentum": 0.0}}, "optimizer", {"sgd": {"lr": 0.5, "momentum": 0.0}}, id="nested options"),
        pytest.param({"optimizer": "sgd"}, "optimizer", {"sgd": {"lr": 0.1, "momentum": 0.9}}, id="the same name keeps its options"),
        pytest.param({"optimizer": {"adam": {"lr": 1e-3}}}, "optimizer", {"adam": {"lr": 1e-3}}, id="another name brings its own"),
        pytest.param({"optimizer": "adam", "optimizer.lr": 0.2}, "optimizer", {"adam": {"lr": 0.2}}, id="names come before options"),
        pytest.param({"optimizer.lr": 0.2, "optimizer": "adam"}, "optimizer", {"adam": {"lr": 0.2}}, id="in any order"),
        pytest.param({"optimizer.adam.lr": 0.2}, "optimizer", JOB["optimizer"], id="of another name"),
        pytest.param({"strategy": "async", "strategy.async.max_staleness": 8}, "strategy", {"async": {"max_staleness": 8}}, id="both"),
        pytest.param({"strategy": {"async": {"staleness": {"polynomial": {"a": 0.5}}}}}, "strategy",
                     {"async": {"staleness": {"polynomial": {"a": 0.5}}}}, id="options that are mappings"),
        pytest.param({"strategy": "async", "strategy.staleness.polynomial.a": 0.5}, "strategy",
                     {"async": {"staleness": {"polynomial": {"a": 0.5}}}}, id="a part of an option"),
        pytest.param({"rule": "median"}, "rule", "median", id="a field that the job leaves out"),
        pytest.param({"rule": None}, "rule", None, id="nothing in the place of something"),
        pytest.param({"model.width": 8}, "model", {"model:Net": {"width": 8}}, id="an argument of the model"),
        pytest.param({"model": "model:Big"}, "model", "model:Big", id="another model"),
        pytest.param({"loss.smoothing": 0.1}, "loss", {"model:loss": {"smoothing": 0.1}}, id="an argument of a function"),
        pytest.param({"metrics.accuracy.top": 5}, "metrics", {"accuracy": {"model:accuracy": {"top": 5}}}, id="an argument of a metric"),
        pytest.param({"test_data.cache_blocks": 2}, "test_data", {"files": "data/*.parquet", "cache_blocks": 2}, id="files are a section"),
        pytest.param({"until.samples": 100}, "until", {"epochs": 2.0, "samples": 100}, id="a key of a section"),
        pytest.param({"until": {"epochs": 1.0}}, "until", {"epochs": 1.0}, id="a section as a mapping"),
        pytest.param({"lr_schedule": {"cosine": {"samples": 9}}}, "lr_schedule", {"cosine": {"samples": 9}}, id="a schedule"),
        pytest.param({"fleet.slow.count": 3}, "fleet", [JOB["fleet"][0], {"name": "slow", "delay_s": 0.01, "count": 3}], id="by name"),
        pytest.param({"fleet": {"slow": {"count": 3}}}, "fleet", [JOB["fleet"][0], {"name": "slow", "delay_s": 0.01, "count": 3}], id="in"),
        pytest.param({"fleet.0.count": 1}, "fleet", [{"name": "fast", "count": 1}, JOB["fleet"][1]], id="a group by number"),
        pytest.param({"fleet.slow.attack": {"sign_flip": {"scale": 9.0}}}, "fleet",
                     [JOB["fleet"][0], {"name": "slow", "delay_s": 0.01, "attack": {"sign_flip": {"scale": 9.0}}}], id="attack"),
    ],
)  # fmt: skip
def test_a_value_lands_where_its_key_says(values: dict[str, Any], field: str, wanted: Any) -> None:
    before = copy.deepcopy(JOB)
    changed = applied(JOB, values)
    assert changed[field] == wanted
    assert {name: value for name, value in changed.items() if name != field} == {n: v for n, v in JOB.items() if n != field}
    assert before == JOB


@pytest.mark.parametrize(
    ("values", "count"),
    [
        ({"scaling.min_workers": 2}, 2),
        ({"scaling.num_workers": 5}, 5),
        ({"scaling.max_workers": 6}, [3, 6]),
        ({"scaling.min_workers": 2, "scaling.max_workers": 6}, [2, 6]),
        ({"scaling": {"min_workers": 2, "max_workers": 6}}, [2, 6]),
    ],
)
def test_the_words_of_rays_scaling_config_mean_the_one_group(values: dict[str, Any], count: Any) -> None:
    assert applied(ONE_GROUP, values)["fleet"] == [{"count": count}]


def test_a_job_without_a_fleet_has_the_usual_one() -> None:
    job = {name: value for name, value in JOB.items() if name != "fleet"}
    assert applied(job, {"fleet.workers.count": 3})["fleet"] == [{"name": "workers", "count": 3}]
    assert applied(job, {"scaling.num_workers": 1})["fleet"] == [{"name": "workers", "count": 1}]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fleet.slwo.count": 1}, "no item 'slwo' in the list; did you mean 'slow'? known: fast, slow"),
        ({"scaling.min_workrs": 1}, "did you mean 'min_workers'?"),
        ({"scaling.min_workers": 1}, "several groups (fast, slow); name the group: fleet.NAME.count"),
        ({"batch_size.x": 1}, "batch_size has no keys of its own, it is 32"),
        ({"rule.trim": 1}, "names nothing that could have an option 'trim'; search the name as well"),
        ({"out": "runs"}, "a trial's folder is given by Ray Tune"),
        ({"checkpoint.every": 5}, "follow Ray Tune's CheckpointConfig"),
    ],
)
def test_a_key_that_leads_nowhere_says_why(values: dict[str, Any], message: str) -> None:
    with pytest.raises(JobFileError) as caught:
        applied(JOB, values)
    assert message in str(caught.value)
    assert all(fault.unknown for fault in caught.value.faults)


def test_all_keys_that_lead_nowhere_are_told_at_once() -> None:
    with pytest.raises(JobFileError) as caught:
        applied(JOB, {"fleet.slwo.count": 1, "batch_size.x": 2, "optimizer.lr": 3})
    assert sorted(fault.key for fault in caught.value.faults) == ["batch_size.x", "fleet.slwo.count"]


def refusal(field: str) -> str:
    """What the schema says to a number in that field, which hardly any takes."""
    with pytest.raises(ValidationError) as caught:
        Job.model_validate({field: -0.5})
    return next(error["msg"] for error in caught.value.errors() if error["loc"][0] == field)


def test_every_field_of_the_schema_is_known_here() -> None:
    told = {field: refusal(field) for field in Job.model_fields}
    assert {field for field, message in told.items() if "a name such as sync" in message} == set(NAMED)
    assert {field for field, message in told.items() if "module:attribute" in message} == REFERENCES
    assert set(GIVEN) <= set(Job.model_fields)


def test_values_become_what_a_job_file_has() -> None:
    made = plain({"a": np.float64(0.5), "b": (np.int64(3), [np.str_("x")]), "c": True})
    assert made == {"a": 0.5, "b": [3, ["x"]], "c": True}
    assert [type(made["a"]), type(made["b"][0]), type(made["b"][1][0])] == [float, int, str]


def test_what_a_space_touches_and_holds() -> None:
    values = {"optimizer.lr": 1, "fleet": {"slow": {"count": 2}}, "seed": 3}
    assert touched(values) == {"optimizer", "fleet", "seed"}
    assert list(leaves(values)) == [(("optimizer.lr",), 1), (("fleet", "slow", "count"), 2), (("seed",), 3)]


PLAIN_FIELDS = st.fixed_dictionaries(
    {}, optional={"batch_size": st.integers(), "seed": st.integers(), "until.samples": st.integers(), "optimizer.lr": st.floats()}
)


@given(PLAIN_FIELDS)
def test_setting_values_again_changes_nothing_more(values: dict[str, Any]) -> None:
    once = applied(JOB, values)
    assert repr(applied(once, values)) == repr(once)

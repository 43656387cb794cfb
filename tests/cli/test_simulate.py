"""`mottle simulate` as a user calls it."""

import json
from pathlib import Path
from typing import Any

import pytest

from mottle.strategies import catalogue

FLEET = """\
currency: EUR
workload: {batch_size: 8, micro_batch_size: 4, model_bytes: 1000000}
workers:
  - {name: fast, count: 2, sample_s: 0.01, bandwidth_bytes_per_s: 1e8, price_per_hour: 3600}
  - {name: slow, sample_s: {lognormal: {median_s: 0.04, sigma: 0.2}}, bandwidth_bytes_per_s: 1e8, price_per_hour: 360}
servers: {price_per_hour: 36}
"""

MODULE = """\
import torch
from torch import nn
from torch.utils.data import TensorDataset

class Net(nn.Linear):
    def __init__(self):
        super().__init__(4, 2)

def points(seed):
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, (x.sum(1) > 0).long())

def train(): return points(1)
def trusted(): return points(2)
def test(): return points(3)
def loss(model, batch): return nn.functional.cross_entropy(model(batch[0]), batch[1])
def accuracy(model, batch): return (model(batch[0]).argmax(1) == batch[1]).float().mean()
"""

JOB = """\
model: toy_to_simulate:Net
loss: toy_to_simulate:loss
train_data: toy_to_simulate:train
validation_data: toy_to_simulate:trusted
test_data: toy_to_simulate:test
metrics: {accuracy: toy_to_simulate:accuracy}
optimizer: {sgd: {lr: 0.5}}
strategy: {zeno++: {rho: 0.001, refresh_every: 4}}
batch_size: 8
evaluate_every: 64
until: {epochs: 4}
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    file = tmp_path / "fleet.yaml"
    file.write_text(FLEET)
    return file


@pytest.fixture
def job(tmp_path: Path, own_modules: None) -> Path:
    (tmp_path / "toy_to_simulate.py").write_text(MODULE)
    file = tmp_path / "job.yaml"
    file.write_text(JOB)
    return file


def by_name(data: dict[str, Any]) -> dict[str, Any]:
    return {each["strategy"]: each for each in data["strategies"]}


def test_timing_of_every_strategy_that_needs_no_option(mottle, fleet: Path) -> None:
    outcome = mottle("simulate", fleet, "--seconds", 5)
    assert outcome.code == 0
    assert "cost EUR" in outcome.out
    assert "left out: zeno++: strategy zeno++ needs rho" in outcome.out
    for name in catalogue():
        assert f"simulating {name} ..." in outcome.err or f"left out: {name}: strategy {name} needs" in outcome.out
    assert len(outcome.err.splitlines()) > 3


def test_the_answer_for_programs_repeats_bit_for_bit(mottle, fleet: Path) -> None:
    calls = [mottle("simulate", fleet, "--strategies", "async,SYNC", "--seconds", 5, "--json") for _ in range(2)]
    assert calls[0].out == calls[1].out
    found = by_name(calls[0].data)
    assert set(found) == {"async", "sync"}
    asynchronous = found["async"]
    assert asynchronous["ended"] == "the time is up"
    assert {worker["name"] for worker in asynchronous["workers"]} == {"fast-0", "fast-1", "slow-0"}
    assert asynchronous["cost"] == pytest.approx(asynchronous["seconds"] * (1 + 1 + 0.1 + 0.01))
    assert 0 < asynchronous["workers"][0]["utilisation"] < 1
    other = mottle("simulate", fleet, "--strategies", "async", "--seconds", 5, "--seed", 1, "--json").data
    assert by_name(other)["async"]["workers"][2]["utilisation"] != asynchronous["workers"][2]["utilisation"]


def test_files_for_people_and_perfetto(mottle, fleet: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert mottle("simulate", fleet, "--strategies", "async", "--seconds", 2, "--out", out).code == 0
    assert "plotly" in (out / "async.timeline.html").read_text()
    events = json.loads((out / "async.trace.json").read_text())["traceEvents"]
    assert {event["name"] for event in events if event["ph"] == "X"} == {"pull", "compute", "push"}
    assert all(event["dur"] > 0 for event in events if event["ph"] == "X")
    names = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert names == {0: "fast-0", 1: "fast-1", 2: "slow-0"}
    assert json.loads((out / "simulation.json").read_text())["strategies"][0]["strategy"] == "async"


def test_a_job_learns_on_virtual_time_to_its_target(mottle, fleet: Path, job: Path) -> None:
    outcome = mottle("simulate", fleet, "--job", job, "--strategies", "async,zeno++", "--target", "accuracy=0.85", "--json")
    assert outcome.code == 0
    for each in outcome.data["strategies"]:
        assert each["target"]["metric"] == "test_accuracy"
        assert each["target"]["seconds"] is not None
        assert each["target"]["best"] >= 0.85
        assert each["target"]["cost"] <= each["cost"]
        assert each["curve"][0][2] == 0, "the first model is measured too"


def test_local_steps_learn_too_with_and_without_a_second_vector(mottle, fleet: Path, job: Path) -> None:
    sets = ("--set", "local_sgd.local_steps=2", "--set", "local_adaalter.local_steps=2")
    outcome = mottle("simulate", fleet, "--job", job, "--strategies", "local_sgd,local_adaalter", *sets, "--json")
    assert outcome.code == 0
    assert {each["strategy"] for each in outcome.data["strategies"]} == {"local_sgd", "local_adaalter"}
    for each in outcome.data["strategies"]:
        assert (each["samples"], each["versions"]) == (256, 16)
        assert each["metrics"]["test_accuracy"] > 0.7


def test_a_target_that_is_never_reached_ends_at_the_limit_with_the_best_value(mottle, fleet: Path, job: Path) -> None:
    outcome = mottle("simulate", fleet, "--job", job, "--strategies", "sync", "--target", "accuracy=1.5")
    assert outcome.code == 0
    assert "never, best " in outcome.out
    assert "sync: all samples are spent at" in outcome.out


def test_when_every_worker_goes_the_answer_says_so(mottle, fleet: Path) -> None:
    crashes = "".join(f"  - {{kind: crash, worker: {name}, at_s: 1}}\n" for name in ("fast-0", "fast-1", "slow-0"))
    fleet.write_text(FLEET + "faults:\n" + crashes)
    outcome = mottle("simulate", fleet, "--strategies", "async")
    assert outcome.code == 0
    assert "async: every worker is gone at 2.0 s" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--strategies", "asnyc"], "unknown strategy 'asnyc'; did you mean 'async'"),
        (["--strategies", "zeno++"], "strategy zeno++ needs rho"),
        (["--target", "accuracy=0.9"], "give the job that learns them with --job"),
        (["--seconds", "0"], "--seconds is above 0"),
        (["--seconds", "nan"], "--seconds is above 0"),
        (["--set", "async=3"], "--set takes STRATEGY.OPTION=VALUE"),
        (["--set", "async.speed=3"], "strategy async has no option 'speed'"),
        (
            ["--strategies", "gradient_coding", "--set", "gradient_coding.num_stragglers=7"],
            "num_stragglers 7 needs at least 8 workers, there are",
        ),
    ],
)
def test_what_cannot_be_is_refused(mottle, fleet: Path, arguments: list[str], message: str) -> None:
    outcome = mottle("simulate", fleet, "--strategies", "async", *arguments)
    assert outcome.code == 2
    assert message in outcome.err


@pytest.mark.parametrize(
    ("target", "message"),
    [("precision=0.9", "it measures test_loss, test_accuracy"), ("accuracy", "METRIC=VALUE"), ("loss=0.1", "a loss falls")],
)
def test_a_target_that_cannot_be_is_refused(mottle, fleet: Path, job: Path, target: str, message: str) -> None:
    outcome = mottle("simulate", fleet, "--job", job, "--target", target)
    assert outcome.code == 2
    assert message in outcome.err


def test_a_fleet_without_workload_wants_a_job(mottle, fleet: Path) -> None:
    fleet.write_text("workers:\n  - {sample_s: 0.1}\n")
    outcome = mottle("simulate", fleet)
    assert outcome.code == 2
    assert "either a job (--job) or a workload:" in outcome.err


def test_a_wrong_fleet_file_is_told_with_its_lines(mottle, fleet: Path) -> None:
    fleet.write_text("workers:\n  - {sample_s: -1}\n  - {sample_s: 1, speed: 3}\n")
    outcome = mottle("simulate", fleet, "--json")
    assert outcome.code == 2
    assert [(fault["where"].rsplit("/", 1)[-1], fault["key"]) for fault in outcome.data["faults"]] == [
        ("fleet.yaml:2", "workers.0.sample_s"),
        ("fleet.yaml:3", "workers.1.speed"),
    ]


def test_a_folder_without_a_run_gives_no_fleet(mottle, tmp_path: Path) -> None:
    outcome = mottle("fleet", "record", tmp_path, "--out", tmp_path / "fleet.yaml")
    assert outcome.code == 2
    assert "workers delivered updates" in outcome.err
    assert not (tmp_path / "fleet.yaml").exists()

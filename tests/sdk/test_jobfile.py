"""Job files: read strictly, with file, line and key of everything that is wrong; set over from the command line; turned into a trainer."""

import inspect
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from torch import nn

from mottle.actors.job import KeepCheckpoints, WorkerGroup
from mottle.sdk import HealthConfig, Trainer, jobfile
from mottle.sdk.jobfile import JobFile, read, recorded
from mottle.sdk.schema import Group, Health, Job, JobFileError, schema_text
from mottle.sdk.schema.pages import pages
from mottle.sdk.until import Until

ROOT = Path(__file__).resolve().parents[2]
MODULE = "job_under_test"

PYTHON = """
import torch
from torch import nn
from torch.utils.data import TensorDataset

class Net(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.linear = nn.Linear(4, width)

    def forward(self, x):
        return self.linear(x)

class Losses:
    @staticmethod
    def mse(model, batch):
        return nn.functional.mse_loss(model(batch[0]).sum(dim=1), batch[1])

def scaled(model, batch, scale):
    return scale * Losses.mse(model, batch)

def rows(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(40, 4, generator=generator), torch.randn(40, generator=generator))

def collate(samples):
    return torch.utils.data.default_collate(samples)

class Logger:
    def __init__(self, where):
        self.where = where

    def log(self, metrics, samples): ...

    def close(self): ...

ready = rows(3)

class Column(nn.Linear):
    def __init__(self):
        super().__init__(1, 1)

def mean_square(model, batch):
    return model(batch["x"].float().unsqueeze(1)).square().mean()
"""

SMALL = f"""\
model: {MODULE}:Net
loss: {MODULE}:Losses.mse
train_data: {MODULE}:rows
optimizer: {{sgd: {{lr: 0.1}}}}
batch_size: 8
until: {{epochs: 2}}
strategy: sync
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with a module beside the job file; what importing it leaves behind is taken away again."""
    path = list(sys.path)
    (tmp_path / f"{MODULE}.py").write_text(PYTHON)
    yield tmp_path
    sys.path[:] = path
    for name in [MODULE, "broken", "needy"]:
        sys.modules.pop(name, None)


def job(folder: Path, text: str = SMALL, *settings: str) -> JobFile:
    file = folder / "job.yaml"
    file.write_text(text)
    return read(file, settings)


def faults(folder: Path, text: str, *settings: str) -> list[str]:
    """Everything that is wrong, with the folder left out."""
    with pytest.raises(JobFileError) as caught:
        job(folder, text, *settings).trainer()
    return [str(fault).replace(f"{folder}/", "") for fault in caught.value.faults]


# --- what a file becomes --------------------------------------------------------------------------------------------------------------

FULL = f"""\
model: {{"{MODULE}:Net": {{width: 5}}}}
loss: {{"{MODULE}:scaled": {{scale: 2.0}}}}
train_data: {{"{MODULE}:rows": {{seed: 1}}}}
validation_data: {{"{MODULE}:rows": {{seed: 2}}}}
test_data: {MODULE}:ready
collate_fn: {MODULE}:collate
metrics: {{mse: {MODULE}:Losses.mse}}
optimizer: {{adamw: {{lr: 1e-3, param_groups: [{{params: ["*.bias"], weight_decay: 0.0}}]}}}}
lr_schedule: {{cosine: {{samples: 80}}}}
batch_size: 8
micro_batch_size: 4
until: {{epochs: 2, samples: 70, seconds: 60, metric: {{test_mse: 0.5}}}}
strategy: {{sync: {{deadline_s: 5.0, quorum: 2}}}}
rule: {{trimmed_mean: {{trim: 1}}}}
batch_policy: {{linear: {{per_worker: 2}}}}
codec: bf16
attack: {{sign_flip: {{scale: 2}}}}
collusion: true
fleet:
  - {{name: a, count: [2, 4], num_cpus: 0.5, delay_s: 0.1, autocast: bf16}}
  - {{name: b, count: 1, num_gpus: 1, resources: {{memory: 1e9}}, accelerator_type: A10G, label_selector: {{zone: x}}}}
shards: 3
seed: 7
seed_samples: false
evaluate_every: 16
max_grad_norm: 1.5
max_grad_norm_per_worker: 2.5
retry_rejected: false
rule_samples: 64
lease_floor_s: 2.5
health: {{rejected: 5, slow: null, wait_s: 1.5, min_crew: 2}}
max_failures: 3
replicas: 1
loggers: [{{"{MODULE}:Logger": {{where: here}}}}]
checkpoint: {{every: 20, num_to_keep: 2, score_attribute: test_mse, score_order: min}}
out: runs/full
"""


def test_every_key_reaches_the_run(folder: Path) -> None:
    trainer = job(folder, FULL).trainer()
    made = trainer.job
    assert [logger.where for logger in trainer._loggers] == ["here"]
    assert made.run_dir == str(folder / "runs/full")
    assert made.name == "full"
    assert (trainer.settings.max_failures, made.collusion) == (3, True)
    module = made.model()
    assert isinstance(module, nn.Module)
    assert module.linear.out_features == 5
    assert (made.loss.func.__name__, made.loss.keywords) == ("scaled", {"scale": 2.0})
    assert made.metrics.keys() == {"mse"}
    assert made.validation is not None
    assert made.test is not None
    assert (made.micro_batch_size, made.seed, made.total_samples) == (4, 7, 70)
    assert made.strategy == {"sync": {"deadline_s": 5.0, "quorum": 2}}
    given = {"batch_size": 8, "lr": 1e-3, "optimizer": made.optimizer, "rule": {"trimmed_mean": {"trim": 1}}}
    assert made.strategy_defaults == {**given, "batch_policy": {"linear": {"per_worker": 2, "rate": "sqrt"}}}
    assert made.codec == "bf16"
    assert made.schedule is not None
    assert made.schedule(40) == pytest.approx(0.5)
    assert made.max_grad_norm_per_worker == 2.5
    assert made.groups == (
        WorkerGroup(name="a", count=2, max_count=4, num_cpus=0.5, delay_s=0.1, autocast="bf16", attack={"sign_flip": {"scale": 2}}),
        WorkerGroup(
            name="b",
            num_gpus=1,
            resources={"memory": 1e9},
            accelerator_type="A10G",
            label_selector={"zone": "x"},
            attack={"sign_flip": {"scale": 2}},
        ),
    )
    assert made.keep == KeepCheckpoints(count=2, score="test_mse", highest=False)
    brain = made.brain
    assert (brain.num_positions, brain.max_samples, brain.max_ns, brain.target) == (40, 70, 60 * 10**9, ("test_mse", 0.5))
    assert (brain.evaluate_every, brain.checkpoint_every, brain.num_shards, brain.replicas) == (16, 20, 3, 1)
    assert (brain.max_grad_norm, brain.retry_rejected, brain.seed) == (1.5, False, 7)
    assert (brain.rule_samples, brain.lease_floor_ns) == (64, 2_500_000_000)
    assert brain.health == HealthConfig(rejected=5, slow=None, wait_s=1.5, min_crew=2)
    assert (brain.least_crew, brain.rule_crew) == (1, 3)


def test_the_full_file_leaves_no_key_out() -> None:
    assert yaml.safe_load(FULL).keys() == Job.model_fields.keys()


def test_every_argument_of_the_trainer_can_be_said_in_a_file() -> None:
    """Those that a file says under another name are listed; a new argument needs a key of its own or a place here."""
    elsewhere = {"self", "scaling_config", "run_config", "folder", "checkpoint_every"}
    assert inspect.signature(Trainer.__init__).parameters.keys() - elsewhere == Job.model_fields.keys() - {
        "fleet",
        "checkpoint",
        "max_failures",
        "out",
    }


def test_every_field_of_a_worker_group_can_be_said_in_a_file() -> None:
    assert {field.name for field in fields(WorkerGroup)} - {"max_count"} == Group.model_fields.keys()


def test_health_says_in_a_file_what_it_says_in_python(folder: Path) -> None:
    assert job(folder).trainer().job.brain.health == HealthConfig()
    assert {field.name for field in fields(HealthConfig)} == Health.model_fields.keys()
    assert job(folder, SMALL + "health: null\n").trainer().job.brain.health is None


def test_every_limit_can_be_said_in_a_file() -> None:
    assert {field.name for field in fields(Until)} == Job.model_fields["until"].annotation.model_fields.keys()  # type: ignore[union-attr]


def test_what_is_left_out_has_the_trainers_own_default(folder: Path) -> None:
    spec = job(folder).spec
    defaults = {name: each.default for name, each in inspect.signature(Trainer.__init__).parameters.items()}
    for name in (
        "micro_batch_size",
        "seed",
        "seed_samples",
        "shards",
        "evaluate_every",
        "retry_rejected",
        "max_grad_norm",
        "rule_samples",
        "lease_floor_s",
    ):
        assert getattr(spec, name) == defaults[name], name
    (group,) = job(folder).trainer().job.groups
    assert group == WorkerGroup(name="workers", count=2)


def test_files_are_found_beside_the_job_file(folder: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    (folder / "data").mkdir()
    pq.write_table(pa.table({"x": [1.0, 2.0, 3.0], "y": [1, 2, 3]}), folder / "data" / "rows.parquet")
    text = SMALL.replace(f"train_data: {MODULE}:rows", "train_data: {files: data/*.parquet, columns: [x]}")
    text = text.replace("Losses.mse", "mean_square").replace(f"model: {MODULE}:Net", f"model: {MODULE}:Column")
    made = job(folder, text).trainer().job
    assert made.brain.num_positions == 3


def test_the_run_folder_is_what_is_said_last(folder: Path) -> None:
    assert job(folder).out == "runs/job"
    assert job(folder, SMALL + "out: here\n").out == str(folder / "here")
    assert job(folder, SMALL + "out: s3://bucket/here\n").out == "s3://bucket/here"
    assert job(folder, SMALL + "out: here\n").trainer(folder=folder / "there").job.run_dir == str(folder / "there")


# A space is no job: tests/tune reads it.
@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "examples").rglob("*.yaml") if path.name != "space.yaml"))
def test_the_examples_fit_the_published_schema(name: str) -> None:
    (file,) = (ROOT / "examples").rglob(name)
    jsonschema.validate(yaml.safe_load(file.read_text()), json.loads(schema_text()))
    assert read(file).spec.until


def test_the_written_pages_are_up_to_date() -> None:
    for page, text in pages(ROOT / "docs").items():
        assert page.read_text() == text, f"{page.name} is out of date; run: python -m mottle.sdk.schema"


# --- strictness -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "wrong", "message"),
    [
        (1, "model: job_under_test", "model: wanted module:attribute, or one such name with arguments such as"),
        (1, "model: 3", "got 3"),
        (3, "train_data: {file: x}", "train_data: wanted module:attribute of a dataset or of a function that makes one, or {files: PATHS}"),
        (
            3,
            "train_data: {files: x, colums: [a]}",
            "train_data.colums: unknown key 'colums'; did you mean 'columns'? known: cache_blocks, co",
        ),
        (3, "train_data: {files: []}", "train_data.files: wanted a path, directory, glob or URI, or a list of them, got []"),
        (4, "optimizer: {sgd: {lr: 1}, adam: {}}", "optimizer: wanted a name such as sync, or one name with its options"),
        (5, 'batch_size: "8"', "batch_size: wanted a valid integer, got '8'"),
        (5, "batch_size: 0", "batch_size: wanted a number greater than or equal to 1, got 0"),
        (5, "batch_size: true", "batch_size: wanted a valid integer, got True"),
        (6, "until: {epoks: 2}", "until.epoks: unknown key 'epoks'; did you mean 'epochs'? known: epochs, metric, samples, seconds"),
        (6, "until: 3", "until: wanted a valid dictionary"),
        (7, "strateggy: sync", "strateggy: unknown key 'strateggy'; did you mean 'strategy'?"),
        (8, "checkpoint: {score_order: best}", "checkpoint.score_order: wanted 'max' or 'min', got 'best'"),
        (9, "fleet:\n  - {count: [1, 2, 3]}", "fleet.0.count: wanted a count such as 4, or [least, most], got [1, 2, 3]"),
        (9, "fleet:\n  - {attakc: x}", "fleet.0.attakc: unknown key 'attakc'; did you mean 'attack'?"),
        (8, "fleet: []", "fleet: List should have at least 1 item"),
        (8, "metrics: {a: 3}", "metrics.a: wanted module:attribute"),
        (8, "batch_policy: {adascal: {}}", "batch_policy: unknown batch policy 'adascal'; did you mean 'adascale'?"),
        (8, "batch_policy: {noise_scale: {most: 4}}", "most must not be below it, got 4"),
    ],
)
def test_a_wrong_value_is_told_with_file_line_and_key(folder: Path, line: int, wrong: str, message: str) -> None:
    key = wrong.partition(":")[0].replace("gg", "g")
    kept = [each for each in SMALL.splitlines() if not each.startswith(f"{key}:")]
    position = next((index for index, each in enumerate(SMALL.splitlines()) if each.startswith(f"{key}:")), len(kept))
    text = "\n".join([*kept[:position], wrong, *kept[position:]])
    (told,) = [fault for fault in faults(folder, text) if message in fault]
    assert told.startswith(f"job.yaml:{line}: ")


def test_everything_that_is_wrong_is_told_at_once_in_the_order_of_the_file(folder: Path) -> None:
    text = SMALL.replace("batch_size: 8", "batch_size: x").replace("epochs: 2", "epochs: -1") + "shads: 2\n"
    assert [re.match(r"job\.yaml:(\d+): ([\w.]+)", fault).groups() for fault in faults(folder, text)] == [  # type: ignore[union-attr]
        ("5", "batch_size"),
        ("6", "until.epochs"),
        ("8", "shads"),
    ]


def test_a_needed_key_that_is_missing_is_told(folder: Path) -> None:
    assert faults(folder, SMALL.replace("batch_size: 8\n", "")) == ["job.yaml:1: batch_size: is needed; there is no default"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: [\n", "job.yaml:2: not YAML: "),
        ("model: a:b\nmodel: c:d", "job.yaml:2: model: given twice, first in line 1"),
        ("fleet: [{name: a, name: b}]", "job.yaml:1: fleet.0.name: given twice"),
        ("yes: 1", "job.yaml:1: yes: keys are text; put this one in quotes"),
        ("fleet: &a [*a]", "job.yaml:1: fleet.0: an alias here contains itself"),
        ("- a", "job.yaml: wanted a mapping of keys such as model: and loss:, got list"),
        ("", "got NoneType"),
        ("model: !!python/object:os.system {}", "not YAML: could not determine a constructor"),
    ],
)
def test_text_that_is_no_job_is_refused(folder: Path, text: str, message: str) -> None:
    assert any(message in fault for fault in faults(folder, text))


def test_a_file_that_is_not_there_is_told(folder: Path) -> None:
    with pytest.raises(JobFileError, match=r"nope\.yaml: cannot be read: No such file"):
        read(folder / "nope.yaml")


def test_bytes_that_are_no_text_are_told(folder: Path) -> None:
    (folder / "job.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(JobFileError, match="cannot be read: not UTF-8"):
        read(folder / "job.yaml")


@pytest.mark.parametrize("written", ["1e-1", "1E-1", "+1e-1", "1.e-1", ".1e0", "0.1"])
def test_floats_are_numbers_however_they_are_written(folder: Path, written: str) -> None:
    assert job(folder, SMALL.replace("lr: 0.1", f"lr: {written}")).spec.optimizer == {"sgd": {"lr": 0.1}}


def test_a_name_that_begins_like_a_float_stays_text(folder: Path) -> None:
    assert job(folder, SMALL + 'fleet: [{name: 1e5x}, {name: "1e5"}]').spec.fleet[0].name == "1e5x"


# --- names and options ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("strategy: sync", "strategy: synk", "job.yaml:7: strategy: unknown strategy 'synk'; did you mean 'sync'?"),
        (
            "strategy: sync",
            "strategy:\n  sync:\n    quorum: 1\n    dedline_s: 2",
            "job.yaml:10: strategy.sync.dedline_s: strategy sync has no option 'dedline_s'; did you mean 'deadline_s'?",
        ),
        ("{sgd: {lr: 0.1}}", "{sdg: {lr: 0.1}}", "job.yaml:4: optimizer: unknown optimizer 'sdg'; did you mean 'SGD'?"),
        ("{sgd: {lr: 0.1}}", "{lbfgs: {}}", "job.yaml:4: optimizer: optimizer LBFGS cannot run on slices of a model"),
        (
            "{sgd: {lr: 0.1}}",
            "{sgd: {lrr: 0.1}}",
            "job.yaml:4: optimizer.sgd.lrr: optimizer SGD has no option 'lrr' here; did you mean 'lr'?",
        ),
        ("strategy: sync", "strategy: sync\ncodec: bf17", "job.yaml:8: codec: unknown codec 'bf17'; did you mean 'bf16'?"),
        ("strategy: sync", "strategy: sync\nrule: {phocas: {trimm: 1}}", "job.yaml:8: rule.phocas.trimm: phocas has no parameter 'trimm'"),
        ("strategy: sync", "strategy: sync\nlr_schedule: {cosine: {}}", "job.yaml:8: lr_schedule: "),
        ("strategy: sync", "strategy: sync\nattack: ipn", "job.yaml:8: attack: unknown attack 'ipn'; did you mean 'ipm'?"),
        ("strategy: sync", "strategy: sync\nfleet:\n  - {}\n  - {attack: ipn}", "job.yaml:10: fleet.1.attack: unknown attack 'ipn'"),
        ("strategy: sync", "strategy: sync\nfleet:\n  - {count: [3, 2]}", "job.yaml:9: fleet.0: worker group 'workers': wanted 0 <= count"),
        ("strategy: sync", "strategy: {zeno++: {rho: 0.01}}", "job.yaml: strategy 'zeno++' tests updates on trusted data"),
        ("epochs: 2", "", "job.yaml: until needs epochs, samples, seconds or a metric"),
    ],
)
def test_what_the_catalogues_refuse_is_told_at_its_place(folder: Path, old: str, new: str, message: str) -> None:
    assert any(fault.startswith(message) for fault in faults(folder, SMALL.replace(old, new)))


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("job_under_tset:Net", "model: there is no module 'job_under_tset' in"),
        ("job_under_tset:Net", "did you mean 'job_under_test'?"),
        ("job_under_test:Nett", "has no 'Nett'; did you mean 'Net'?"),
        ('{"job_under_test:ready": {a: 1}}', "takes no arguments, for it is no function or class but TensorDataset"),
        ("broken:Net", "model: module 'broken' failed while it was imported: ZeroDivisionError: division by zero"),
        ("broken:Net", "broken.py:2)"),
        ("needy:Net", "model: module 'needy' needs a_library_that_nobody_has, which is not installed"),
        ("json:Net", "'json' means"),
        ("job_under_test:MODULE_LEVEL", "has no 'MODULE_LEVEL'"),
    ],
)
def test_a_name_that_cannot_be_imported_is_told(folder: Path, reference: str, message: str) -> None:
    (folder / "broken.py").write_text("a = 1\na / 0\n")
    (folder / "needy.py").write_text("import a_library_that_nobody_has\n")
    (folder / "json.py").write_text("Net = 1\n")
    (told,) = faults(folder, SMALL.replace("model: job_under_test:Net", f"model: {reference}"))
    assert told.startswith("job.yaml:1: model: ")
    assert message in told


def test_all_names_that_cannot_be_imported_are_told_at_once(folder: Path) -> None:
    assert len(faults(folder, SMALL.replace("Net", "Nett").replace("Losses", "Loses"))) == 2


# --- settings from the command line ---------------------------------------------------------------------------------------------------


def spec(folder: Path, *settings: str) -> dict[str, Any]:
    return job(folder, SMALL + "fleet: [{name: fast, count: 2}, {name: slow}]\n", *settings).spec.model_dump()


@pytest.mark.parametrize(
    ("setting", "key", "wanted"),
    [
        ("batch_size=16", "batch_size", 16),
        ("until.epochs=0.5", "until", {"epochs": 0.5, "samples": None, "seconds": None, "metric": None}),
        ("until={samples: 5}", "until", {"epochs": None, "samples": 5, "seconds": None, "metric": None}),
        ("strategy=async", "strategy", "async"),
        ("strategy.sync.quorum=2", "strategy", {"sync": {"quorum": 2}}),
        ("optimizer.sgd.momentum=9e-1", "optimizer", {"sgd": {"lr": 0.1, "momentum": 0.9}}),
        ("rule={phocas: {trim: 1}}", "rule", {"phocas": {"trim": 1}}),
        ("codec=", "codec", None),
        ("out=a=b", "out", "a=b"),
    ],
)
def test_a_setting_wins_over_the_file(folder: Path, setting: str, key: str, wanted: object) -> None:
    assert spec(folder, setting)[key] == wanted


def test_items_of_lists_are_set_by_number_or_by_name_and_the_last_setting_wins(folder: Path) -> None:
    groups = spec(folder, "fleet.0.count=3", "fleet.slow.delay_s=0.5", "fleet.slow.count=[1, 4]", "fleet.fast.count=5")["fleet"]
    assert [(group["name"], group["count"], group["delay_s"]) for group in groups] == [("fast", 5, 0.0), ("slow", [1, 4], 0.5)]


def test_setting_one_place_of_an_alias_leaves_the_other(folder: Path) -> None:
    text = SMALL + "fleet:\n  - &group {name: a, resources: &r {disk: 1.0}}\n  - {name: b, resources: *r}\n"
    groups = job(folder, text, "fleet.a.resources.disk=2").spec.fleet
    assert [group.resources for group in groups] == [{"disk": 2.0}, {"disk": 1.0}]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("batch_size", "--set batch_size: wanted KEY=VALUE"),
        (".x=1", "wanted KEY=VALUE"),
        ("batch_size=x", "--set batch_size=x: batch_size: wanted a valid integer, got 'x'"),
        ("batch_sice=4", "--set batch_sice=4: batch_sice: unknown key 'batch_sice'; did you mean 'batch_size'?"),
        ("fleet.2.count=1", "--set fleet.2.count=1: 2: no such item in the list; known: 0, 1, fast, slow"),
        ("batch_size.x=1", "--set batch_size.x=1: batch_size: has no keys of its own, it is 8"),
        ("rule={", "--set rule={: rule: not YAML: "),
        ("strategy=sink", "--set strategy=sink: strategy: unknown strategy 'sink'"),
        ("optimizer.sgd.lrr=1", "--set optimizer.sgd.lrr=1: optimizer.sgd.lrr: optimizer SGD has no option 'lrr'"),
        ("model=job_under_test:Nett", "--set model=job_under_test:Nett: model: module 'job_under_test'"),
    ],
)
def test_a_wrong_setting_is_told_as_the_setting_that_it_is(folder: Path, setting: str, message: str) -> None:
    assert any(message in fault for fault in faults(folder, SMALL + "fleet: [{name: fast}, {name: slow}]\n", setting))


# --- the job in a run's folder --------------------------------------------------------------------------------------------------------


def test_a_recorded_job_is_the_job_that_ran(folder: Path) -> None:
    first = job(folder, SMALL, "seed=5")
    run = folder / "run"
    first.record(run)
    again = recorded(run, ["shards=2"])
    assert again.file == first.file
    assert again.spec == first.spec.model_copy(update={"shards": 2})
    assert again.trainer(folder=run).job.brain.num_shards == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not there: this is no folder of a run that a job file described"),
        ("{", "is damaged"),
        ('{"format": 1}', "is damaged: 'file'"),
        ('{"format": 2, "file": "x", "job": {}}', "has format 2, this Mottle reads 1"),
    ],
)
def test_a_record_that_cannot_be_read_is_told(folder: Path, content: str | None, message: str) -> None:
    if content is not None:
        (folder / jobfile.RECORD_FILE).write_text(content)
    with pytest.raises(JobFileError) as caught:
        recorded(folder)
    assert message in str(caught.value)


def test_a_wrong_setting_over_a_record_names_the_setting(folder: Path) -> None:
    job(folder).record(folder / "run")
    with pytest.raises(JobFileError, match="--set shads=2: shads: unknown key"):
        recorded(folder / "run", ["shads=2"])

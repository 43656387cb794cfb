"""Jobs that cannot work, through `mottle train` as a user gives them: one clear message, exit code 2, nothing begun and nothing lost."""

from pathlib import Path

import pytest
import ray

MODULE = """
import torch
from torch import nn
from torch.utils.data import TensorDataset

def net():
    return nn.Linear(3, 2)

def frozen():
    return net().requires_grad_(False)

def loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])

def per_sample(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

data = TensorDataset(torch.ones(8, 3), torch.zeros(8, dtype=torch.long))
no_data = TensorDataset(torch.ones(0, 3), torch.zeros(0, dtype=torch.long))
"""

JOB = """\
model: wrong_jobs:net
loss: wrong_jobs:loss
train_data: wrong_jobs:data
optimizer: {sgd: {lr: 0.1}}
strategy: sync
rule: {median: {}}
batch_size: 4
until: {epochs: 1}
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    (tmp_path / "wrong_jobs.py").write_text(MODULE)
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path / "job.yaml"


@pytest.mark.usefixtures("own_modules")
@pytest.mark.parametrize(
    ("was", "given", "said"),
    [
        ("strategy: sync", "strategy: sinc", "job.yaml:5: strategy: unknown strategy 'sinc'; did you mean 'sync'?"),
        ("{median: {}}", "{phocaz: {trim: 1}}", "job.yaml:6: rule: unknown rule 'phocaz'; did you mean 'phocas'?"),
        ("{sgd: {lr", "{adan: {lr", "job.yaml:4: optimizer: "),
        ("{sgd: {lr: 0.1}}", "{sgd: {lr: 0.1, momentun: 0.9}}", "did you mean 'momentum'?"),
        ("batch_size: 4", 'batch_size: "4"', "job.yaml:7: batch_size: wanted a valid integer, got '4'"),
        ("batch_size: 4", "batch_size: 4\nbatchsize: 4", "job.yaml:8: batchsize: unknown key 'batchsize'; did you mean 'batch_size'?"),
        ("batch_size: 4", "batch_size: 0", "job.yaml:7: batch_size: wanted a number greater than or equal to 1, got 0"),
        ("batch_size: 4", "batch_size: 4\nevaluate_every: -1", "job.yaml:8: evaluate_every: wanted a number greater than or equal to 1"),
        ("batch_size: 4\n", "", "batch_size: is needed"),
        ("wrong_jobs:net", "wrong_job:net", "job.yaml:1: model: "),
        ("wrong_jobs:net", "wrong_jobs:nett", "job.yaml:1: model: "),
        ("wrong_jobs:loss", "wrong_jobs:per_sample", "the loss must be a scalar, got a tensor of shape (4,)"),
        ("wrong_jobs:data", "wrong_jobs:no_data", "at least one row"),
        ("wrong_jobs:net", "wrong_jobs:frozen", "no trainable parameter"),
        ("{epochs: 1}", "{epoch: 1}", "unknown key 'epoch'; did you mean 'epochs'?"),
        ("{epochs: 1}", "{epochs: [1", "job.yaml:"),
    ],
    ids=lambda text: text[:24] if len(text) < 60 else None,
)
def test_a_wrong_job_is_told_at_its_line_and_nothing_is_begun(job: Path, mottle, was: str, given: str, said: str) -> None:
    assert was in JOB
    job.write_text(JOB.replace(was, given))
    out = job.parent / "run"
    before = ray.is_initialized()
    refused = mottle("train", job, "--out", out)
    assert refused.code == 2, refused.err
    assert said in refused.err
    assert "Traceback" not in refused.err
    assert not out.exists()
    assert ray.is_initialized() is before


@pytest.mark.parametrize("text", ["", "[]", "model", "model: wrong_jobs:net\nmodel: wrong_jobs:net\n"])
def test_a_file_that_is_no_job_is_told(job: Path, mottle, text: str) -> None:
    job.write_text(text)
    refused = mottle("train", job)
    assert refused.code == 2
    assert str(job) in refused.err


def test_a_job_that_is_not_there_is_told(tmp_path: Path, mottle) -> None:
    refused = mottle("train", tmp_path / "none.yaml")
    assert refused.code == 2
    assert "none.yaml" in refused.err

"""Runs on a real local Ray: tiny models and data, how a test drives a run, and what must hold at the end of every one.

Workers import this module by its name, so a job may name what is defined here.
"""

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from mottle import strategies
from mottle.actors.reserve import RESERVE
from mottle.aggregation.decisions.rulebook import Rules
from mottle.core import protocol as p
from mottle.core import wire
from mottle.core.brain import Brain
from mottle.data import Positions
from mottle.observe import read_events, read_run
from mottle.observe.result import read_result
from mottle.observe.snapshot import Snapshot, WorkerRow
from mottle.sdk import Result, Run, Trainer, WorkerGroup

# N samples, F features, C classes
SHELLS = ("Coordinator", "ParameterShard", "TrainingWorker", "Validator")
RELEASE_TIMEOUT_S = 20.0
NUM_FEATURES = 20
NUM_CLASSES = 4

# --- models -----------------------------------------------------------------------------------------------------------------------------


def linear() -> nn.Module:
    return nn.Linear(NUM_FEATURES, NUM_CLASSES)


def perceptron() -> nn.Module:
    """6,404 parameters: two blocks, so two shards hold one each and a third is empty."""
    return nn.Sequential(nn.Linear(NUM_FEATURES, 256), nn.ReLU(), nn.Linear(256, NUM_CLASSES))


class Scribbler(nn.Module):
    """Overwrites its own parameters with NaN after it has used them; 77 kB, which travel through Ray's object store."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(NUM_FEATURES, 960 // NUM_CLASSES * NUM_CLASSES)

    def forward(self, features_NF: Tensor) -> Tensor:
        logits: Tensor = self.wide(features_NF).view(len(features_NF), -1, NUM_CLASSES).sum(1)
        for parameter in self.parameters():
            parameter.data.fill_(torch.nan)
        return logits


class HonestTwin(Scribbler):
    """The same without the vandalism."""

    def forward(self, features_NF: Tensor) -> Tensor:
        logits: Tensor = self.wide(features_NF).view(len(features_NF), -1, NUM_CLASSES).sum(1)
        return logits


def noisy() -> nn.Module:
    """Dropout and BatchNorm."""
    return nn.Sequential(nn.Linear(NUM_FEATURES, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, NUM_CLASSES))


def in_an_actor() -> bool:
    """Whether this is not the process of the test."""
    return "pytest" not in sys.modules


class NeedsADevice(nn.Module):
    """Works in the process that describes the job and in no other."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(NUM_FEATURES, NUM_CLASSES)

    def forward(self, features_NF: Tensor) -> Tensor:
        if in_an_actor():
            raise OSError("no such device on this host")
        logits: Tensor = self.layer(features_NF)
        return logits


class NeedsAFile(nn.Module):
    """Can be made in the process that describes the job and in no other."""

    def __init__(self) -> None:
        super().__init__()
        if in_an_actor():
            raise OSError("no weights on this host")
        self.layer = nn.Linear(NUM_FEATURES, NUM_CLASSES)

    def forward(self, features_NF: Tensor) -> Tensor:
        logits: Tensor = self.layer(features_NF)
        return logits


# --- data and losses --------------------------------------------------------------------------------------------------------------------


def blobs(num_samples: int, seed: int = 0) -> TensorDataset:
    """Points around one centre a class, easy to tell apart."""
    generator = torch.Generator().manual_seed(seed)
    labels_N = torch.randint(NUM_CLASSES, (num_samples,), generator=generator)
    centres_CF = 3.0 * torch.eye(NUM_CLASSES, NUM_FEATURES)
    return TensorDataset(centres_CF[labels_N] + torch.randn(num_samples, NUM_FEATURES, generator=generator), labels_N)


class Jittered(Dataset[dict[str, Tensor]]):
    """Blobs with random noise on every reading, as augmentation does it, in dicts."""

    def __init__(self, num_samples: int) -> None:
        self._blobs = blobs(num_samples)

    def __len__(self) -> int:
        return len(self._blobs)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        features_F, label = self._blobs[row]
        return {"features": features_F + 0.3 * torch.randn(NUM_FEATURES), "label": label}


def cross_entropy(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def dict_cross_entropy(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["features"]), batch["label"])


def class_weighted(model: nn.Module, batch: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """A mean whose unit is not the sample: class c counts c + 1 times, as sequences of different length do."""
    weights_N = batch[1] + 1.0
    losses_N = nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
    return (losses_N * weights_N).sum() / weights_N.sum(), weights_N.sum()


def accuracy(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    right_N: Tensor = model(batch[0]).argmax(1) == batch[1]
    return right_N.float().mean()


# --- runs -------------------------------------------------------------------------------------------------------------------------------


def trainer(folder: Path, model: Any = linear, loss: Any = cross_entropy, data: Any = None, **options: Any) -> Trainer:
    """A small job: two workers, one shard, plain SGD; `options` go to the `Trainer`."""
    defaults: dict[str, Any] = {
        "optimizer": {"sgd": {"lr": 0.1}},
        "batch_size": 20,
        "until": {"epochs": 2},
        "strategy": "sync",
        "scaling_config": WorkerGroup(count=2, max_count=4, num_cpus=0.5),
    }
    return Trainer(model, loss, blobs(100) if data is None else data, folder=folder / "run", **{**defaults, **options})


def shell_processes(kind: str | None = None) -> list[psutil.Process]:
    """Processes of this Ray that run one of our actors; `kind` is the class, None for all."""
    names = [f"ray::{each}" for each in (SHELLS if kind is None else (kind,))]
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            title = process.cmdline()
        except psutil.NoSuchProcess:
            continue
        if title and title[0].startswith(tuple(names)):
            found.append(process)
    return found


@contextmanager
def started(job: Trainer, begin: Callable[[], Run] | None = None) -> Iterator[Run]:
    """A run that is let go of whatever happens to the test; afterwards no thread of the driver is left, and no actor where none is kept.

    Args:
        begin: what starts it, `job.start` by default.
    """
    threads = set(threading.enumerate())
    run = (begin or job.start)()
    actors = shell_processes()
    try:
        yield run
        result = run.result()
        check(job, result)
    finally:
        if run._result is None:
            ray.kill(run._coordinator)
    if not RESERVE.keeping:
        assert_released(actors)
    left = {thread for thread in set(threading.enumerate()) - threads if thread.is_alive()}
    assert not left, f"threads left in the driver: {left}"


def process_of(job: Trainer, log: str) -> psutil.Process:
    """The process of a running job whose log has that name: `shard0`, `shard0-replica1`, `validator`, `w3`."""
    (line,) = [line for line in (Path(job.job.run_dir) / "logs" / f"{log}.log").read_text().splitlines() if f"{log} is process" in line]
    return psutil.Process(int(line.split()[3]))


def assert_released(actors: Sequence[psutil.Process] = ()) -> None:
    """No process of an actor is left."""
    _, alive = psutil.wait_procs([*actors, *shell_processes()], timeout=RELEASE_TIMEOUT_S)
    assert not alive, f"still running after the end: {alive}"


def fit(job: Trainer) -> Result:
    """Train to the end and check what must always hold."""
    with started(job) as run:
        return run.result()


def wait_for(run: Run, condition: Callable[[Snapshot], bool], what: str) -> Snapshot:
    """The first snapshot for which the condition holds.

    Raises:
        AssertionError: the run ended before.
    """
    for snapshot in run.watch(0.05):
        if condition(snapshot):
            return snapshot
    raise AssertionError(f"the run ended before {what}: {run.progress}")


def check(job: Trainer, result: Result) -> None:
    """What holds after every run, whatever happened to it."""
    summary = result.summary
    assert summary is not None
    assert not summary.problems(), summary.problems()
    assert read_result(Path(str(result.path))) == summary
    assert sum(epoch.applied + epoch.unselected + epoch.rejected for epoch in summary.epochs) == summary.samples
    assert result.metrics is not None
    assert result.metrics["samples"] == summary.samples


# --- references -------------------------------------------------------------------------------------------------------------------------


@dataclass
class Reference:
    """Plain PyTorch in one process: what a strategy must equal."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    losses: list[float]
    """On the test data, at every version."""

    def parameters(self) -> dict[str, Tensor]:
        return {name: tensor.detach() for name, tensor in self.model.named_parameters()}


def batches_of(job: Trainer, batch_size: int, epochs: int) -> Iterator[Any]:
    """The batches of the run's data order, one a step."""
    size = job.job.brain.num_positions
    for epoch in range(epochs):
        for start in range(0, size, batch_size):
            yield job.job.loader.load(Positions(epoch, start, min(start + batch_size, size)))


def reference(
    job: Trainer,
    model: Callable[[], nn.Module],
    optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    *,
    epochs: int = 2,
    batch_size: int = 20,
    factor: Callable[[int], float] = lambda samples: 1.0,
    max_grad_norm: float | None = None,
    test: Sequence[Tensor] | None = None,
) -> Reference:
    """Train on the concatenated batches.

    Args:
        factor: of the learning rate, by the samples seen before the step.
        test: what the losses of all versions are measured on.
    """
    torch.manual_seed(job.job.seed)
    made = model()
    stepper = optimizer(made)
    rates = [group["lr"] for group in stepper.param_groups]
    outcome = Reference(made, stepper, [])

    def measure() -> None:
        if test is not None:
            with torch.no_grad():
                outcome.losses.append(float(cross_entropy(made, test)))

    measure()
    samples = 0
    for batch in batches_of(job, batch_size, epochs):
        for group, rate in zip(stepper.param_groups, rates, strict=True):
            group["lr"] = rate * factor(samples)
        stepper.zero_grad()
        returned = job.job.loss(made, batch)
        loss: Any = returned[0] if isinstance(returned, tuple) else returned
        loss.backward()
        if max_grad_norm is not None:
            nn.utils.clip_grad_norm_(made.parameters(), max_grad_norm)
        stepper.step()
        samples += batch_size
        measure()
    return outcome


def row(snapshot: Snapshot, worker: str) -> WorkerRow:
    """What is shown of a worker."""
    return next(each for each in snapshot.workers if each.id == worker)


def accepted(snapshot: Snapshot, worker: str) -> int:
    """Accepted updates of a worker that may not have joined yet."""
    return sum(each.accepted for each in snapshot.workers if each.id == worker)


def computing(snapshot: Snapshot) -> bool:
    """Whether anybody computes or an update waits for its verdict."""
    return snapshot.updates.in_flight > 0 or any(row.state == "computing" for row in snapshot.workers)


def wait_for_end(run: Run) -> None:
    for _ in run.watch(0.2):
        pass


def measured(job: Trainer, metric: str) -> dict[int, float]:
    """A metric by version, as the run recorded it."""
    rows = read_run(job.job.run_dir).metrics
    rows = rows[rows["name"] == metric]
    return dict(zip(rows["version"].tolist(), rows["value"].tolist(), strict=True))


def verdicts(job: Trainer) -> list[tuple[Any, ...]]:
    """(work id, worker, verdict, reason, samples, staleness) of every update, as the run recorded them."""
    rows = read_run(job.job.run_dir).timeline
    return list(rows[["work_id", "worker", "verdict", "reason", "samples", "staleness"]].itertuples(index=False, name=None))


def assert_replay(job: Trainer) -> None:
    """The run's log, given to a new brain, leads to the same verdicts in the same order, the same books and the same end."""
    defaults = job.job.strategy_defaults
    brain = Brain(
        job.job.brain, strategies.build(job.job.strategy, defaults), rules=Rules(), build=lambda spec: strategies.build(spec, defaults)
    )
    commands = []
    for logged in read_events(job.job.run_dir):
        commands += brain.handle(wire.decode(logged.body), now_ns=logged.now_ns)
        brain.check()
    told = [
        (str(each.work_id), f"w{each.worker}", each.verdict, each.reason, each.samples, each.staleness)
        for each in commands
        if isinstance(each, p.Verdict)
    ]
    result = read_result(job.job.run_dir)
    assert result is not None
    assert told == [(str(work_id), *rest) for work_id, *rest in verdicts(job)]
    assert (brain.finished, brain.samples, brain.version.number) == (result.stopped, result.samples, result.versions)
    assert brain.ledger.counts.as_dict() == asdict(result.updates)

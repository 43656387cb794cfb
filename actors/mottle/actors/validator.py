"""The validator: reference gradients on trusted data, and the metrics of published versions, off the critical path."""

import gc
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import ray
import torch

from mottle import compression
from mottle.actors.exchange import Exchange
from mottle.actors.held_out import read_rows
from mottle.actors.importing import keep_imported
from mottle.actors.job import Job
from mottle.actors.lifeline import Lifeline
from mottle.actors.link import ShardLink, Shards, ways_to
from mottle.actors.logs import Output
from mottle.actors.reports import Reports, RunHandle
from mottle.actors.scoring import descents
from mottle.checkpoint import folder_of, write_model
from mottle.core import protocol as p
from mottle.core.assessments import reader
from mottle.core.brain import VALIDATOR
from mottle.core.layout import Range
from mottle.core.rotation import merged
from mottle.data import derive_seed, draw_rows
from mottle.data.source import Source
from mottle.engines import TorchEngine
from mottle.engines.rotation import Models
from mottle.storage import Folder

EVALUATION_BATCH = 256


REMEMBERED = 8
"""Answers that are given again to a coordinator that did not hear them; it has no more questions open."""

Order = p.Refresh | p.Score | p.Evaluate | p.SaveModel


class Validator:
    """A validator's process. It keeps nothing that it could not get again: every order brings a reference to what it is about.

    So one that dies is made anew by Ray, and its calls are repeated. What a coordinator that took over asks again is answered from memory,
    for the version that it is about may be gone by then.

    Args:
        coordinator: that made it, and with which it ends.
    """

    def __init__(self, coordinator: Any = None) -> None:
        keep_imported()
        self._lifeline = Lifeline(coordinator)
        self._answers: OrderedDict[tuple[str, Order], p.Event | None] = OrderedDict()
        self._about: ray.ObjectRef[Any] | None = None
        self._session: Session | None = None
        self._output = Output()

    def ready(self, about: list[Any]) -> list[str]:
        """Answered once the validator stands: what people should know of its lines.

        Args:
            about: a one-element list with a reference to what `Session` takes.
        """
        return self._of(about).troubles

    def refresh(self, about: list[Any], order: p.Refresh) -> None:
        """See `Session.refresh`."""
        self._answer(about, order, Session.refresh)

    def score(self, about: list[Any], order: p.Score) -> None:
        """See `Session.score`."""
        self._answer(about, order, Session.score)

    def evaluate(self, about: list[Any], order: p.Evaluate) -> None:
        """See `Session.evaluate`."""
        self._answer(about, order, Session.evaluate)

    def save_model(self, about: list[Any], order: p.SaveModel) -> None:
        """See `Session.save_model`."""
        self._answer(about, order, Session.save_model)

    def _answer(self, about: list[Any], order: Any, find: Callable[["Session", Any], p.Event | None]) -> None:
        session = self._of(about)
        key = session.run, order
        if key not in self._answers:
            self._answers[key] = find(session, order)
            while len(self._answers) > REMEMBERED:
                self._answers.popitem(last=False)
        if (answer := self._answers[key]) is not None:
            session.tell(answer)

    def rest(self) -> None:
        """Forget the run."""
        if self._session is not None:
            self._session.close()
            self._output.close()
        self._session = self._about = None
        gc.collect()

    def _of(self, about: list[Any]) -> "Session":
        (reference,) = about
        if self._session is None or self._about != reference:
            self.rest()
            job, shards, run = ray.get(reference)
            self._output.keep(job.run_dir, "validator", run.log)
            self._session, self._about = Session(job, shards, run), reference
        return self._session


class Session:
    """A validator's part in one run, with a model of its own; one call at a time.

    Args:
        job: the run.
        shards: replicas of each shard, primary first.
        run: that is told.
    """

    def __init__(self, job: Job, shards: Shards, run: RunHandle) -> None:
        torch.set_num_threads(job.threads_per_worker)
        self._job = job
        self._reports = Reports(run)
        with_lines = any(replica.door for replicas in shards.values() for replica in replicas)
        self._exchange = Exchange(hear=lambda messages: None) if with_lines else None
        ways, self.troubles = ways_to(shards, self._exchange, "validator")
        """What people should know of its lines."""
        self._shards = ShardLink(ways, job.layout.cut(len(shards)), np.dtype(job.layout.dtype).itemsize, VALIDATOR)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._engine = TorchEngine(job.model(), job.loss, job.model_layout, device, job.micro_batch_size)
        self._models = None if job.rotation is None else Models(job.rotation, self._engine)
        self._codec = compression.build("identity")

    def close(self) -> None:
        """Let the lines go."""
        if self._exchange is not None:
            self._exchange.close()

    @property
    def run(self) -> str:
        """The run's token."""
        return self._reports.to.run

    def refresh(self, order: p.Refresh) -> p.RefreshFailed | None:
        """Gradient of the mean loss over trusted samples at a version, pushed to the shards under the order's name, which tell of it."""
        try:
            self._shards.load(self._engine, order.name, order.version.number)
            self._push(order.name, self._reference(order))
        except Exception as error:
            print(traceback.format_exc(), flush=True)
            return p.RefreshFailed(order.name, f"{type(error).__name__}: {error}")
        return None

    def score(self, order: p.Score) -> p.Scored:
        """By how much each update of a round would lower the loss on trusted data."""
        try:
            return p.Scored(order.request, descents(order, self._job, self._engine, self._shards))
        except Exception as error:
            print(traceback.format_exc(), flush=True)
            return p.Scored(order.request, error=f"{type(error).__name__}: {error}")

    def evaluate(self, order: p.Evaluate) -> p.Evaluated:
        """Metrics of a version on the test data, or its loss on the trusted data."""
        try:
            self._load(reader(order.version) if order.trusted else "evaluate", order.version)
            return p.Evaluated(order.version, self.assess() if order.trusted else self.measure(), trusted=order.trusted)
        except Exception as error:
            print(traceback.format_exc(), flush=True)
            return p.Evaluated(order.version, error=f"{type(error).__name__}: {error}", trusted=order.trusted)

    def save_model(self, order: p.SaveModel) -> p.ModelSaved:
        """Write a version by name, as its part of a checkpoint."""
        try:
            self._load(f"checkpoint/{order.checkpoint}", order.version)
            tensors = self._engine.tensors() if self._models is None else self._models.tensors()
            saved = write_model(folder_of(Folder.at(self._job.run_dir), order.checkpoint), tensors)
            return p.ModelSaved(order.checkpoint, asdict(saved))
        except Exception as error:
            print(traceback.format_exc(), flush=True)
            return p.ModelSaved(order.checkpoint, error=f"{type(error).__name__}: {error}")

    def _load(self, reader: str, version: p.Version) -> None:
        """Read a version from all shards, as `reader`."""
        self._shards.load(self._engine if self._models is None else self._models, reader, version.number)

    def measure(self) -> dict[str, float]:
        """Mean loss and metrics of the version last loaded, named `test_...`; of several models those of each, and of the best."""
        if self._job.test is None:
            return {}
        if self._models is None:
            return self._measure(self._job.test)
        if self._job.validation is None:
            return merged([self._measure(self._job.test) for _ in self._models.each()])
        both = [(self._measure(self._job.test), self.assess()["loss"]) for _ in self._models.each()]
        return merged([measured for measured, _ in both], [loss for _, loss in both])

    def _measure(self, test: Source) -> dict[str, float]:
        measured = self._engine.evaluate(self._batches(test), self._job.metrics)
        return {f"test_{name}": value for name, value in measured.items()}

    def assess(self) -> dict[str, float]:
        """Mean loss on all of the trusted data of the version last loaded."""
        if self._job.validation is None:
            raise ValueError("the strategy wants losses on trusted data, and the job has no validation data")
        return {"loss": self._engine.evaluate(self._batches(self._job.validation), {})["loss"]}

    # --- parts ------------------------------------------------------------------------------------------------------------------------

    def _batches(self, source: Source) -> Iterator[tuple[Any, int]]:
        for start in range(0, source.num_rows, EVALUATION_BATCH):
            rows = np.arange(start, min(start + EVALUATION_BATCH, source.num_rows))
            yield read_rows(self._job, source, rows, "test/sample"), len(rows)

    def _reference(self, order: p.Refresh) -> torch.Tensor:
        """Mean gradient over samples drawn without replacement, seeded by run and name, so that a repeated order gives the same vector."""
        source = self._job.validation
        if source is None:
            raise ValueError("the strategy wants a reference gradient, and the job has no validation data")
        number = int(order.name.rpartition("/")[2])
        rows = draw_rows(source.num_rows, order.num_samples, order.seed, "validation", number)
        self._engine.zero()
        done = self._engine.accumulate(
            lambda start, stop: read_rows(self._job, source, rows[start:stop], "validation/sample", number),
            0,
            len(rows),
            seed_of_position=lambda position: derive_seed(order.seed, "validation/model", number, position),
        )
        return self._engine.update() / done.weight

    def _push(self, name: str, vector_D: torch.Tensor) -> None:
        def encode(_: int, owned: Range) -> Any:
            return self._codec.encode(vector_D[owned.start : owned.stop].cpu(), None)[0]

        self._shards.push(name, encode, samples=1)

    def tell(self, event: p.Event) -> None:
        """Have the coordinator hear it."""
        self._reports.tell([event])

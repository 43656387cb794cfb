"""A synthetic run of six workers, written through the real record: the story of the main example without training."""

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from mottle.observe import (
    EpochResult,
    PeakRss,
    RunEvent,
    RunRecord,
    RunResult,
    Snapshot,
    UpdateCounts,
    WorkerAccounting,
    WorkerResult,
    WorkerRow,
    write_result,
)

BATCH, DATASET, EPOCHS = 32, 1437, 10
TOTAL = DATASET * EPOCHS


@dataclass
class FakeWorker:
    """One worker of the synthetic fleet."""

    id: str
    samples_per_s: float
    joined_s: float = 0.0
    hostile: bool = False
    left_s: float | None = None
    base: int = 0
    samples: int = 0
    staleness: int | None = None
    verdicts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("accepted", "unselected", "rejected", "discarded"), 0))
    spent_s: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("accepted", "unselected", "rejected", "discarded"), 0.0))

    def row(self) -> WorkerRow:
        state = "killed" if self.left_s is not None else "computing"
        return WorkerRow(
            id=self.id,
            device="cpu",
            state=state,
            samples=self.samples,
            samples_per_s=self.samples_per_s,
            staleness=self.staleness,
            **self.verdicts,
        )


class FakeRun:
    """Steps a fleet update by update; `moments` keeps a snapshot of each step."""

    def __init__(self, *, defended: bool, seed: int, name: str, strategy: str) -> None:
        self.name, self.strategy, self.defended = name, strategy, defended
        self.rng = np.random.default_rng(seed)
        self.workers = {
            w.id: w for w in (FakeWorker("w0", 260), FakeWorker("w1", 250), FakeWorker("w2", 255, hostile=True), FakeWorker("w3", 64))
        }
        self.samples, self.version, self.t_s = 0, 0, 0.0
        self.metrics = {"test_accuracy": 0.1}
        self.events: list[RunEvent] = []
        self.moments: list[Snapshot] = []
        self.queue: list[tuple[float, str]] = []

    def go(self, record: RunRecord) -> RunResult:
        for worker in list(self.workers.values()):
            self.join(record, worker)
        next_evaluation = 0
        while self.samples < TOTAL:
            self.t_s, id_ = heapq.heappop(self.queue)
            worker = self.workers[id_]
            if worker.left_s is None:
                self.decide(record, worker)
            if self.samples >= next_evaluation:
                self.evaluate(record)
                next_evaluation += TOTAL // 40
            self.script(record)
            self.moments.append(self.snapshot())
        self.tell(record, "finished", None, f"{TOTAL:,} samples spent")
        self.moments.append(self.snapshot())
        return self.result()

    def join(self, record: RunRecord, worker: FakeWorker) -> None:
        worker.joined_s, worker.base = self.t_s, self.version
        self.workers[worker.id] = worker
        self.tell(record, "joined", worker.id, "cpu, takes its first lease")
        self.push_later(worker)

    def push_later(self, worker: FakeWorker) -> None:
        heapq.heappush(self.queue, (self.t_s + BATCH / worker.samples_per_s * self.rng.uniform(0.85, 1.2), worker.id))

    def decide(self, record: RunRecord, worker: FakeWorker) -> None:
        verdict, reason, score = self.verdict(worker)
        worker.staleness = self.version - worker.base
        worker.samples += BATCH
        worker.verdicts[verdict] += 1
        worker.spent_s[verdict] += BATCH / worker.samples_per_s * 0.8
        record.decided(
            t_s=self.t_s,
            work_id=len(self.moments),
            worker=worker.id,
            samples=BATCH,
            staleness=worker.staleness,
            verdict=verdict,
            reason=reason,
            score=score,
        )
        record.delivered(t_s=self.t_s, worker=worker.id, samples=BATCH)
        if verdict != "discarded":
            self.samples = min(TOTAL, self.samples + BATCH)
        self.version += verdict == "accepted"
        if worker.verdicts["rejected"] == 5 and verdict == "rejected" and worker.hostile:
            self.tell(record, "rejected_streak", worker.id, "5 updates in a row rejected: they point against the trusted gradient")
        worker.base = self.version
        self.push_later(worker)

    def verdict(self, worker: FakeWorker) -> tuple[str, str, float | None]:
        score = float(self.rng.normal(-8.0, 1.0) if worker.hostile else self.rng.normal(0.6, 0.3))
        if self.version - worker.base > 24:
            return "discarded", "older than 24 versions", None
        if self.defended and score < 0:
            return "rejected", f"score {score:.2f} below 0", score
        return "accepted", "score passes" if self.defended else "no test", score

    def evaluate(self, record: RunRecord) -> None:
        share = self.samples / TOTAL
        good = 0.985 - 0.87 * math.exp(-9 * share) + float(self.rng.normal(0, 0.004))
        bad = 0.1 + 0.12 * math.exp(-((share - 0.1) ** 2) / 0.01) + float(self.rng.normal(0, 0.01))
        self.metrics = {
            "test_accuracy": min(1.0, good if self.defended else bad),
            "test_loss": 2.3 * math.exp(-4 * share) + 0.05 if self.defended else 2.3 + 6 * share,
        }
        record.measured(t_s=self.t_s, samples=self.samples, version=self.version, values=self.metrics)

    def script(self, record: RunRecord) -> None:
        if self.samples >= 0.3 * TOTAL and self.workers["w1"].left_s is None:
            self.workers["w1"].left_s = self.t_s
            self.tell(record, "killed", "w1", "its process is gone; a lease of 32 samples went back")
        if self.samples >= 0.5 * TOTAL and "w4" not in self.workers:
            for id_ in ("w4", "w5"):
                self.join(record, FakeWorker(id_, 255))
            self.tell(record, "checkpoint", None, f"version {self.version} saved")

    def tell(self, record: RunRecord, kind: str, worker: str | None, text: str) -> None:
        self.events.append(RunEvent(t_s=self.t_s, kind=kind, worker=worker, text=text))
        record.noticed(self.events[-1])

    def counts(self) -> UpdateCounts:
        return UpdateCounts(**{verdict: sum(w.verdicts[verdict] for w in self.workers.values()) for verdict in self.workers["w0"].verdicts})

    def snapshot(self) -> Snapshot:
        return Snapshot(
            run=self.name,
            strategy=self.strategy,
            codec="bf16",
            samples=self.samples,
            total_samples=TOTAL,
            epoch=min(EPOCHS - 1, self.samples // DATASET),
            version=self.version,
            wall_s=self.t_s,
            metrics=dict(self.metrics),
            workers=tuple(worker.row() for worker in self.workers.values()),
            events=tuple(self.events),
            updates=self.counts(),
        )

    def result(self) -> RunResult:
        return RunResult(
            run=self.name,
            strategy=self.strategy,
            codec="bf16",
            stopped=f"all {TOTAL:,} samples were spent",
            metrics=dict(self.metrics),
            samples=self.samples,
            versions=self.version,
            updates=self.counts(),
            epochs=tuple(EpochResult(index=i, applied=DATASET, unselected=0, rejected=0, missed=0, repeated=0) for i in range(EPOCHS)),
            workers=tuple(
                WorkerResult(
                    id=w.id,
                    device="cpu",
                    joined_s=w.joined_s,
                    left_s=w.left_s,
                    left_reason=None if w.left_s is None else "killed",
                    samples=w.samples,
                    **w.verdicts,
                )
                for w in self.workers.values()
            ),
            accounting={w.id: self.accounting(w) for w in self.workers.values()},
            wall_s=self.t_s,
            peak_rss_bytes=PeakRss(coordinator=214 << 20, shard=188 << 20, worker=402 << 20),
        )

    def accounting(self, worker: FakeWorker) -> WorkerAccounting:
        present_s = (self.t_s if worker.left_s is None else worker.left_s) - worker.joined_s
        spent = worker.spent_s
        useful_s, waiting_s = spent["accepted"] + spent["unselected"], present_s - sum(spent.values())
        return WorkerAccounting(
            useful_s=useful_s, waiting_s=waiting_s, stale_s=spent["discarded"], rejected_s=spent["rejected"], redone_s=0.0
        )


def write_fake_run(where: Path, *, defended: bool = True, compact: bool = True, ended: bool = True) -> FakeRun:
    """Writes a whole run folder; without `compact` or `ended` it looks like one whose processes were killed."""
    run = FakeRun(defended=defended, seed=7, name=where.name, strategy="zeno++" if defended else "plain asynchronous averaging")
    record = RunRecord(where)
    result = run.go(record)
    record.flush()
    if compact:
        record.compact()
    if ended:
        write_result(where, result)
    return run


@pytest.fixture(scope="session")
def write_run() -> Callable[..., FakeRun]:
    """`write_fake_run`, for tests that need a folder of their own."""
    return write_fake_run


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run; tests only read it."""
    where = tmp_path_factory.mktemp("runs") / "demo"
    write_fake_run(where)
    return where


@pytest.fixture(scope="session")
def baseline_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same fleet without a defence."""
    where = tmp_path_factory.mktemp("runs") / "plain"
    write_fake_run(where, defended=False)
    return where


@pytest.fixture(scope="session")
def last_snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """What the user sees when that run ends."""
    return write_fake_run(tmp_path_factory.mktemp("runs") / "demo").moments[-1]

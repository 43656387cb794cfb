"""A worker of three killed with SIGKILL: Mottle, Ray Train's elastic mode and torchft side by side, on the same toy job and machine.

    pip install --target others --no-deps torchft==0.2.0 \\
        opentelemetry-exporter-otlp-proto-http==1.45.2 opentelemetry-exporter-otlp-proto-common==1.45.2 \\
        opentelemetry-exporter-otlp-common==0.66b2 opentelemetry-exporter-http-transport==0.66b2
    PYTHONPATH=others python benchmarks/elastic.py [--rounds 2] [--only mottle ray torchft]

torchft is no dependency and is left out where it is not installed; its versions of OpenTelemetry are those that Ray brings along.

The job is that of `failures.py`: a linear model, 15 samples a step, 10 ms a sample, so 50 ms a step with three workers; one dies after 40
steps. Ray Train: `ScalingConfig(num_workers=(1, 3))`, `FailureConfig(max_failures=3)`, a checkpoint every 10 steps, DDP over gloo.
torchft: three groups of one, a lighthouse with `heartbeat_timeout_ms=2000` and `join_timeout_ms=1000`, gradients averaged over its gloo. A
pause is the longest time in which no worker ends a step; a step is redone when it ends once more after the pause, or is computed and not
committed. Of Mottle's steps most are of the two workers that are left, who share the 15 samples.
"""

import argparse
import importlib.util
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import ray
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from failures import BATCH, KILL_AT, STEPS, disturbed, kill, squares, worker
from table import tell
from torch import Tensor, nn

SAMPLE_S = 0.01
CHECKPOINT_STEPS = 10
HEARTBEAT_TIMEOUT_MS = 2000


@dataclass(frozen=True)
class Pause:
    """One run with a death in it."""

    usual_s: float
    longest_s: float
    redone: int
    """Steps of the crew that were computed again."""


@dataclass(frozen=True)
class Mark:
    """A worker ended a step."""

    at_s: float
    pid: int
    step: int
    committed: bool


class Marks:
    """Where the workers of a run note their steps: a file each, for they are processes that may die."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def add(self, step: int, committed: bool = True) -> None:
        with (self.folder / f"{os.getpid()}.marks").open("a") as file:
            file.write(f"{time.monotonic()} {step} {int(committed)}\n")

    def all(self) -> list[Mark]:
        """In the order of time."""
        found = []
        for path in self.folder.glob("*.marks"):
            for line in path.read_text().splitlines():
                at_s, step, committed = line.split()
                found.append(Mark(float(at_s), int(path.stem), int(step), committed == "1"))
        return sorted(found, key=lambda mark: mark.at_s)

    def kill_one(self) -> None:
        """The worker whose process is the youngest, when it has ended enough steps."""
        while not (ready := [mark.pid for mark in self.all() if mark.step >= KILL_AT]):
            time.sleep(0.01)
        os.kill(max(ready), signal.SIGKILL)

    def pause(self) -> Pause:
        marks = self.all()
        done = [mark for mark in marks if mark.committed]
        if done[-1].step < STEPS - 1:
            raise SystemExit(f"nobody lived to end the job: the last step was {done[-1].step} of {STEPS - 1}")
        gaps = [(after.at_s - before.at_s, after.at_s) for before, after in pairwise(done)]
        longest_s, ended_s = max(gaps)
        before = {mark.step for mark in done if mark.at_s < ended_s}
        again = before & {mark.step for mark in done if mark.at_s >= ended_s and mark.pid not in _pids(done, ended_s)}
        refused = {mark.step for mark in marks if not mark.committed}
        ours = [mark.at_s for mark in done if mark.pid == done[0].pid]
        usual_s = statistics.median(b - a for a, b in pairwise(ours))
        return Pause(usual_s, longest_s, len(again | refused))


def _pids(done: list[Mark], until_s: float) -> set[int]:
    """Processes that had begun by then: one that lives on ends its step after the others, and redoes none."""
    return {mark.pid for mark in done if mark.at_s < until_s}


def work(model: nn.Module, step: int, rank: int, size: int) -> Tensor:
    """A worker's share of a step's samples, which take their time; the gradients are there when this returns."""
    generator = torch.Generator().manual_seed(step)
    inputs, targets = torch.randn(BATCH, 32, generator=generator), torch.randn(BATCH, 8, generator=generator)
    mine = slice(rank * BATCH // size, (rank + 1) * BATCH // size)
    time.sleep(SAMPLE_S * len(inputs[mine]))
    loss = squares(model, [inputs[mine], targets[mine]])
    loss.backward()
    return loss


# --- Mottle -------------------------------------------------------------------------------------------------------------------------------


def with_mottle() -> Pause:
    outcome = disturbed(partial(kill, worker), 0)
    return Pause(outcome.usual_s, outcome.longest_s, outcome.repeated // BATCH)


# --- Ray Train ----------------------------------------------------------------------------------------------------------------------------


def ray_loop(config: dict[str, Any]) -> None:
    import ray.train.torch

    context, marks = ray.train.get_context(), Marks(config["folder"])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = ray.train.torch.prepare_model(nn.Linear(32, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    first = 0
    if (saved := ray.train.get_checkpoint()) is not None:
        with saved.as_directory() as folder:
            state = torch.load(f"{folder}/state.pt")
        model.load_state_dict(state["model"])
        first = state["step"] + 1
    for step in range(first, STEPS):
        optimizer.zero_grad()
        work(model, step, context.get_world_rank(), context.get_world_size())
        optimizer.step()
        marks.add(step)
        if (step + 1) % CHECKPOINT_STEPS == 0:
            with tempfile.TemporaryDirectory() as folder:
                if context.get_world_rank() == 0:
                    torch.save({"model": model.state_dict(), "step": step}, f"{folder}/state.pt")
                    ray.train.report({}, checkpoint=ray.train.Checkpoint.from_directory(folder))
                else:
                    ray.train.report({})


def with_ray_train() -> Pause:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    with tempfile.TemporaryDirectory() as folder:
        marks = Marks(folder)
        trainer = TorchTrainer(
            ray_loop,
            train_loop_config={"folder": folder},
            scaling_config=ScalingConfig(num_workers=(1, 3), resources_per_worker={"CPU": 1}),
            run_config=RunConfig(name="elastic", storage_path=f"{folder}/storage", failure_config=FailureConfig(max_failures=3)),
        )
        threading.Thread(target=marks.kill_one, daemon=True).start()
        trainer.fit()
        return marks.pause()


# --- torchft ------------------------------------------------------------------------------------------------------------------------------


def torchft_group(group: int, lighthouse: str, folder: str) -> None:
    """One replica group.

    torchft's own wrapper of DDP fails an assertion where a collective fails, which ends every survivor (0.2.0 with torch 2.13).
    So gradients are averaged through its manager.
    """
    from torchft import Manager, Optimizer, ProcessGroupGloo

    torch.set_num_threads(1)
    torch.manual_seed(0)
    marks, model = Marks(folder), nn.Linear(32, 8)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def load(state: dict[str, Any]) -> None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])

    manager = Manager(
        pg=ProcessGroupGloo(timeout=timedelta(seconds=10)),
        load_state_dict=load,
        state_dict=lambda: {"model": model.state_dict(), "optimizer": optimizer.state_dict()},
        min_replica_size=2,
        rank=0,
        world_size=1,
        store_addr="127.0.0.1",
        store_port=store.port,
        lighthouse_addr=lighthouse,
        replica_id=f"group{group}",
        hostname="127.0.0.1",
    )
    guarded = Optimizer(manager, optimizer)
    while (step := manager.current_step()) < STEPS:
        guarded.zero_grad()
        work(model, step, group, 3)
        for averaged in [manager.allreduce(parameter.grad) for parameter in model.parameters() if parameter.grad is not None]:
            averaged.wait()
        guarded.step()
        marks.add(step, committed=manager.current_step() > step)
    manager.shutdown(wait=False)


def with_torchft() -> Pause:
    from torchft.coordination import LighthouseServer

    lighthouse = LighthouseServer(
        bind="127.0.0.1:0", min_replicas=2, join_timeout_ms=1000, quorum_tick_ms=100, heartbeat_timeout_ms=HEARTBEAT_TIMEOUT_MS
    )
    with tempfile.TemporaryDirectory() as folder:
        marks, spawn = Marks(folder), mp.get_context("spawn")
        groups = [spawn.Process(target=torchft_group, args=(group, lighthouse.address(), folder)) for group in range(3)]
        for group in groups:
            group.start()
        marks.kill_one()
        for group in groups:
            group.join()
        lighthouse.shutdown()
        return marks.pause()


SYSTEMS: dict[str, tuple[str, Callable[[], Pause]]] = {
    "mottle": ("Mottle", with_mottle),
    "ray": ("Ray Train elastic", with_ray_train),
    "torchft": ("torchft", with_torchft),
}


def told(name: str, pauses: list[Pause]) -> str:
    longest = " and ".join(f"{each:.2f}" for each in sorted(pause.longest_s for pause in pauses))
    redone = " and ".join(str(each) for each in sorted(pause.redone for pause in pauses))
    usual_s = statistics.median(pause.usual_s for pause in pauses)
    return f"{name}: pause {longest} s with steps of {usual_s:.3f} s, {redone} steps redone"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=list(SYSTEMS), choices=SYSTEMS)
    arguments = parser.parse_args()
    if "torchft" in arguments.only and importlib.util.find_spec("torchft") is None:
        arguments.only.remove("torchft")
        print("torchft is not installed and left out; see the head of this script", flush=True)
    ray.init(address="local", num_cpus=8, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    lines = []
    for system in arguments.only:
        name, measure = SYSTEMS[system]
        pauses = []
        for _ in range(arguments.rounds):
            pauses.append(measure())
            print(f"{name}: {pauses[-1]}", flush=True)
        lines.append(told(name, pauses))
    tell("a worker of 3 killed, the same toy job in each, steps of 50 ms", "; ".join(lines), "pause under one step, none redone")
    return 0


if __name__ == "__main__":
    sys.exit(main())

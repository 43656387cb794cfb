"""A model in stages: how long a pipeline runs empty, and how well its step is predicted.

    python benchmarks/pipeline.py [--parts bubble predicted]

`bubble` starts a gang of four stages on a local Ray and lets it run rounds of micro-batches. A stage's forward pass takes `--delay`
seconds longer than it would, its backward pass twice that; a stage is busy while a pass runs. The formula is (S-1)/(M+S-1).

`predicted` has two processes with a core and a thread each time the ops of a model, the loss and the way to each other (both at once),
cuts the model into two stages, and has the simulator that judges placements run the schedule; then the same processes run the stages, and
tensors go over gloo. A core that sends or receives does not compute meanwhile. Medians of `--looks` such turns.
"""

import argparse
import statistics
from collections import defaultdict
from itertools import product
from tempfile import TemporaryDirectory
from typing import Any

import ray
import torch
from staged import ENTRIES, Pair, capture_of, perceptron
from table import tell
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from mottle.actors.gang import Gang
from mottle.actors.job import Job
from mottle.actors.launching import environment
from mottle.actors.reports import RunHandle
from mottle.core.worker import RunPart
from mottle.engines.placed import PlacedConfig
from mottle.placement.pipeline import SCHEDULES, ScheduleName, bubble
from mottle.placement.staging import cut_stages, predict_step
from mottle.sdk import Trainer, WorkerGroup

STAGES = 4


def cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


# --- bubbles ----------------------------------------------------------------------------------------------------------------------------


class Nobody:
    """In a coordinator's place: what is logged is for nobody."""

    class log:  # noqa: N801  # as Ray has methods
        @staticmethod
        def remote(*arguments: Any) -> None: ...


class Leader:
    """A gang without a crew."""

    def __init__(self, job: Job) -> None:
        me = ray.get_runtime_context().current_actor
        self._gang = Gang(0, job, job.groups[0], {0: []}, {0: []}, None, RunHandle(Nobody(), ""), me)
        self._gang.form()

    def rounds(self, count: int, samples: int) -> list[float]:
        """Share of each round in which the stages were idle."""
        idle = []
        for _ in range(count):
            self._gang.clear(None)
            self._gang.compute(RunPart(0, 0, 0, 0, samples, 1.0), lambda: False)
            counted = self._gang.counted
            wall_ns = max(each.wall_ns for each in counted)
            idle.append(1 - sum(each.busy_ns for each in counted) / (len(counted) * wall_ns))
        return idle[1:]


def report_bubbles(delay_s: float, rounds: int, counts: list[int]) -> None:
    data = TensorDataset(torch.randn(64, 16), torch.zeros(64, dtype=torch.int64))
    ray.init(address="local", num_cpus=STAGES, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    print(f"{STAGES} stages as actors, passes of {delay_s:g} and {2 * delay_s:g} s; micro-batches, idle share, formula")
    for schedule in SCHEDULES:
        found = []
        for microbatches in counts:
            engine = {"placed": {"stages": STAGES, "schedule": schedule, "microbatches": microbatches, "stage_delay_s": delay_s}}
            with TemporaryDirectory() as folder:
                job = Trainer(
                    perceptron(width=16),
                    cross_entropy,
                    data,
                    optimizer={"sgd": {"lr": 0.1}},
                    batch_size=microbatches,
                    micro_batch_size=1,
                    until={"epochs": 1},
                    strategy="sync",
                    scaling_config=WorkerGroup(engine=engine),
                    folder=folder,
                ).job
                leader = ray.remote(Leader).options(num_cpus=1, runtime_env=environment()).remote(job)
                idle = statistics.median(ray.get(leader.rounds.remote(rounds + 1, microbatches)))
                ray.kill(leader)
            wanted = bubble(STAGES, microbatches)
            print(f"{schedule:6} {microbatches:3} {idle:.3f} {wanted:.3f} {idle / wanted - 1:+.1%}", flush=True)
            found.append(f"{idle:.3f} with {microbatches} micro-batches, formula {wanted:.3f} ({idle / wanted - 1:+.1%})")
        tell(f"idle share of {STAGES} stages as actors, {schedule}, declared delays", "; ".join(found), "formula within 10 %")
    ray.shutdown()


# --- predicted against measured ---------------------------------------------------------------------------------------------------------


def report_prediction(models: list[str], counts: list[int], rounds: int, looks: int) -> None:
    """The machine's speed wanders within seconds, so that looking and running take turns."""
    torch.set_num_threads(1)
    print("two processes with a core each; model, schedule, micro-batches, predicted ms, measured ms")
    for name in models:
        times: dict[tuple[ScheduleName, int], list[tuple[float, float]]] = defaultdict(list)
        with Pair(name) as pair:
            captured = capture_of(ENTRIES[name])
            for _ in range(looks):
                members, links = zip(*pair.ask("look"), strict=True)
                for schedule, microbatches in product(SCHEDULES, counts):
                    config = PlacedConfig(stages=2, schedule=schedule, microbatches=microbatches)
                    cut = cut_stages(captured, members, microbatches, link=links[0], activations="keep")
                    predicted = predict_step(cut, schedule, microbatches, links[0], overlap=False).makespan
                    measured = statistics.median(map(max, zip(*pair.ask("run", cut, config, rounds), strict=True)))
                    times[schedule, microbatches].append((predicted / 1e6, measured / 1e6))
                    print(f"{name:10} {schedule:6} {microbatches:3} {predicted / 1e6:6.1f} {measured / 1e6:6.1f}", flush=True)
        found = []
        for (schedule, microbatches), pairs in times.items():
            predicted_ms, measured_ms = map(statistics.median, zip(*pairs, strict=True))
            apart = statistics.median(predicted / measured - 1 for predicted, measured in pairs)
            found.append(f"{schedule}, {microbatches} micro-batches: {predicted_ms:.0f} for {measured_ms:.0f} ms ({apart:+.1%})")
        tell(
            f"predicted step of two stages in two processes with a core each, {name}, against the measured one",
            "; ".join(found),
            "within 20 %",
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=["bubble", "predicted"], default=["bubble", "predicted"])
    parser.add_argument("--delay", type=float, default=0.1)
    parser.add_argument("--microbatches", nargs="+", type=int, default=[8])
    parser.add_argument("--models", nargs="+", choices=list(ENTRIES), default=list(ENTRIES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--looks", type=int, default=3)
    options = parser.parse_args()
    if "bubble" in options.parts:
        report_bubbles(options.delay, options.rounds, options.microbatches)
    if "predicted" in options.parts:
        report_prediction(options.models, options.microbatches, options.rounds, options.looks)


if __name__ == "__main__":
    main()

"""A model in stages: how long a pipeline runs empty, and how well its step is predicted.

    python benchmarks/pipeline.py [--parts bubble predicted]

`bubble` starts a gang of four stages on a local Ray and lets it run rounds of micro-batches. A stage's forward pass takes `--delay`
seconds longer than it would, its backward pass twice that; a stage is busy while a pass runs. The formula is (S-1)/(M+S-1).

`predicted` measures the ops of a perceptron one by one, in two processes at once with a core and a thread each, cuts it into two stages,
and has the simulator that judges placements run the schedule; then the stages run in two such processes, and tensors go over gloo.
"""

import argparse
import multiprocessing as mp
import os
import statistics
from tempfile import TemporaryDirectory
from typing import Any

import ray
import torch
from table import tell
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from mottle.actors.channels import Formation, GlooChannel, call_store, open_store
from mottle.actors.gang import Gang
from mottle.actors.job import Job
from mottle.actors.launching import environment
from mottle.actors.reports import RunHandle
from mottle.core.worker import RunPart
from mottle.engines import layout_of
from mottle.engines.placed import Part, PlacedConfig, StageEngine, captured_call
from mottle.placement import Device, Link, measure, simulate
from mottle.placement.pipeline import SCHEDULES, StageCost, as_problem, bubble
from mottle.placement.staging import Cut, Member, cut_stages
from mottle.placement.tracing.rates import cpu_class
from mottle.sdk import Trainer, WorkerGroup

STAGES = 4
WIDTH, DEPTH, BATCH = 512, 8, 256


def cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def perceptron(width: int, depth: int) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, width))


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
                    perceptron(16, 8),
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


def build() -> nn.Module:
    torch.manual_seed(0)
    return perceptron(WIDTH, DEPTH)


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(BATCH, WIDTH, generator=generator), torch.randint(WIDTH, (BATCH,), generator=generator)


def run_stage(stage: int, port: int, cut: Cut, config: PlacedConfig, rounds: int, answers: Any) -> None:
    os.sched_setaffinity(0, {stage % (os.cpu_count() or 1)})
    torch.set_num_threads(1)
    store = call_store("127.0.0.1", port)
    part = Part(loss=cross_entropy, layout=layout_of(build()), micro_batch_size=BATCH, config=config)
    engine = StageEngine(build(), part, captured_call(build(), cross_entropy, batch()), cut, stage)
    engine.join(GlooChannel(Formation(0, (0, 1), "127.0.0.1", port), stage, store, "127.0.0.1"))
    given = batch()
    times = []
    for _ in range(rounds + 1):
        engine.zero()
        engine.accumulate(lambda low, high: given, 0, config.microbatches * BATCH, seed_of_position=lambda position: 0)
        times.append(engine.timing.wall_ns)
    answers.put((stage, statistics.median(times[1:])))


def measure_ops(core: int, together: Any, answers: Any) -> None:
    os.sched_setaffinity(0, {core % (os.cpu_count() or 1)})
    torch.set_num_threads(1)
    captured = captured_call(build(), cross_entropy, batch())
    together.wait()
    answers.put((core, measure(captured, "cpu", repeats=25)))


def measured_members(context: Any) -> list[Member]:
    """Both processes measure at once, as they will compute: cores may share what they compute with."""
    answers, together = context.Queue(), context.Barrier(2)
    processes = [context.Process(target=measure_ops, args=(core, together, answers)) for core in range(2)]
    for process in processes:
        process.start()
    tables = dict(answers.get(timeout=600) for _ in processes)
    for process in processes:
        process.join()
    return [Member(cpu_class(1, 1 << 33), measured=tables[core]) for core in range(2)]


def report_prediction(rounds: int) -> None:
    torch.set_num_threads(1)
    context = mp.get_context("spawn")
    captured, members = captured_call(build(), cross_entropy, batch()), measured_members(context)
    print(f"perceptron of {DEPTH + 1} layers of {WIDTH}, micro-batches of {BATCH}, two processes with a core each")
    print("schedule, micro-batches, predicted ms, measured ms")
    for schedule in SCHEDULES:
        found = []
        for microbatches in (4, 8):
            config = PlacedConfig(stages=2, schedule=schedule, microbatches=microbatches)
            cut = cut_stages(captured, members, microbatches)
            predicted_ms = predict_ms(cut, config)
            store = open_store("127.0.0.1")
            answers = context.Queue()
            stages = [context.Process(target=run_stage, args=(s, store.port, cut, config, rounds, answers)) for s in range(2)]
            for process in stages:
                process.start()
            measured_ms = max(answers.get(timeout=600)[1] for _ in stages) / 1e6
            for process in stages:
                process.join()
            apart = measured_ms / predicted_ms - 1
            print(f"{schedule:6} {microbatches:3} {predicted_ms:.0f} {measured_ms:.0f} {apart:+.1%}", flush=True)
            found.append(f"{measured_ms:.0f} ms with {microbatches} micro-batches, predicted {predicted_ms:.0f} ms ({apart:+.1%})")
        tell(f"a step of two stages in two processes, {schedule}, real computing", "; ".join(found), "predicted within 20 %")


def predict_ms(cut: Cut, config: PlacedConfig) -> float:
    """A round of the schedule, in the simulator; ticks are nanoseconds, loopback takes 0.1 ms and 2 GB/s."""
    sent = [*cut.sent, 0]
    costs = [StageCost(forward, backward, sent=size) for (forward, backward), size in zip(cut.times_ns, sent, strict=True)]
    devices = [Device(f"stage{s}", "x", 1 << 40) for s in range(cut.num_stages)]
    problem, home, priority = as_problem(config.schedule, costs, config.microbatches, devices, Link(100_000, 2_000_000_000))
    return simulate(problem, home, priority).makespan / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=["bubble", "predicted"], default=["bubble", "predicted"])
    parser.add_argument("--delay", type=float, default=0.1)
    parser.add_argument("--microbatches", nargs="+", type=int, default=[8])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if "bubble" in options.parts:
        report_bubbles(options.delay, options.rounds, options.microbatches)
    if "predicted" in options.parts:
        report_prediction(options.rounds)


if __name__ == "__main__":
    main()

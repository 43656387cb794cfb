"""A fleet from a record: of a simulated run, whose fleet is known, and of a real one."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from mottle import strategies
from mottle.core import protocol as p
from mottle.core import wire
from mottle.core.brain import Brain
from mottle.core.config import BrainConfig
from mottle.core.errors import ConfigError
from mottle.observe.events import EventLog
from mottle.simulate import Fault, Fleet, Lognormal, Simulation, Synthetic, Workers, fleet_yaml, read_fleet
from mottle.simulate.recorded import fleet_of_run


def record(folder: Path, fleet: Fleet, *, batch: int = 8, samples: int = 8000) -> None:
    """Simulate, and leave the log that a live run would have left."""
    log = EventLog(folder)
    brain = Brain(BrainConfig(num_positions=samples, max_samples=samples), strategies.build("async", {"batch_size": batch}))

    def note(event: p.Event, commands: list[p.Command]) -> None:
        log.append(run.num_brain_events, run.clock.now_ns, type(event).__name__, wire.encode(event))

    run = Simulation(brain, fleet, Synthetic(1000), on_event=note)
    run.run()
    log.compact()


def test_the_fleet_of_a_simulated_run_comes_back(tmp_path: Path) -> None:
    fleet = Fleet(
        workers=(Workers(name="fast", count=2, sample_s=0.01, latency_s=0.02), Workers(name="slow", sample_s=0.05, latency_s=0.1)),
        faults=(
            Fault(kind="crash", worker="fast-1", at_s=10.5),
            Fault(kind="join", group="slow", at_s=20.25),
            Fault(kind="leave", worker="slow-0", at_s=30),
        ),
        detect_s=0,
    )
    record(tmp_path, fleet)
    found, note = fleet_of_run(tmp_path)
    assert found.workers == fleet.workers
    assert [(fault.kind, fault.worker, fault.group) for fault in found.faults] == [
        ("crash", "fast-1", None),
        ("join", None, "slow"),
        ("leave", "slow-0", None),
    ]
    assert [fault.at_s for fault in found.faults] == pytest.approx([10.5, 20.25, 30], abs=0.5)
    assert found.workload is not None
    assert found.workload.batch_size == 8
    assert "4 workers" in note


def test_a_varying_speed_comes_back_with_its_mean_and_spread(tmp_path: Path) -> None:
    record(tmp_path, Fleet(workers=(Workers(count=4, sample_s=Lognormal(median_s=0.01, sigma=0.4)),)), samples=40_000)
    time = fleet_of_run(tmp_path)[0].workers[0].sample_s
    assert isinstance(time, Lognormal)
    assert time.median_s == pytest.approx(0.01, rel=0.05)
    assert time.sigma == pytest.approx(0.4, rel=0.05)


def test_unequal_workers_of_one_group_become_several(tmp_path: Path) -> None:
    """A live group is what a job calls alike; its machines need not be."""
    groups = tuple(Workers(name=f"g{i}", sample_s=sample_s) for i, sample_s in enumerate((0.04, 0.01, 0.011)))
    record(tmp_path, Fleet(workers=groups), samples=4000)
    found, _ = fleet_of_run(tmp_path)
    assert [(group.name, group.sample_s) for group in found.workers] == [("g0", 0.04), ("g1", 0.01), ("g2", 0.011)]
    log = tmp_path / "one-group"
    copied = EventLog(log)
    from mottle.observe.events import read_events

    for event in read_events(tmp_path):
        body = {**event.body, "group": "gpus"} if event.kind == "Joined" else event.body
        copied.append(event.seq, event.now_ns, event.kind, body)
    copied.compact()
    found, _ = fleet_of_run(log)
    assert [(group.name, group.count) for group in found.workers] == [("gpus", 2), ("gpus2", 1)]
    assert found.workers[1].sample_s == 0.04


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="workers delivered updates"):
        fleet_of_run(tmp_path)


def loss(model: nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
    return nn.functional.mse_loss(model(batch[0]), batch[1])


def model() -> nn.Module:
    return nn.Linear(4, 1)


def test_a_real_run_gives_a_fleet_that_can_be_simulated(tmp_path: Path, local_ray: None) -> None:
    from mottle.actors.job import WorkerGroup
    from mottle.sdk import Trainer

    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(240, 4, generator=generator), torch.randn(240, 1, generator=generator))
    Trainer(
        model,
        loss,
        data,
        optimizer={"sgd": {"lr": 0.01}},
        batch_size=8,
        until={"epochs": 1},
        strategy="async",
        scaling_config=[WorkerGroup(name="quick", num_cpus=0.1), WorkerGroup(name="slow", num_cpus=0.1, delay_s=0.005)],
        folder=tmp_path / "run",
    ).fit()
    found, note = fleet_of_run(tmp_path / "run")
    file = tmp_path / "fleet.yaml"
    file.write_text(fleet_yaml(found, note=note))
    fleet = read_fleet(file)
    assert fleet == found
    assert [group.name for group in fleet.workers] == ["quick", "slow"]
    slow = fleet.group("slow").sample_s
    assert (slow.median_s if isinstance(slow, Lognormal) else slow) > 0.0045
    brain = Brain(BrainConfig(num_positions=240, max_samples=240), strategies.build("async", {"batch_size": 8}))
    run = Simulation(brain, fleet, Synthetic(0)).run()
    assert run.finished == p.Finished("samples")
    assert run.tally.workers[0].samples > run.tally.workers[1].samples

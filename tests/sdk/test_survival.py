"""A job whose rule cannot survive the faults it declares is told so; any other is left in peace."""

from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from torch import nn
from torch.utils.data import TensorDataset

from mottle.actors.job import WorkerGroup
from mottle.sdk import Trainer
from mottle.sdk.survival import survival_warning


def crew(honest: int, faulty: int, attack: Any = "sign_flip") -> list[WorkerGroup]:
    return [WorkerGroup(name="honest", count=honest), WorkerGroup(name="faulty", count=faulty, attack=attack)]


@pytest.mark.parametrize(
    ("rule", "groups", "told"),
    [
        (
            {"trimmed_mean": {"trim": 1}},
            crew(8, 2),
            "trimmed_mean survives 1 faulty of 10 workers as configured, the job has 2; declare more",
        ),
        ({"krum": {"num_byzantine": 0.2}}, crew(7, 3), "krum survives 2 faulty of 10 workers as configured, the job has 3"),
        ("median", crew(4, 6), "median survives at most 4 faulty of 10 workers, the job has 6; use zeno or fltrust"),
        ("mean", crew(9, 1), "mean survives at most 0 faulty"),
        ({"bulyan": {"num_byzantine": 2}}, crew(10, 0), "bulyan needs n >= 4f + 3"),
        ({"nnm": {"num_byzantine": 4, "inner": "krum"}}, crew(9, 1), "krum needs n >= 2f + 3"),
    ],
    ids=str,
)
def test_a_rule_that_cannot_survive_is_told_of(rule: Any, groups: list[WorkerGroup], told: str) -> None:
    warning = survival_warning(rule, groups)
    assert warning is not None
    assert told in warning


@pytest.mark.parametrize(
    ("rule", "groups"),
    [
        (None, crew(2, 8)),
        ({"trimmed_mean": {"trim": 2}}, crew(8, 2)),
        ("median", crew(6, 4)),
        ("mean", crew(10, 0)),
        ("mean", crew(2, 8, attack="honest")),
        ("mean", crew(2, 8, attack=None)),
        ({"zeno": {"trim": 6, "rho": 0.001}}, crew(4, 6)),
    ],
    ids=str,
)
def test_a_rule_that_survives_is_left_in_peace(rule: Any, groups: list[WorkerGroup]) -> None:
    assert survival_warning(rule, groups) is None


@pytest.mark.parametrize(
    ("num_byzantine", "groups", "told"),
    [
        (1, crew(3, 1), None),
        (1, crew(2, 1), "kardam needs n >= 3f + 1, got n=3 and f=1"),
        (1, crew(8, 2), "kardam survives 1 faulty of 10 workers as configured, the job has 2; declare more"),
        (0.3, crew(6, 4), "too many for it; use zeno++"),
    ],
    ids=str,
)
def test_a_strategy_that_filters_by_itself_is_held_to_its_own_condition(num_byzantine: float, groups: Any, told: str | None) -> None:
    warning = survival_warning(None, groups, {"kardam": {"num_byzantine": num_byzantine}})
    assert (warning is None) == (told is None)
    assert told is None or told in (warning or "")


def test_the_warning_reaches_those_who_watch_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainer hands it to the coordinator as a note, before anything is trained."""

    class StoppedError(Exception):
        pass

    class Coordinator:
        """Takes the place of the actor's handle."""

        @property
        def start(self) -> "Coordinator":
            return self

        def options(self, **options: Any) -> "Coordinator":
            return self

        def remote(self, me: Any, job: Any, notes: list[str], *rest: Any) -> Any:
            raise StoppedError(*notes)

    module = nn.Linear(2, 2)
    trainer = Trainer(
        module,
        lambda model, batch: model(batch[0]).sum(),
        TensorDataset(torch.ones(8, 2)),
        optimizer={"sgd": {"lr": 0.1}},
        batch_size=4,
        until={"epochs": 1},
        strategy="sync",
        rule={"trimmed_mean": {"trim": 1}},
        scaling_config=crew(3, 2),
        folder=tmp_path / "run",
    )
    monkeypatch.setattr("mottle.sdk.trainer.ensure_ray", lambda groups, address: "a local Ray")
    monkeypatch.setattr("mottle.sdk.trainer.missing_resources", lambda groups: "")
    monkeypatch.setattr("mottle.sdk.trainer.placing.make_coordinator", lambda actor, name: Coordinator())
    kill = ray.kill
    monkeypatch.setattr(ray, "kill", lambda actor: None if isinstance(actor, Coordinator) else kill(actor))
    with pytest.raises(StoppedError) as stopped:
        trainer.start()
    assert stopped.value.args[0] == "a local Ray"
    assert "trimmed_mean survives 1 faulty of 5 workers as configured" in stopped.value.args[1]

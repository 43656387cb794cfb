"""Which differences between two jobs a live run can take up, and what Ray's scheduler does with the others."""

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune import Checkpoint
from ray.tune.experiment import Trial
from tests.tune import small

from mottle.sdk import jobfile
from mottle.tune.population import PopulationBasedTraining, fixed_fields, in_place
from mottle.tune.space import job_with


def difference(folder: Path, **values: Any) -> tuple[dict[str, Any], list[str]]:
    """Of a job and the same one with other values, as a trial sees it."""
    now = jobfile.read(small.job_file(folder))
    now = job_with(now, {"strategy": {"async": {"max_staleness": 4}}, "optimizer.momentum": 0.9})
    then = job_with(now, {key.replace("__", "."): value for key, value in values.items()})
    settings, fixed = in_place(*(each.trainer(folder="unused").job for each in (now, then)))
    return settings, fixed_fields(now.data, then.data) + fixed


def test_rates_momentum_and_options_of_the_strategy_change_in_place(tmp_path: Path) -> None:
    assert difference(tmp_path) == ({}, [])
    assert difference(tmp_path, optimizer__lr=0.2, optimizer__momentum=0.5) == ({"lr": 0.2, "momentum": 0.5}, [])
    assert difference(tmp_path, strategy__max_staleness=8) == ({"strategy": {"async": {"max_staleness": 8}}}, [])
    assert difference(tmp_path, batch_size=10) == ({"strategy": {"async": {"batch_size": 10, "max_staleness": 4}}}, [])


def test_what_cannot_is_named(tmp_path: Path) -> None:
    assert difference(tmp_path, strategy="sync")[1] == ["strategy"]
    assert difference(tmp_path, optimizer={"adam": {"lr": 0.1}})[1] == ["optimizer"]
    assert difference(tmp_path, optimizer__weight_decay=0.1)[1] == ["optimizer"]
    assert difference(tmp_path, codec="bf16", seed=3, until__epochs=9)[1] == ["codec", "seed", "until"]


class Remote:
    """A method of an actor that answers at once."""

    def __init__(self, answer: Any) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._answer = answer

    def remote(self, *arguments: Any) -> Any:
        self.calls.append(arguments)
        return self._answer


def trial(name: str, lr: float, *, refusal: str = "") -> Any:
    """What Ray's scheduler knows of a trial that is running."""
    actor = SimpleNamespace(coordinator=Remote(f"coordinator of {name}"), exploit=Remote(refusal))
    made = Trial("__fake", trial_id=name, config={"optimizer.lr": lr}, stub=True)
    made.status = Trial.RUNNING
    made.temporary_state.ray_actor = actor
    return made


class Controller:
    """Ray's controller, as far as the scheduler asks it."""

    search_alg = None

    def __init__(self, trials: list[Any]) -> None:
        self._trials = trials
        self.paused: list[Any] = []

    def get_trials(self) -> list[Any]:
        return self._trials

    def pause_trial(self, trial: Any, should_checkpoint: bool = True) -> None:
        self.paused.append(trial)
        trial.status = Trial.PAUSED

    def _schedule_trial_save(self, trial: Any, result: Any = None) -> Any:
        return Checkpoint("/nowhere")


@pytest.mark.parametrize("refusal", ["", "codec cannot be changed while a run goes on"])
def test_a_loser_is_told_by_whom_the_winner_is_run_and_pauses_only_if_it_cannot_copy(monkeypatch: pytest.MonkeyPatch, refusal: str) -> None:
    monkeypatch.setattr("ray.get", lambda answer, timeout=None: answer)
    scheduler = PopulationBasedTraining(
        time_attr="training_iteration",
        metric="test_loss",
        mode="min",
        perturbation_interval=1,
        quantile_fraction=0.5,
        resample_probability=0.0,
        hyperparam_mutations={"optimizer.lr": [0.1, 0.2]},
        log_config=False,
    )
    winner, loser = trial("winner", 0.1), trial("loser", 1e-5, refusal=refusal)
    controller = Controller([winner, loser])
    for each in (winner, loser):
        scheduler.on_trial_add(controller, each)
    for iteration in (1, 2):  # the first time nobody knows who is the better one
        scheduler.on_trial_result(controller, winner, {"training_iteration": iteration, "test_loss": 0.1})
        decision = scheduler.on_trial_result(controller, loser, {"training_iteration": iteration, "test_loss": 0.9})
    ((donor, config),) = loser.temporary_state.ray_actor.exploit.calls
    assert donor == "coordinator of winner"
    assert config["optimizer.lr"] in (0.1, 0.2)
    assert loser.config["optimizer.lr"] in (0.1, 0.2)
    assert (controller.paused, scheduler.num_live, decision) == (
        ([], 1, scheduler.CONTINUE) if not refusal else ([loser], 0, scheduler.NOOP)
    )
    assert pickle.loads(pickle.dumps(scheduler.__getstate__()["_runs"])) == {}

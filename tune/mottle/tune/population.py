"""Population-based training without restarts: Ray's scheduler, whose exploit step happens inside the trials that are running.

Ray's own scheduler pauses the loser, and a new process takes up the winner's last checkpoint from storage. Here the loser's run copies the
winner's model as it is now, optimizer state included, from shard to shard, and takes the perturbed settings with it: no process starts, and
no parameter touches a disk. What cannot be changed in a live run (see `in_place`), a winner that has ended or a loser that is paused go
the way that Ray has for them; then the checkpoint counts.
"""

import logging
from collections.abc import Mapping
from typing import Any

import ray
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import PopulationBasedTraining as RaysOwn
from ray.tune.schedulers.pbt import _make_experiment_tag

from mottle.actors.job import Job
from mottle.core.naming import folded, parse

logger = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 90.0
"""Longest wait for a copy; a run gives up a fetch before."""


class PopulationBasedTraining(RaysOwn):
    """`ray.tune.schedulers.PopulationBasedTraining` with its arguments, for trials that `mottle.tune.trainable` made."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._runs: dict[str, Any] = {}
        """Coordinators by trial id."""
        self.num_live = 0
        """Exploit steps without a restart."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> Any:
        """As Ray's; first note by whom the trial is run, which it can say now that its step is over."""
        self._runs.pop(trial.trial_id, None)
        try:
            self._runs[trial.trial_id] = ray.get(trial.temporary_state.ray_actor.coordinator.remote(), timeout=ANSWER_TIMEOUT_S)
        except (AttributeError, ray.exceptions.RayError) as error:
            logger.info("%s cannot be copied from while it runs: %s", trial, error)
        return super().on_trial_result(tune_controller, trial, result)

    def _exploit(self, tune_controller: Any, trial: Any, trial_to_clone: Any) -> None:
        if not self._exploit_live(trial, trial_to_clone):
            super()._exploit(tune_controller, trial, trial_to_clone)

    def _exploit_live(self, trial: Any, winner: Any) -> bool:
        """Whether it could be done in the trials that are running."""
        donor = self._runs.get(winner.trial_id)
        if donor is None or trial.status != TuneTrial.RUNNING:
            return False
        config, _ = self._get_new_config(trial, winner)
        try:
            trouble = ray.get(trial.temporary_state.ray_actor.exploit.remote(donor, config), timeout=ANSWER_TIMEOUT_S)
        except ray.exceptions.RayError as error:
            trouble = str(error)
        if trouble:
            logger.info("%s takes up the checkpoint of %s instead of its model: %s", trial, winner, trouble)
            return False
        state = self._trial_state[trial]
        if self._log_config:
            self._log_config_on_step(state, self._trial_state[winner], trial, winner, config)
        trial.set_experiment_tag(_make_experiment_tag(state.orig_tag, config, self._hyperparam_mutations))
        trial.set_config(config)
        self._num_perturbations += 1
        self.num_live += 1
        return True

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_runs": {}}  # written down with the sweep; the runs are gone when it is read


LIVE_FIELDS = frozenset({"optimizer", "strategy", "batch_size"})
"""Fields of a job file of which a live run can change a part."""


def fixed_fields(now: Mapping[str, Any], then: Mapping[str, Any]) -> list[str]:
    """Fields of two job files that differ and that no live run can change."""
    return sorted(key for key in now.keys() | then.keys() if key not in LIVE_FIELDS and now.get(key) != then.get(key))


def in_place(now: Job, then: Job) -> tuple[dict[str, Any], list[str]]:
    """Settings of a live run that give it another job's optimizer and strategy; and what of them it cannot change.

    The learning rate, the momentum of SGD and the options of the strategy, batch size and local steps among them, can be changed.
    """
    fixed: list[str] = []
    (old, before), (new, after) = parse(now.optimizer, "optimizer"), parse(then.optimizer, "optimizer")
    changed = {option for option in before.keys() | after.keys() if before.get(option) != after.get(option)}
    live = {"lr", "momentum"} if now.server_optimizer is None else {"lr"}
    if folded(old) != folded(new) or not changed <= live & after.keys():
        fixed.append("optimizer")
    settings = {option: after[option] for option in sorted(changed & live & after.keys())}
    return settings | _strategy(now, then, fixed), fixed


def _strategy(now: Job, then: Job, fixed: list[str]) -> dict[str, Any]:
    (old, before), (new, after) = parse(now.strategy, "strategy"), parse(then.strategy, "strategy")
    if folded(old) != folded(new):
        fixed.append("strategy")
        return {}
    size = then.strategy_defaults.get("batch_size")
    if now.strategy_defaults.get("batch_size") != size:
        after = {"batch_size": size, **after}
    return {} if before == after else {"strategy": {new: after}}

"""`auto_fedrl`: rounds of local steps whose settings an agent tries out and learns while the run goes on.

A state machine around one of the family of `mottle.strategies.local_rounds`. Before each round the agent (`setting_policy.py`) draws the
workers' learning rate, their number of local steps and the rate of the server's step. After each version the loss on the trusted data is
asked for (`MeasureLoss`); by how much a round lowered it is its reward, and the agent learns from that. The answer comes while the next
round computes; only the round after that waits for it. All that is drawn comes from the seed, and all that is learnt from events, so a log
replays to the same settings.

Whoever tries settings will now and then try ruinous ones. A round that ruined the model is undone (`round_guard.py`), and one of which
nothing but numbers that are not finite came is tried again with other settings; the agent is told the least reward, and tries nothing like
it again.

The agent's rate takes the place of the job's, under the job's schedule; the server's multiplies what the round's mean adds.

Source: Guo et al. 2022, Auto-FedRL, arXiv 2203.06338; `federated.md` 2. Differs: the loss is the trusted data's and not the clients' own
mean, which liars could set; aggregation weights stay the workers' shares of the samples; the guard is ours. Neutral references: with no
setting to search it is the strategy that it is around; with `cliff: null` nothing is undone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mottle.core import strategy as s
from mottle.core.errors import ConfigError
from mottle.core.naming import Spec, parse, suggestion
from mottle.core.protocol import Version
from mottle.strategies.local_rounds import LocalRounds
from mottle.strategies.options import Usual
from mottle.strategies.round_guard import RoundGuard
from mottle.strategies.setting_policy import Floats, SettingPolicy, reward

Range = Sequence[float]
SEARCHED: Mapping[str, Range] = {"lr": (5e-4, 0.05), "local_steps": (2, 40), "server_lr": (0.5, 1.5)}
"""Settings that may be searched, and the ranges of the published code."""
LEAST_RATE = 1e-4


@dataclass(frozen=True, kw_only=True)
class AutoFedRLConfig:
    """Settings learnt on the way."""

    batch_size: int
    """Samples of one inner step, over all workers."""
    optimizer: Spec
    """Of the inner steps: the job's."""
    lr: float | None = None
    """Of the job's optimizer, for strategies that want to know it; not what is searched."""
    strategy: Spec = "local_sgd"
    """Of rounds of local steps, with its own options."""
    search: Mapping[str, Range] = field(default_factory=lambda: dict(SEARCHED))
    """Which settings are searched, each with its range: `lr` of the workers, `local_steps`, `server_lr`. The others stay as they are."""
    log: Sequence[str] = ()
    """Those of them whose range is gone through by factors: for rates of which the order of magnitude is what is sought."""
    window: int = 5  # Z
    """Rounds that the agent learns from, and that a loss is compared with."""
    cliff: float | None = 2.0
    """A round is undone after which the loss is more than so many times the median of the last `window` good ones, or no number; None: no
    round is."""
    agent_rate: float = 0.01
    """Of the agent's Adam steps."""
    seed: int = 0
    """Of what it tries."""

    def __post_init__(self) -> None:
        for name, ends in self.search.items():
            if name not in SEARCHED:
                raise ConfigError(f"auto_fedrl searches no {name!r}; {suggestion(name, SEARCHED)}")
            if not (isinstance(ends, Sequence) and len(ends) == 2 and 0 < ends[0] < ends[1]):
                raise ConfigError(f"auto_fedrl takes [low, high] with 0 < low < high for {name}, got {ends!r}")
        for name in self.log:
            if name not in self.search:
                raise ConfigError(f"auto_fedrl takes in log what it searches; {suggestion(name, self.search)}")
        if self.window < 2 or not self.agent_rate > 0 or self.seed < 0:
            raise ConfigError(
                f"auto_fedrl needs window >= 2, agent_rate > 0 and seed >= 0, got {self.window}, {self.agent_rate} and {self.seed}"
            )
        if self.cliff is not None and not self.cliff > 1:
            raise ConfigError(f"auto_fedrl needs cliff > 1, got {self.cliff}; cliff: null undoes nothing")
        self.inner()

    def inner(self) -> LocalRounds:
        """The strategy that it is around.

        Raises:
            ConfigError: it is unknown or not of the family, or a rule in it leaves the server no step to lengthen.
        """
        from mottle.strategies.catalogue import build, takes_local_steps  # which knows this module

        name, options = parse(self.strategy, "strategy")
        given = {"batch_size": self.batch_size, "optimizer": self.optimizer, **({} if self.lr is None else {"lr": self.lr})}
        made = build(self.strategy, given) if takes_local_steps(name) else None
        if not isinstance(made, LocalRounds):
            raise ConfigError(f"auto_fedrl is around strategies of rounds of local steps (local_sgd, diloco, slowmo, ...), got {name!r}")
        if options.get("rule") is not None and "server_lr" in self.search:
            raise ConfigError("a robust rule's step has no server_lr to search; leave server_lr out of search, or the rule")
        return made

    def build(self) -> "AutoFedRL":
        return AutoFedRL(self)


class AutoFedRL(Usual):
    """State machine of `auto_fedrl`."""

    barriered = True
    measures_loss = True  # and nothing else of trusted data

    def __init__(self, config: AutoFedRLConfig) -> None:
        self.config = config
        self._inner = config.inner()
        self.server_optimizer, self.companion = self._inner.server_optimizer, self._inner.companion
        ranges = {name: (float(low), float(high)) for name, (low, high) in config.search.items()}
        self._policy = SettingPolicy(ranges, window=config.window, rate=config.agent_rate, seed=config.seed, log=config.log)
        self._guard = RoundGuard(config.cliff, config.window) if config.search else None
        self._drawn: dict[int, Floats] = {}
        """By the version that a round makes: what was drawn for it."""
        self._attempt = 0
        """Times that nothing came of the round at hand but numbers that are not finite."""
        self._out: set[int] = set()
        """Orders of the round at hand."""
        self._came = self._refused = False
        """Whether any update came, and whether any was refused for its content."""
        self.settings: dict[str, float] = {}
        """Of the round at hand."""

    # --- events -----------------------------------------------------------------------------------------------------------------------

    def handle(self, event: s.StrategyEvent, view: s.View) -> list[s.Decision]:
        if self._guard is None:
            return self._inner.handle(event, view)
        match event:
            case s.LossMeasured(version, loss):
                return self._judge(self._guard, version, loss, view)
            case s.VersionPublished(version):
                told = self._guard.published(version)
                return [*told, *([] if self._guard.waits else self._begin(view))]
            case s.WorkerIdle() if self._guard.waits:
                return []
            case s.OrderIssued(work_id):
                self._out.add(work_id)
            case s.UpdateArrived(update):
                self._out.discard(update.work_id)
                self._came = True
            case s.OrderEnded(work_id, refused=refused):
                self._out.discard(work_id)
                self._refused |= refused
                self._draw_again_if_in_vain(view.version.number + 1)
        return [*map(self._set, self._inner.handle(event, view))]

    def _begin(self, view: s.View) -> list[s.Decision]:
        """A round at the newest version, as soon as there are workers and samples."""
        number = view.version.number + 1
        if number not in self._drawn:
            self._attempt = 0
        self._draw(number)
        return [*map(self._set, self._inner.handle(s.VersionPublished(view.version), view))]

    def _draw(self, number: int) -> None:
        """Settings of the round that makes this version; one whose step was skipped is tried again with the same."""
        self._out.clear()
        self._came = self._refused = False
        if number not in self._drawn:
            self._drawn[number] = self._policy.draw(number, self._attempt)
        self.settings = {name: max(LEAST_RATE, value) for name, value in self._policy.values(self._drawn[number]).items()}
        if "local_steps" in self.settings:
            steps = max(1, round(self.settings["local_steps"]))
            self.settings["local_steps"] = steps
            self._inner.config = replace(self._inner.config, local_steps=steps)

    def _draw_again_if_in_vain(self, number: int) -> None:
        """The strategy around which this is begins a round again of which nothing came: with the same settings nothing would come again."""
        if self._refused and not self._came and not self._out:
            self._policy.ruined(self._drawn.pop(number))
            self._attempt += 1
            self._draw(number)

    def _set(self, decision: s.Decision) -> s.Decision:
        match decision:
            case s.Assign(local=local) if local is not None and "lr" in self.settings:
                return replace(decision, local=replace(local, lr=self.settings["lr"]))
            case s.Apply(terms) if "server_lr" in self.settings:
                return replace(decision, terms=tuple((work_id, weight * self.settings["server_lr"]) for work_id, weight in terms))
        return decision

    def _judge(self, guard: RoundGuard, version: Version, loss: float | None, view: s.View) -> list[s.Decision]:
        """The reward goes to the round that made this version; without a loss there is none for it, nor for the next one."""
        waited, before = guard.waits, guard.before(version.number)
        judgement, told = guard.measured(version, loss)
        drawn = self._drawn.get(version.number)
        if judgement == "ruined":
            told = [s.Warn(f"{self._round_of(version)} is undone: the loss on trusted data became {loss:.3g}", kind="undone"), *told]
            if drawn is not None:
                self._policy.ruined(drawn)
        elif drawn is not None and judgement == "good" and before is not None and loss is not None:
            self._policy.learn(drawn, reward(before, loss))
        self._drawn = {each: drawn for each, drawn in self._drawn.items() if each > version.number}
        return [*told, *(self._begin(view) if waited and not guard.waits else [])]

    def _round_of(self, version: Version) -> str:
        drawn = self._drawn.get(version.number)
        tried = {} if drawn is None else self._policy.values(drawn)
        return f"the round of version {version.number} ({', '.join(f'{name} {value:.3g}' for name, value in tried.items())})"

    # --- checkpoints ------------------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = {"inner": self._inner.state(), "agent": self._policy.state()}
        if self._guard is not None:
            drawn = {str(number): u_K.tolist() for number, u_K in self._drawn.items()}
            state |= {"guard": self._guard.state(), "drawn": drawn, "attempt": self._attempt}
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """A round that was out begins again with what was drawn for it."""
        self._inner.restore(state["inner"])
        taken = self._policy.restore(state["agent"])
        if self._guard is not None and "guard" in state:
            self._guard.restore(state["guard"])
            self._drawn = {int(number): np.array(u_K) for number, u_K in state["drawn"].items()} if taken else {}
            self._attempt = state["attempt"]

    def check(self) -> None:
        self._inner.check()
        if self._guard is not None:
            self._guard.check()

"""Strategies by name, staleness weights, and what every strategy must keep whatever happens to its workers."""

import pytest

from mottle import strategies
from mottle.core import protocol as p
from mottle.core.errors import ConfigError
from mottle.strategies import (
    ABSConfig,
    AsyncConfig,
    AutoConfig,
    AutoFedRLConfig,
    BackupConfig,
    DiLoCoConfig,
    DOMOConfig,
    FedAsyncConfig,
    FedBuffConfig,
    FedFixConfig,
    GradientCodingConfig,
    KardamConfig,
    LBBSPConfig,
    LocalAdaAlterConfig,
    LocalSGDConfig,
    MSGCConfig,
    SignMomentumConfig,
    SingleMergingConfig,
    SlowMoConfig,
    SLSGDConfig,
    SRSGCConfig,
    SSPConfig,
    StreamingDiLoCoConfig,
    SyncConfig,
    ZenoPPConfig,
)
from mottle.strategies.staleness import staleness_weight
from mottle.strategies.turns import Turns

# --- names ------------------------------------------------------------------------------------------------------------------------------


def test_the_names_of_job_files() -> None:
    assert strategies.catalogue() == {
        "sync": SyncConfig,
        "backup": BackupConfig,
        "lb_bsp": LBBSPConfig,
        "abs_sgd": ABSConfig,
        "async": AsyncConfig,
        "ssp": SSPConfig,
        "fedbuff": FedBuffConfig,
        "fedfix": FedFixConfig,
        "zeno++": ZenoPPConfig,
        "kardam": KardamConfig,
        "local_sgd": LocalSGDConfig,
        "diloco": DiLoCoConfig,
        "streaming_diloco": StreamingDiLoCoConfig,
        "slowmo": SlowMoConfig,
        "sign_momentum": SignMomentumConfig,
        "local_adaalter": LocalAdaAlterConfig,
        "domo": DOMOConfig,
        "slsgd": SLSGDConfig,
        "single_merging": SingleMergingConfig,
        "fedasync": FedAsyncConfig,
        "gradient_coding": GradientCodingConfig,
        "sr_sgc": SRSGCConfig,
        "m_sgc": MSGCConfig,
        "auto": AutoConfig,
        "auto_fedrl": AutoFedRLConfig,
    }


def test_values_of_the_job_fill_the_fields_that_a_strategy_has_and_its_own_options_win() -> None:
    defaults = {"batch_size": 32, "lr": 0.1, "rule": {"phocas": {}}, "unheard_of": 1}
    assert strategies.build("sync", defaults).config == SyncConfig(batch_size=32, rule={"phocas": {}})
    zeno = strategies.build({"zeno++": {"rho": 0.01, "lr": 0.5}}, defaults)
    assert zeno.config == ZenoPPConfig(batch_size=32, lr=0.5, rho=0.01)
    assert strategies.build({"async": None}, defaults).config == AsyncConfig(batch_size=32)


def test_a_misspelt_name_or_option_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'fedbuff'"):
        strategies.build("fedbuf")
    with pytest.raises(ConfigError, match="did you mean 'staleness'"):
        strategies.build({"async": {"batch_size": 1, "stalenes": "constant"}})
    with pytest.raises(ConfigError, match="needs rho"):
        strategies.build("zeno++", {"batch_size": 1, "lr": 0.1})


@pytest.mark.parametrize(
    ("spec", "barriered", "needs_validation", "max_in_flight"),
    [
        ("sync", True, False, 1),
        ("backup", True, False, 1),
        ({"async": {"max_in_flight": 2}}, False, False, 2),
        ("ssp", False, False, 1),
        ("lb_bsp", True, False, 1),
        ("abs_sgd", False, False, 2),
        ("fedbuff", False, False, 1),
        ({"fedfix": {"window_s": 1.0}}, False, False, 1),
        ({"zeno++": {"rho": 0.01}}, False, True, 1),
        ("local_sgd", True, False, 1),
        ("diloco", True, False, 1),
        ("streaming_diloco", False, False, 2),
        ("slowmo", True, False, 1),
        ("sign_momentum", True, False, 1),
        ("local_adaalter", True, False, 1),
        ("domo", True, False, 1),
        ("slsgd", True, False, 1),
        ("fedasync", False, False, 1),
    ],
)
def test_what_the_brain_asks_of_a_strategy(spec, barriered: bool, needs_validation: bool, max_in_flight: int) -> None:
    strategy = strategies.build(spec, {"batch_size": 1, "lr": 0.1, "optimizer": "sgd"})
    assert (strategy.barriered, strategy.needs_validation, strategy.max_in_flight) == (barriered, needs_validation, max_in_flight)


# --- staleness weights ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        ("constant", {0: 1.0, 3: 1.0, 1000: 1.0}),
        ({"polynomial": {"a": 0.5}}, {0: 1.0, 3: 0.5, 6: 0.226778684 / 0.6}),
        ({"hinge": {"a": 10, "b": 4}}, {0: 1.0, 3: 1.0, 4: 1.0, 6: 0.028571429 / 0.6}),
        ({"hinge": {"a": 4, "b": 2}}, {2: 1.0, 3: 0.2}),
    ],
)
def test_the_worked_values_of_the_staleness_weights(spec, values: dict[int, float]) -> None:
    weight = staleness_weight(spec)
    for staleness, value in values.items():
        assert weight(staleness) == pytest.approx(value, rel=1e-7)


@pytest.mark.parametrize("spec", ["constant", "polynomial", "hinge", {"polynomial": {"a": 0}}, {"hinge": {"a": 0.1, "b": 0}}])
def test_a_staleness_weight_is_1_at_0_and_never_grows(spec) -> None:
    weights = [staleness_weight(spec)(staleness) for staleness in range(50)]
    assert weights[0] == 1.0
    assert weights == sorted(weights, reverse=True)
    assert weights[-1] > 0


@pytest.mark.parametrize("spec", [{"polynomial": {"a": -1}}, {"hinge": {"a": -1}}, {"hinge": {"b": -1}}, "cosine", 5])
def test_impossible_staleness_weights_are_refused(spec) -> None:
    with pytest.raises(ConfigError):
        staleness_weight(spec)


# --- what a job must be like ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "job", "told"),
    [
        ({"gradient_coding": {"num_stragglers": 3}}, {"num_workers": 3}, "num_stragglers 3 needs at least 4 workers, there are 3"),
        ("gradient_coding", {"weighted_loss": True}, "return a mean over samples"),
        ("gradient_coding", {"clips_workers": True}, "max_grad_norm in place of max_grad_norm_per_worker"),
        ("gradient_coding", {"lossy_codec": True}, "code: fractional"),
    ],
)
def test_what_does_not_go_with_coded_sums_is_refused_by_name(spec, job, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        strategies.check_coded(spec, **{"num_workers": 4, **job})
    strategies.check_coded("sync", **{"num_workers": 1, **job})


@pytest.mark.parametrize(
    ("spec", "needed"),
    [
        ("sync", 1),
        ({"gradient_coding": {"num_stragglers": 3}}, 4),
        ({"sr_sgc": {"burst": 2, "window": 3, "num_stragglers": 5}}, 5),
        ({"m_sgc": {"num_stragglers": 3}}, 3),
        ({"kardam": {"num_byzantine": 2}}, 7),
        ({"kardam": {"num_byzantine": 0.3}}, 1),
    ],
)
def test_a_strategy_says_how_many_workers_must_not_be_put_away(spec, needed: int) -> None:
    assert strategies.least_workers(spec) == needed


def test_coded_sums_go_with_whatever_else_a_job_may_have() -> None:
    strategies.check_coded({"gradient_coding": {"code": "fractional"}}, num_workers=2, lossy_codec=True)


# --- turns ------------------------------------------------------------------------------------------------------------------------------


def test_a_worker_waits_for_all_its_verdicts_and_for_the_version_with_its_update() -> None:
    turns, v0, v1 = Turns(), p.Version(0, 0), p.Version(0, 1)
    assert turns.may_go(3, v0)
    turns.undecided(3)
    turns.undecided(3)
    assert not turns.may_go(3, v0)
    assert not turns.decided(3, version=1)
    assert turns.published(v1) == [], "one verdict is still to come"
    assert turns.decided(3)
    assert turns.may_go(3, v1)


def test_a_verdict_without_a_wait_wakes_nobody() -> None:
    turns = Turns()
    assert not turns.decided(3)
    turns.undecided(3)
    turns.gone(3)
    assert not turns.decided(3)


# --- every strategy ---------------------------------------------------------------------------------------------------------------------

SPECS = [
    "sync",
    {"sync": {"deadline_s": 20e-9, "quorum": 1}},
    {"backup": {"num_backups": 1}},
    "async",
    {"async": {"max_in_flight": 2, "max_staleness": 4}},
    {"ssp": {"slack": 1}},
    {"ssp": {"slack": 0, "buffered": True}},
    {"lb_bsp": {"least": 1}},
    {"abs_sgd": {"least": 2}},
    {"fedbuff": {"buffer_size": 2}},
    {"fedbuff": {"buffer_size": 3, "max_in_flight": 2}},
    {"fedfix": {"window_s": 12e-9}},
    {"zeno++": {"rho": 1e-9, "epsilon": 1e9, "refresh_every": 3}},
    {"zeno++": {"rho": 1e-9, "epsilon": 1e9, "refresh_every": 4, "ahead": 2, "max_in_flight": 2}},
    {"local_sgd": {"local_steps": 3}},
    {"local_sgd": {"local_steps": 4, "deadline_s": 12e-9, "inner_state": "reset"}},
    {"diloco": {"local_steps": 3}},
    {"streaming_diloco": {"local_steps": 4, "fragments": 2}},
    {"slowmo": {"local_steps": 2}},
    {"sign_momentum": {"local_steps": 2, "eta": 3.0}},
    {"local_adaalter": {"local_steps": 3, "lr": 0.3, "warmup_rounds": 2}},
    {"domo": {"local_steps": 3}},
    {"slsgd": {"local_steps": 3, "participants": 2, "alpha": 0.8}},
    {"auto_fedrl": {"search": {"lr": [0.005, 0.02], "local_steps": [1, 4], "server_lr": [0.5, 1.5]}}},
    {"fedasync": {"local_steps": 3, "rho": 0.1}},
    "gradient_coding",
    {"gradient_coding": {"code": "cyclic"}},
    "sr_sgc",
    {"sr_sgc": {"window": 3, "burst": 2}},
    "m_sgc",
    {"m_sgc": {"num_stragglers": 2, "window": 3}},
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_every_sample_is_used_exactly_once_while_workers_die_join_leave_and_wait(train, least_squares, spec) -> None:
    problem = least_squares(num_samples=60, dim=3, seed=9)
    numbers = {"num_positions": 60, "max_samples": 180, "num_shards": 2, "replicas": 1, "max_grad_norm": 5.0, "evaluate_every": 50}
    run = train(spec, problem, speeds=(1, 2, 5), defaults={"batch_size": 5, "lr": 0.01}, step_ns=3, **numbers)
    run.run(until=lambda: run.brain.samples >= 20)
    run.kill(1)
    run.join(1)
    run.run(until=lambda: run.brain.samples >= 60)
    run.tell(p.RemoveAsked(0))
    run.tell(p.Configured({"paused": True}))
    run.run()
    assert run.finished is None
    run.join(2)
    run.tell(p.Configured({"paused": False}))
    run.run(until=lambda: run.brain.samples >= 100)
    run.kill_replica(p.ReplicaId(0, 0))
    run.run()
    assert run.finished == p.Finished("samples")
    in_flight = run.brain.ledger.counts.in_flight
    assert set(run.used.values()) == {1}
    assert len(run.used) + 5 * in_flight >= 180
    assert in_flight == 0 or "fedbuff" in spec, "only a buffer may keep what it has not filled"
    assert problem.loss(run.params) < 0.9 * problem.loss(problem.start)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_samples_of_a_worker_that_sends_nan_are_tried_once_more_and_none_reaches_the_parameters(train, least_squares, spec) -> None:
    problem = least_squares(num_samples=40, dim=3, seed=10)
    numbers = {"num_positions": 40, "max_samples": 40, "num_shards": 2}
    spoilt = {0: lambda sum_D: sum_D * float("nan")}
    run = train(spec, problem, speeds=(1, 1, 2), tamper=spoilt, defaults={"batch_size": 4, "lr": 0.01}, **numbers).run()
    assert run.finished == p.Finished("samples")
    assert {verdict.verdict for verdict in run.verdicts if verdict.worker == 0} <= {"rejected", "discarded"}
    assert all(params.sum() == params.sum() for params in run.history.values())
    assert set(run.used.values()) == {1}
    kept = sum(order.samples for order in run.brain.ledger.undecided)
    assert len(run.used) + sum(epoch.rejected for epoch in run.brain.book.epochs) + kept == 40

"""Liars, broken machines and broken models on live Ray: what reaches the model, and what people are told."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.actors import live

from mottle.actors.fleet import CrewError
from mottle.core.errors import ConfigError
from mottle.sdk import WorkerGroup
from mottle.sdk.result import RunFailedError

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

HONEST = WorkerGroup(name="honest", count=2, num_cpus=0.5, delay_s=0.0002)
LIAR = WorkerGroup(name="liar", count=1, num_cpus=0.5, delay_s=0.0002, attack={"sign_flip": {"scale": 100}})
BROKEN = WorkerGroup(name="broken", count=1, num_cpus=0.5, delay_s=0.0002, attack={"non_finite": {"kind": "single", "coordinate": 7}})


def contested(folder: Path, strategy: Any, groups: Sequence[WorkerGroup], **options: Any) -> Any:
    return live.trainer(
        folder,
        data=live.blobs(400),
        test_data=live.blobs(100, seed=1),
        validation_data=live.blobs(100, seed=2),
        metrics={"accuracy": live.accuracy},
        strategy=strategy,
        scaling_config=list(groups),
        **{"until": {"epochs": 3}, **options},
    )


def test_zenopp_survives_a_liar_and_a_broken_machine_and_names_both(tmp_path: Path) -> None:
    job = contested(tmp_path, {"zeno++": {"rho": 0.002, "refresh_every": 5, "ahead": 2}}, [HONEST, LIAR, BROKEN], shards=2)
    result = live.fit(job)
    assert result.summary is not None
    assert result.metrics is not None
    assert result.metrics["test_accuracy"] > 0.9
    honest, other, liar, broken = result.summary.workers
    assert honest.accepted > 0
    assert other.accepted > 0
    assert (liar.accepted, broken.accepted) == (0, 0)
    told = {(worker, verdict, reason) for _, worker, verdict, reason, *_ in live.verdicts(job)}
    assert ("w2", "rejected", "fails the Zeno++ test") in told
    assert {(verdict, reason) for worker, verdict, reason in told if worker == "w3"} == {("rejected", "not finite")}
    # A rejected range is tried once more by another worker: two bad workers of four lose less than the half that they are given.
    assert sum(epoch.applied for epoch in result.summary.epochs) > 0.5 * result.summary.samples
    live.assert_replay(job)


def test_kardam_filters_a_liar_among_four_without_trusted_data(tmp_path: Path) -> None:
    """The liar begins when the warm-up is over; until then nobody is filtered."""
    liar = replace(LIAR, attack={"sign_flip": {"scale": 100, "start": 40}})
    job = contested(tmp_path, {"kardam": {"num_byzantine": 1}}, [replace(HONEST, count=3), liar], shards=2, until={"epochs": 5})
    result = live.fit(job)
    assert result.metrics is not None
    assert result.metrics["test_accuracy"] > 0.9
    told = [(worker, verdict, reason) for _, worker, verdict, reason, *_ in live.verdicts(job)]
    assert ("w3", "rejected", "fails Kardam's Lipschitz test") in told
    live.assert_replay(job)


def test_rules_with_trusted_data_survive_a_majority_of_liars(tmp_path: Path) -> None:
    """FLTrust by a reference gradient, Zeno by the losses of the candidate models; the worker's own words count for neither."""
    crew = [replace(HONEST, count=1), replace(LIAR, count=2)]
    job = contested(tmp_path, "sync", crew, rule={"fltrust": {}}, batch_size=30, shards=2)
    with live.started(job) as run:
        live.wait_for(run, lambda now: now.version >= 10, "its tenth version")
        run.set(rule={"zeno": {"trim": 2, "rho": 1e-4}})
        result = run.result()
    assert result.metrics is not None
    assert result.metrics["test_accuracy"] > 0.9
    honest, *liars = result.summary.workers
    assert honest.accepted > 10
    assert sum(liar.accepted for liar in liars) < 0.1 * honest.accepted
    live.assert_replay(job)


def test_a_robust_rule_survives_the_liar_where_the_mean_of_the_same_round_would_not(tmp_path: Path) -> None:
    """Three honest workers and one that shouts the opposite a hundred times as loud; the mean of a round points backwards."""
    crew = [replace(HONEST, count=3), LIAR]
    job = contested(tmp_path, "sync", crew, rule={"trimmed_mean": {"trim": 1}}, batch_size=40, shards=2)
    with live.started(job) as run:
        live.wait_for(run, lambda now: now.version >= 10, "its tenth version")
        run.set(rule="median", lr=0.2)  # another rule that stands a liar; the replay below has to follow
        shown = live.wait_for(run, lambda now: any(each.kind == "configured" for each in now.events), "the new rule")
        assert "lr = 0.2" in next(each.text for each in shown.events if each.kind == "configured")
        result = run.result()
    assert result.metrics is not None
    assert result.metrics["test_accuracy"] > 0.9
    live.assert_replay(job)


def test_plain_asynchronous_averaging_does_not_survive_the_liar(tmp_path: Path) -> None:
    result = live.fit(contested(tmp_path, "async", [HONEST, LIAR]))
    assert result.metrics is not None
    assert result.metrics["test_accuracy"] < 0.6


def test_samples_of_a_machine_that_sends_nan_are_used_by_another(tmp_path: Path) -> None:
    """Synchronous SGD has a gate and no test: what is not finite is rejected by name, its samples tried again by the honest workers."""
    job = contested(tmp_path, "sync", [HONEST, BROKEN])
    with live.started(job) as run:
        live.wait_for_end(run)
        assert all(tensor.isfinite().all() for tensor in run.parameters().values())
        result = run.result()
    assert result.summary is not None
    assert [(epoch.applied, epoch.rejected) for epoch in result.summary.epochs] == [(400, 0)] * 3
    broken = result.summary.workers[2]
    assert broken.accepted == 0
    assert broken.rejected > 0
    live.assert_replay(job)


# --- what cannot be trained at all ------------------------------------------------------------------------------------------------------


def test_a_model_that_fails_on_every_batch_ends_the_run_with_the_reason(tmp_path: Path) -> None:
    job = live.trainer(tmp_path, live.NeedsADevice)
    with live.started(job) as run:
        result = run.result()
    assert isinstance(result.error, RunFailedError)
    assert "no such device on this host" in str(result.error)
    log = (tmp_path / "run" / "logs" / "w0.log").read_text()
    assert "in forward" in log, "the whole traceback is in the worker's log"
    assert "OSError: no such device on this host" in log


def test_a_crew_that_cannot_start_says_why_and_leaves_nothing_behind(tmp_path: Path) -> None:
    job = live.trainer(tmp_path, live.NeedsAFile)
    with pytest.raises(CrewError, match=r"could not start: .*no weights on this host"):
        job.start()
    live.assert_released()


def test_missing_resources_are_named_with_what_the_cluster_has(tmp_path: Path) -> None:
    before = live.shell_processes()
    job = live.trainer(tmp_path, scaling_config=WorkerGroup(count=3, num_cpus=8, resources={"fpga": 1}))
    with pytest.raises(ConfigError, match=r"needs 24 CPU \(the cluster has 16\), 3 fpga \(the cluster has 0\)"):
        job.start()
    assert live.shell_processes() == before


def test_colluders_need_a_channel_that_only_the_job_can_open(tmp_path: Path) -> None:
    spy = replace(LIAR, attack={"ipm": {"epsilon": 2.0}})
    with pytest.raises(ConfigError, match=r"'ipm' looks at other workers' updates.*collusion=True"):
        contested(tmp_path, "sync", [HONEST, spy])


def test_colluders_that_see_the_honest_updates_turn_the_mean_around_and_not_the_median(tmp_path: Path) -> None:
    """Inner-product manipulation with q=2, h=3: the mean of the round points backwards for epsilon above h/q = 1.5; not the median."""
    crew = [replace(HONEST, count=3), replace(LIAR, count=2, attack={"ipm": {"epsilon": 4.0}})]
    outcomes = {}
    for name, rule in (("mean", None), ("median", "median")):
        job = contested(tmp_path / name, "sync", crew, rule=rule, batch_size=40, collusion=True, until={"epochs": 2})
        result = live.fit(job)
        assert result.metrics is not None
        outcomes[name] = result.metrics["test_accuracy"]
    assert outcomes["mean"] < 0.4 < 0.6 < outcomes["median"]


MALFORMED = {
    "short": "not what this codec sends",
    "integer": "a payload was wanted",
    "duplicate": "",
}


def test_messages_that_break_the_protocol_are_refused_by_name_and_the_run_goes_on(tmp_path: Path) -> None:
    liars = [replace(LIAR, name=kind, attack={"malformed": {"kind": kind}}) for kind in MALFORMED]
    greedy = replace(LIAR, name="greedy", attack={"count_inflation": {"attack": {"honest": {}}, "factor": 10.0}})
    job = contested(tmp_path, "async", [replace(HONEST, count=1), *liars, greedy], until={"epochs": 2})
    result = live.fit(job)
    assert result.summary is not None
    told = defaultdict(set)
    for _, worker, verdict, reason, *_ in live.verdicts(job):
        told[worker].add((verdict, reason))
    for slot, (kind, reason) in enumerate(MALFORMED.items(), start=1):
        if kind == "duplicate":  # the first one counts
            assert {verdict for verdict, _ in told[f"w{slot}"]} <= {"accepted", "discarded"}
            continue
        assert told[f"w{slot}"], kind
        assert all(verdict == "rejected" and reason in why for verdict, why in told[f"w{slot}"]), (kind, told[f"w{slot}"])
    assert all(verdict == "rejected" and "claims" in why for verdict, why in told["w4"])
    counts = result.summary.updates
    assert (counts.in_flight, counts.lost, counts.duplicated) == (0, 0, 0)
    live.assert_replay(job)


def test_false_units_of_a_loss_that_has_its_own_are_refused_by_name(tmp_path: Path) -> None:
    """Nothing, less than nothing, no number."""
    claims = {"zero": 0, "negative": -4.0, "nan": float("nan")}
    honest = {"attack": {"honest": {}}}
    liars = [replace(LIAR, name=name, attack={"count_inflation": {**honest, "claim": claim}}) for name, claim in claims.items()]
    crew = [replace(each, num_cpus=0.2) for each in (HONEST, *liars)]
    job = contested(tmp_path, "sync", crew, loss=live.class_weighted, batch_size=50)
    result = live.fit(job)
    assert result.metrics is not None
    assert result.metrics["test_accuracy"] > 0.9
    told = defaultdict(set)
    for _, worker, verdict, reason, *_ in live.verdicts(job):
        told[worker].add((verdict, reason))
    assert told["w2"] == {("rejected", "claims a weight of 0 for a sum that is not zero")}
    assert told["w3"] == {("rejected", "claims a weight of -4.0")}
    assert told["w4"] == {("rejected", "claims a weight of nan")}
    live.assert_replay(job)


@pytest.mark.soak
def test_a_worker_that_pushes_under_another_ones_order_does_not_block_it(tmp_path: Path) -> None:
    """In a round its own order and the next worker's have numbers in a row; what it sends is for the other's number, and comes first.

    Minutes long: the last sample is lent to the squatter again and again, of whom nothing is known but the time of a first lease.
    """
    squatter = replace(LIAR, name="squatter", attack={"malformed": {"kind": "other_round"}})
    honest = [replace(HONEST, name=f"slow{i}", count=1, delay_s=0.02) for i in range(2)]
    strategy = {"sync": {"deadline_s": 0.6, "quorum": 2}}
    job = contested(tmp_path, strategy, [squatter, *honest], batch_size=60, shards=2, until={"samples": 240})
    result = live.fit(job)
    liar, *others = result.summary.workers
    assert liar.accepted == 0
    assert all(worker.accepted >= 2 and worker.rejected == 0 for worker in others)
    live.assert_replay(job)


def test_abs_sgd_with_a_robust_rule_survives_a_liar(tmp_path: Path) -> None:
    crew = [replace(HONEST, count=4, num_cpus=0.2), replace(LIAR, num_cpus=0.2)]
    job = contested(tmp_path, "abs_sgd", crew, rule={"krum": {"num_byzantine": 1}}, until={"epochs": 10})
    result = live.fit(job)
    assert result.metrics is not None
    assert result.metrics["test_accuracy"] > 0.8  # a busy machine takes fewer and larger steps
    *honest, liar = result.summary.workers
    assert sum(worker.accepted for worker in honest) > 10
    assert liar.accepted == 0
    live.assert_replay(job)

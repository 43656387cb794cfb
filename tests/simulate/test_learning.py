"""Learning mode: real gradients of a small torch model on virtual time."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from mottle import data, strategies
from mottle.aggregation.decisions import Rules
from mottle.core import protocol as p
from mottle.core.brain import Brain
from mottle.core.config import BrainConfig
from mottle.core.errors import ConfigError
from mottle.core.fragments import fragments_of
from mottle.core.strategy import Fragmented, Strategy
from mottle.engines.flat import flatten, layout_of
from mottle.simulate import Fault, Fleet, Learning, Lognormal, Simulation, TorchProblem, Workers

NUM_SAMPLES, SEED = 96, 5
SGD = {"sgd": {"lr": 0.2}}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine torch's threads wait for each other far longer than these small models take to compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, 3))


def loss(module: nn.Module, batch: list[Tensor]) -> Tensor:
    inputs, labels = batch
    return nn.functional.cross_entropy(module(inputs), labels)


def accuracy(module: nn.Module, batch: list[Tensor]) -> Tensor:
    inputs, labels = batch
    return (module(inputs).argmax(1) == labels).float().mean()


def points(seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(NUM_SAMPLES, 8, generator=generator)
    teacher = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    return TensorDataset(inputs, (inputs @ teacher).argmax(1))


def problem() -> TorchProblem:
    with torch.random.fork_rng(devices=[]):
        module = model()
        layout = layout_of(module)
        loader = data.Loader(data.build(points(1), None), seed=SEED)
        trusted, test = (data.build(points(seed), None) for seed in (2, 3))
        return TorchProblem(
            model, loss, layout, flatten(module, layout), loader,
            trusted=trusted, test=test, metrics={"accuracy": accuracy}, micro_batch_size=4, seed=SEED,
        )  # fmt: skip


FLEET = Fleet(
    workers=(Workers(name="fast", count=2, sample_s=0.001), Workers(name="spot", count=3, sample_s=Lognormal(median_s=0.003, sigma=0.5))),
    faults=(Fault(kind="crash", worker="spot-1", at_s=0.1), Fault(kind="join", group="fast", at_s=0.2)),
)


def train(spec: Any, fleet: Fleet = FLEET, *, num_shards: int = 1, codec: str = "identity", seed: int = 0, **config: Any) -> Simulation:
    config = {
        "num_positions": NUM_SAMPLES,
        "max_samples": 4 * NUM_SAMPLES,
        "evaluate_every": NUM_SAMPLES,
        "num_shards": num_shards,
        **config,
    }
    defaults = {"batch_size": 8, "lr": 0.2, "rho": 0.002, "optimizer": SGD}
    brain = Brain(BrainConfig(seed=SEED, **config), strategies.build(spec, defaults))
    numbers = Learning(problem(), brain.shards.live, optimizer=brain.strategy.server_optimizer or SGD, codec=codec)
    return Simulation(brain, fleet, numbers, micro_batch=4, seed=seed, trace=True).run()


def end(run: Simulation) -> Tensor:
    assert isinstance(run.numbers, Learning)
    return run.numbers.values(run.primaries, run.brain.version.number)


@pytest.mark.parametrize(
    "spec",
    [
        "sync",
        "async",
        {"fedbuff": {"buffer_size": 3}},
        {"zeno++": {"refresh_every": 4, "ahead": 2}},
        {"diloco": {"local_steps": 3}},
        {"fedasync": {"local_steps": 2}},
        {"single_merging": {"exchange": 0.4}},
    ],
    ids=str,
)
def test_a_run_repeats_bit_for_bit(spec: Any) -> None:
    first, second = train(spec), train(spec)
    assert first.tally == second.tally
    assert torch.equal(end(first), end(second))
    assert first.finished == second.finished == p.Finished("samples")
    assert first.tally.points[-1].metrics["test_loss"] < 0.9 * first.tally.points[0].metrics["test_loss"]


def test_one_local_step_a_round_is_synchronous_sgd() -> None:
    one, other = (train(spec, Fleet(workers=(Workers(count=2, sample_s=0.001),))) for spec in ({"local_sgd": {"local_steps": 1}}, "sync"))
    torch.testing.assert_close(end(one), end(other), rtol=1e-4, atol=1e-5)


def normalised() -> nn.Module:
    """Dropout, and running statistics."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, 3))


def test_gradient_coding_in_pairs_is_synchronous_sgd_of_half_the_crew_with_dropout_and_running_statistics(monkeypatch) -> None:
    """Whoever of a pair comes first: the same samples give the same gradient and the same statistics wherever they are computed."""
    monkeypatch.setitem(globals(), "model", normalised)
    coded = Fleet(workers=(Workers(count=4, sample_s=Lognormal(median_s=0.001, sigma=1)),))
    run = train({"gradient_coding": {"code": "fractional"}}, coded)
    plain = train("sync", Fleet(workers=(Workers(count=2, sample_s=0.001),)))
    assert torch.equal(end(run), end(plain))
    assert {verdict.slot for verdict in run.tally.judged if verdict.verdict == "accepted"} == {0, 1, 2, 3}


def test_a_cyclic_code_learns_as_synchronous_sgd_does_and_keeps_its_statistics_in_bounds(monkeypatch) -> None:
    monkeypatch.setitem(globals(), "model", normalised)
    run = train({"gradient_coding": {"code": "cyclic", "num_stragglers": 2}}, Fleet(workers=(Workers(count=4, sample_s=0.001),)))
    plain = train("sync", Fleet(workers=(Workers(count=4, sample_s=0.001),)))
    ours, theirs = (each.tally.points[-1].metrics["test_loss"] for each in (run, plain))
    assert ours == pytest.approx(theirs, rel=0.1)


def test_another_seed_meets_other_luck() -> None:
    first, second = (train("async", seed=seed).tally.judged for seed in (0, 1))
    assert [judged.now_ns for judged in first] != [judged.now_ns for judged in second]


def test_one_worker_takes_the_path_of_plain_sgd() -> None:
    run = train("sync", Fleet(workers=(Workers(sample_s=0.001),)), max_samples=2 * NUM_SAMPLES)
    own = problem()
    x = own.start.clone()
    loader = data.Loader(data.build(points(1), None), seed=SEED)
    module = model()
    for epoch in range(2):
        for start in range(0, NUM_SAMPLES, 8):
            total = torch.zeros_like(x)
            for low in (start, start + 4):
                torch.nn.utils.vector_to_parameters(x, module.parameters())
                module.zero_grad()
                torch.manual_seed(data.derive_seed(SEED, "model", epoch, low))
                loss(module, loader.load(data.Positions(epoch, low, low + 4))).backward()
                total += 4 * torch.cat([parameter.grad.flatten() for parameter in module.parameters()])
            x = x - 0.2 * total / 8
    torch.testing.assert_close(end(run), x, rtol=1e-5, atol=1e-6)


def test_fewer_bytes_take_less_time() -> None:
    slow = Fleet(workers=(Workers(count=2, sample_s=1e-5, bandwidth_bytes_per_s=1e5),))
    whole, half = (train("async", slow, codec=codec, max_samples=NUM_SAMPLES) for codec in ("identity", "bf16"))
    assert half.clock.now_ns < whole.clock.now_ns
    assert half.crew.all[0].side.up.num_bytes < 0.6 * whole.crew.all[0].side.up.num_bytes


def streamed(download: str) -> Simulation:
    """Two steady workers, of whom nothing but fragments is sent after the start."""
    spec = {"streaming_diloco": {"local_steps": 4, "fragments": 1, "overlap": 1, "download": download}}
    strategy, task = strategies.build(spec, {"batch_size": 8, "optimizer": SGD}), problem()
    assert isinstance(strategy, Fragmented)
    brain = Brain(BrainConfig(seed=SEED, num_positions=NUM_SAMPLES, max_samples=4 * NUM_SAMPLES), strategy)
    fragments = fragments_of(task.layout, strategy.fragmentation)
    numbers = Learning(task, brain.shards.live, optimizer=strategy.server_optimizer, fragments=fragments)
    return Simulation(brain, Fleet(workers=(Workers(count=2, sample_s=0.001),)), numbers).run()


def test_fragments_that_come_down_in_sixteen_bits_take_half_the_bytes_and_lead_nearly_the_same_way() -> None:
    whole, narrow = streamed("float32"), streamed("bf16")
    down = [run.crew.all[0].side.down.num_bytes for run in (whole, narrow)]
    model = problem().layout.size * 4  # read once, in full, at the start
    assert down[1] - model == (down[0] - model) // 2
    assert not torch.equal(end(narrow), end(whole))
    torch.testing.assert_close(end(narrow), end(whole), rtol=0.02, atol=0.02)


def test_the_cut_of_the_model_changes_no_bit() -> None:
    assert torch.equal(end(train("async")), end(train("async", num_shards=3)))


def test_replicas_that_die_and_are_replaced_change_no_bit() -> None:
    """One after the other, until none is left of those that held the model at the start."""
    crew = (Workers(name="fast", count=2, sample_s=0.001),)
    losses = tuple(Fault(kind="lose_replica", shard=0, replica=each, at_samples=60 * (each + 1)) for each in range(4))
    calm, stormy = (train("sync", Fleet(workers=crew, faults=faults), replicas=1) for faults in ((), losses))
    assert stormy.fired == list(losses)
    assert sorted(replica.replica for replica in stormy.brain.shards.live) == [4, 5]
    assert torch.equal(end(calm), end(stormy))


@pytest.mark.parametrize("at_samples", [5, 77, 200])
@pytest.mark.parametrize("spec", ["sync", {"diloco": {"local_steps": 3}}], ids=str)
def test_a_coordinator_that_dies_and_comes_back_changes_no_bit(spec: Any, at_samples: int) -> None:
    crew = (Workers(name="fast", count=3, sample_s=0.001),)
    deaths = tuple(Fault(kind="lose_coordinator", at_samples=at_samples + more) for more in (0, 90))
    calm, stormy = (train(spec, Fleet(workers=crew, faults=faults, detect_s=0.02), num_shards=2) for faults in ((), deaths))
    assert stormy.recovery is not None
    assert stormy.recovery.num_takeovers == 2
    assert stormy.brain.ledger.counts == calm.brain.ledger.counts
    assert torch.equal(end(calm), end(stormy))


@pytest.mark.parametrize(
    "policy",
    [{"linear": {"per_worker": 3, "ramp_steps": 9}}, {"adascale": {"per_worker": 3}}, {"noise_scale": {"most": 24, "hold_steps": 4}}],
    ids=str,
)
def test_batches_and_rates_that_follow_the_crew_are_the_same_under_another_coordinator(policy: Any) -> None:
    """Workers join and die as well, and the schedule counts progress: what was decided is in the log, and no clock has a say."""
    crew = (Workers(name="fast", count=2, sample_s=0.001), Workers(name="slow", sample_s=0.002))
    changes = (Fault(kind="join", group="fast", at_samples=90), Fault(kind="crash", worker="slow-0", at_samples=250))
    deaths = tuple(Fault(kind="lose_coordinator", at_samples=at) for at in (60, 200))
    runs = [
        train({"sync": {"batch_policy": policy}}, Fleet(workers=crew, faults=(*changes, *more), detect_s=0.02), num_shards=2)
        for more in ((), deaths)
    ]
    calm, stormy = runs
    assert stormy.recovery is not None
    assert stormy.recovery.num_takeovers == 2
    assert stormy.brain.ledger.counts == calm.brain.ledger.counts
    assert torch.equal(end(calm), end(stormy))
    assert calm.tally.points[-1].metrics["test_loss"] < 0.9 * calm.tally.points[0].metrics["test_loss"]


def test_a_target_ends_the_run() -> None:
    run = train("async", target=("test_accuracy", 0.6), max_samples=100 * NUM_SAMPLES)
    assert run.finished is not None
    assert run.finished.reason == "target test_accuracy >= 0.6"
    assert max(point.metrics["test_accuracy"] for point in run.tally.points) >= 0.6


def test_liars_of_a_fleet_are_found_out() -> None:
    liar = Workers(name="liar", count=2, sample_s=0.001, attack={"sign_flip": {"scale": 10}})
    honest = Workers(name="honest", count=3, sample_s=0.001)
    run = train({"zeno++": {"refresh_every": 4}}, Fleet(workers=(honest, liar)))
    verdicts = {judged.slot: judged.verdict for judged in run.tally.judged}
    assert {verdicts[3], verdicts[4]} == {"rejected"}
    assert run.tally.points[-1].metrics["test_loss"] < 0.9 * run.tally.points[0].metrics["test_loss"]
    alone = train("async", Fleet(workers=(honest, liar)))
    assert alone.tally.points[-1].metrics["test_loss"] > run.tally.points[-1].metrics["test_loss"]


def test_attackers_that_look_at_others_need_a_channel_and_then_manipulate_inner_products() -> None:
    """A strong inner-product attack by one of four turns the mean of every round backwards; the median of the same rounds trains."""
    crew = (Workers(name="honest", count=3, sample_s=0.001), Workers(name="spy", sample_s=0.001, attack={"ipm": {"epsilon": 10.0}}))
    with pytest.raises(ConfigError, match="open the channel with collusion: true"):
        Fleet(workers=crew)
    fleet = Fleet(workers=crew, collusion=True)
    losses = {}
    for rule in ("mean", "median"):
        brain = Brain(
            BrainConfig(seed=SEED, num_positions=NUM_SAMPLES, max_samples=4 * NUM_SAMPLES, evaluate_every=NUM_SAMPLES),
            strategies.build("sync", {"batch_size": 8, "rule": {rule: {}}}),
            rules=Rules(),
        )
        numbers = Learning(problem(), brain.shards.live, optimizer=SGD, num_workers=4, collusion=True)
        run = Simulation(brain, fleet, numbers, micro_batch=4, trace=True).run()
        assert run.finished == p.Finished("samples")
        losses[rule] = [point.metrics["test_loss"] for point in run.tally.points]
    assert losses["median"][-1] < 0.9 * losses["median"][0]
    assert not losses["mean"][-1] < losses["mean"][0]


def copying(spec: Any, donor: Simulation, settings: dict[str, Any], fleet: Fleet = FLEET, **options: Any) -> Simulation:
    """A run with a lossy codec and two layers as fragments that takes the donor's model over after one epoch."""
    assert isinstance(donor.numbers, Learning)
    config = BrainConfig(seed=SEED, num_positions=NUM_SAMPLES, max_samples=4 * NUM_SAMPLES)

    def build(spec: Any) -> Strategy:
        return strategies.build(spec, {"batch_size": 8, "lr": 0.2, "rho": 0.002, "optimizer": SGD})

    strategy, task = build(spec), problem()
    fragments = fragments_of(task.layout, strategy.fragmentation) if isinstance(strategy, Fragmented) else None
    brain = Brain(config, strategy, build=build)
    optimizer = strategy.server_optimizer or SGD
    numbers = Learning(task, brain.shards.live, optimizer=optimizer, codec="bf16", fragments=fragments)
    numbers.others["donor"] = donor.numbers.memories
    run = Simulation(brain, fleet, numbers, micro_batch=4, **options)
    run.run(until=lambda: brain.samples >= NUM_SAMPLES)
    run.tell(p.ReplaceAsked("donor", settings))
    return run.run()


@pytest.fixture(scope="module")
def donor() -> Simulation:
    run = train({"fedbuff": {"buffer_size": 3}})
    assert isinstance(run.numbers, Learning)
    for memory in run.numbers.memories.values():
        memory.run(p.Offer("donor"))
    return run


def test_a_run_that_copies_another_goes_on_from_its_model(donor: Simulation) -> None:
    """To the bit, with a rate of 0 from there on."""
    still = copying("async", donor, {"lr": 0.0})
    assert still.brain.version.lineage == 1
    assert torch.equal(end(still), end(donor))


@pytest.mark.parametrize(
    "spec",
    [
        "sync",
        {"fedasync": {"local_steps": 2}},
        {"zeno++": {"refresh_every": 4, "ahead": 2}},
        {"diloco": {"local_steps": 3}},
        {"kardam": {"num_byzantine": 1}},
    ],
    ids=str,
)
def test_workers_that_keep_something_beside_the_model_begin_anew_in_a_copied_one(spec: Any, donor: Simulation) -> None:
    run = copying(spec, donor, {})
    assert (run.brain.version.lineage, run.finished) == (1, p.Finished("samples"))
    assert torch.isfinite(end(run)).all()


@pytest.mark.parametrize("more", [4, 8, 30])
@pytest.mark.parametrize("spec", ["sync", "async", {"diloco": {"local_steps": 3}}], ids=str)
def test_a_coordinator_that_dies_while_a_model_is_copied_goes_on_from_that_model(spec: Any, more: int, donor: Simulation) -> None:
    deaths = (Fault(kind="lose_coordinator", at_samples=NUM_SAMPLES + more),)
    crew = Fleet(workers=(Workers(name="fast", count=3, sample_s=0.001),), faults=deaths, detect_s=0.02)
    run = copying(spec, donor, {"lr": 0.0}, crew)
    assert run.recovery is not None
    assert run.recovery.num_takeovers == 1
    assert (run.brain.version.lineage, run.finished) == (1, p.Finished("samples"))
    if spec != {"diloco": {"local_steps": 3}}:  # whose workers step, with another rate
        assert torch.equal(end(run), end(donor))

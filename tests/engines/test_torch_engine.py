"""The plain engine equals plain torch, recomputes anywhere the same, and leaves nothing behind when something fails."""

from collections import namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mottle.core.errors import ConfigError
from mottle.engines import Accumulated, SampleTooLargeError, TorchEngine, build, flatten, layout_of
from mottle.engines.batches import to_device
from mottle.engines.memory import is_out_of_memory

NUM_SAMPLES = 48
NUM_FEATURES = 6


def dataset(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(NUM_SAMPLES, NUM_FEATURES, generator=generator), torch.randint(0, 3, (NUM_SAMPLES,), generator=generator)


FEATURES, LABELS = dataset()


def fetch(start: int, stop: int) -> tuple[Tensor, Tensor]:
    return FEATURES[start:stop], LABELS[start:stop]


def cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def plain() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(NUM_FEATURES, 8), nn.Tanh(), nn.Linear(8, 3))


def normed() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(NUM_FEATURES, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.4), nn.Linear(8, 3))


def engine_of(model: nn.Module, loss: Callable[..., Any] = cross_entropy, micro_batch_size: int = 8, **options: Any) -> TorchEngine:
    return TorchEngine(model, loss, layout_of(model), "cpu", micro_batch_size, **options)


def seed_of_position(position: int) -> int:
    return 1000 + position


def run(engine: TorchEngine, start: int = 0, stop: int = NUM_SAMPLES, **options: Any) -> Accumulated:
    return engine.accumulate(options.pop("fetch", fetch), start, stop, seed_of_position=seed_of_position, **options)


def update_of(engine: TorchEngine, start: int = 0, stop: int = NUM_SAMPLES) -> Tensor:
    engine.zero()
    run(engine, start, stop)
    return engine.update().clone()


def test_the_update_is_the_gradient_of_the_summed_loss() -> None:
    reference = plain().double()
    (cross_entropy(reference, (FEATURES.double(), LABELS)) * NUM_SAMPLES).backward()
    expected = torch.cat([param.grad.reshape(-1) for param in reference.parameters() if param.grad is not None])
    engine = engine_of(plain(), micro_batch_size=7)
    done = run(engine)
    torch.testing.assert_close(engine.update().double(), expected, rtol=1e-5, atol=1e-5)
    loss = cross_entropy(reference, (FEATURES.double(), LABELS)).item()
    assert (done.num_samples, done.weight) == (NUM_SAMPLES, NUM_SAMPLES)
    assert done.loss_sum == pytest.approx(NUM_SAMPLES * loss, rel=1e-6)
    assert (done.micro_batch_size, done.num_out_of_memory) == (7, 0)


def test_leases_add_up_in_one_update_and_zero_forgets_them() -> None:
    engine = engine_of(plain())
    whole = update_of(engine)
    engine.zero()
    run(engine, 0, 16)
    run(engine, 16, NUM_SAMPLES)
    assert torch.equal(engine.update(), whole)
    engine.zero()
    assert not engine.update().any()


@pytest.mark.parametrize("micro_batch_size", [7, NUM_SAMPLES])
@pytest.mark.parametrize("options", [{}, {"max_grad_norm_per_worker": 0.01}])
def test_the_parts_of_any_range_are_the_update(micro_batch_size: int, options: dict[str, Any]) -> None:
    """Those of a single micro-batch are its gradients where they lie; buffers and the gap before them come along."""
    engine = engine_of(normed(), micro_batch_size=micro_batch_size, **options)
    whole = update_of(engine)
    twin = engine_of(normed(), micro_batch_size=micro_batch_size, **options)
    run(twin)
    size = engine.layout.size
    apart = micro_batch_size == NUM_SAMPLES and not options
    assert len(twin.parts(0, size)) == (len(engine.layout.parameters) + 1 if apart else 1)
    for start, stop in [(0, size), (0, 5), (3, 70), (60, 4100), (4096, size), (size, size), (0, 0)]:
        assert torch.equal(torch.cat(twin.parts(start, stop)), whole[start:stop])
    assert torch.equal(twin.update(), whole)
    with pytest.raises(RuntimeError, match="the update was taken already"):
        run(twin)


def test_parts_that_are_taken_let_nothing_be_added() -> None:
    engine = engine_of(plain(), micro_batch_size=NUM_SAMPLES)
    run(engine)
    first = [part.clone() for part in engine.parts(0, engine.layout.size)]
    with pytest.raises(RuntimeError, match="the update was taken already"):
        run(engine)
    assert all(torch.equal(old, new) for old, new in zip(first, engine.parts(0, engine.layout.size), strict=True))


def test_a_coefficient_multiplies_gradients_and_nothing_else() -> None:
    engine = engine_of(plain(), micro_batch_size=NUM_SAMPLES)
    once = update_of(engine)
    engine.zero()
    done = run(engine, coefficient=-2.0)
    assert torch.equal(engine.update(), -2 * once)
    assert done.weight == NUM_SAMPLES
    assert done.loss_sum > 0


def test_parameters_are_views_of_what_was_loaded_piece_by_piece() -> None:
    model = plain()
    engine = engine_of(model)
    published = torch.arange(engine.layout.size, dtype=torch.float32)
    for start in range(0, engine.layout.size, 10):
        engine.load(published[start : start + 10], start)
    assert torch.equal(flatten(model, engine.layout), published)
    published.zero_()
    assert flatten(model, engine.layout)[-1] == engine.layout.size - 1
    assert len({param.untyped_storage().data_ptr() for param in model.parameters()}) == 1


def test_a_module_that_writes_to_its_parameters_cannot_reach_the_published_vector() -> None:
    class Vandal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(NUM_FEATURES, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.linear(x)
            self.linear.bias.data.fill_(7.0)
            return out

    engine = engine_of(Vandal())
    published = torch.zeros(engine.layout.size)
    engine.load(published, 0)
    first = update_of(engine)
    assert not published.any()
    engine.load(published, 0)
    assert torch.equal(update_of(engine), first)


@pytest.mark.parametrize(
    ("piece", "start"),
    [
        (torch.zeros(3, dtype=torch.float64), 0),
        (torch.zeros(3, 1), 0),
        (torch.zeros(3), -1),
        (torch.zeros(10_000), 0),
        (torch.zeros(3), 10_000),
    ],
)
def test_a_misfitting_piece_is_refused_and_changes_nothing(piece: Tensor, start: int) -> None:
    model = plain()
    engine = engine_of(model)
    before = flatten(model, engine.layout)
    with pytest.raises(ValueError, match=r"a piece of the flat vector is float32, shape \(n,\), inside \[0, 83\)"):
        engine.load(piece, start)
    assert torch.equal(flatten(model, engine.layout), before)


def test_parameters_of_other_dtypes_are_copied_at_every_load() -> None:
    model = plain().to(torch.bfloat16)
    engine = engine_of(model, lambda model, batch: cross_entropy(model, (batch[0].bfloat16(), batch[1])).float())
    engine.load(torch.full((10,), 0.5), 3)
    assert flatten(model, engine.layout)[3:13].tolist() == [0.5] * 10
    update = update_of(engine)
    assert update.dtype == torch.float32
    torch.testing.assert_close(update, update_of(engine), rtol=0, atol=0)
    assert update.any()


def test_the_same_positions_give_the_same_bits_on_any_engine_and_leave_the_process_as_it_was() -> None:
    one, other = engine_of(normed()), engine_of(normed())
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = update_of(one, 8, 24)
    assert torch.equal(torch.get_rng_state(), state)
    update_of(other)
    torch.rand(3)
    assert torch.equal(update_of(other, 8, 24), first)


def test_dropout_depends_on_the_position() -> None:
    model = normed()
    engine = engine_of(model, micro_batch_size=8)
    masks: list[Tensor] = []
    model[3].register_forward_hook(lambda module, args, out: masks.append(out == 0))
    update_of(engine, 0, 16)
    assert not torch.equal(masks[0], masks[1])


def test_buffers_travel_as_weight_times_base_minus_new() -> None:
    model = normed()
    engine = engine_of(model, micro_batch_size=16)
    layout = engine.layout
    base = flatten(model, layout)
    update = update_of(engine, 0, 32)
    new = flatten(model, layout)
    tail = slice(layout.tail_start, layout.size)
    assert torch.equal(update[tail], 32 * (base[tail] - new[tail]))
    assert update[tail].any()
    assert not update[layout.num_params : layout.tail_start].any()
    reference = normed()
    reference(FEATURES[:16])
    reference(FEATURES[16:32])
    torch.testing.assert_close(new[tail], flatten(reference, layout)[tail])


def test_subtracting_the_mean_of_two_workers_buffers_gives_their_weighted_mean() -> None:
    workers = [engine_of(normed(), micro_batch_size=48), engine_of(normed(), micro_batch_size=48)]
    layout = workers[0].layout
    base = flatten(normed(), layout)
    updates = [update_of(workers[0], 0, 36), update_of(workers[1], 36, 48)]
    combined = base - (updates[0] + updates[1]) / 48
    values = [flatten(worker._model, layout) for worker in workers]
    tail = slice(layout.tail_start, layout.size)
    torch.testing.assert_close(combined[tail], (0.75 * values[0] + 0.25 * values[1])[tail])


def test_every_work_order_starts_from_the_loaded_buffers() -> None:
    engine = engine_of(normed())
    first = update_of(engine)
    assert torch.equal(update_of(engine), first)
    engine.load(torch.ones(engine.layout.size), 0)
    engine.zero()
    assert torch.equal(flatten(engine._model, engine.layout)[engine.layout.tail_start :], torch.ones(16))


def test_integer_buffers_stay_local() -> None:
    model = normed()
    engine = engine_of(model, micro_batch_size=8)
    update_of(engine)
    update_of(engine)
    assert model[1].num_batches_tracked == 12


def test_work_is_cut_at_a_micro_batch_boundary() -> None:
    engine = engine_of(plain(), micro_batch_size=5)
    answers = iter([False, False, True])
    done = run(engine, 4, 40, should_stop=lambda: next(answers))
    assert (done.num_samples, done.weight) == (10, 10.0)
    assert torch.equal(engine.update(), update_of(engine_of(plain(), micro_batch_size=5), 4, 14))


def test_work_that_is_cut_before_it_begins_adds_nothing() -> None:
    engine = engine_of(normed())
    assert run(engine, should_stop=lambda: True) == Accumulated(0, 0.0, 0.0, 8, 0)
    assert not engine.update().any()


def test_an_update_that_is_under_way_cannot_be_added_to() -> None:
    engine = engine_of(plain())
    update_of(engine)
    with pytest.raises(RuntimeError, match=r"call zero\(\) before accumulating again"):
        run(engine)


def token_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Labels of 0 are padding: the unit is what is left."""
    kept = batch[1] != 0
    return nn.functional.cross_entropy(model(batch[0])[kept], batch[1][kept]), kept.sum()


def test_a_loss_with_a_weight_counts_in_its_own_unit() -> None:
    engine = engine_of(plain(), token_loss, micro_batch_size=7)
    done = run(engine)
    kept = LABELS != 0
    reference = plain()
    (cross_entropy(reference, (FEATURES[kept], LABELS[kept])) * kept.sum()).backward()
    expected = torch.cat([param.grad.reshape(-1) for param in reference.parameters() if param.grad is not None])
    torch.testing.assert_close(engine.update(), expected, rtol=1e-4, atol=1e-5)
    assert (done.num_samples, done.weight) == (NUM_SAMPLES, int(kept.sum()))


def test_buffers_and_clipping_count_in_the_unit_of_the_loss_too() -> None:
    """A weight of 3 a sample: divided by the weight, the update is the mean that plain samples give."""
    weighted = engine_of(normed(), lambda model, batch: (cross_entropy(model, batch), 3.0 * len(batch[1])), max_grad_norm_per_worker=0.05)
    unweighted = engine_of(normed(), max_grad_norm_per_worker=0.05)
    torch.testing.assert_close(update_of(weighted) / (3 * NUM_SAMPLES), update_of(unweighted) / NUM_SAMPLES)


def test_a_batch_of_padding_counts_as_samples_and_contributes_nothing() -> None:
    engine = engine_of(plain(), lambda model, batch: (model(batch[0]).sum() * torch.nan, 0))
    done = run(engine)
    assert (done.num_samples, done.weight, done.loss_sum) == (NUM_SAMPLES, 0.0, 0.0)
    assert not engine.update().any()


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda model, batch: 1.5, "the loss must be a torch tensor, got float 1.5"),
        (lambda model, batch: None, "the loss must be a torch tensor, got NoneType None"),
        (lambda model, batch: model(batch[0]), r"the loss must be a scalar, got a tensor of shape \(8, 3\)"),
        (lambda model, batch: model(batch[0]).sum().detach(), "does not depend on a trainable parameter"),
        (lambda model, batch: torch.ones((), requires_grad=True) * 2, "depends on none of the model's trainable parameters"),
        (lambda model, batch: (model(batch[0]).sum(), -1.0), "finite and at least 0, got -1.0"),
        (lambda model, batch: (model(batch[0]).sum(), float("nan")), "finite and at least 0, got nan"),
        (lambda model, batch: (model(batch[0]).sum(), "8"), "is one number .*, got str '8'"),
        (lambda model, batch: (model(batch[0]).sum(), batch[1]), r"is one number .*, got a tensor of shape \(8,\)"),
        (lambda model, batch: (model(batch[0]).sum(), 1, 2), "got 3 values"),
    ],
)
def test_a_loss_that_is_no_mean_is_named(loss: Callable[..., Any], message: str) -> None:
    engine = engine_of(plain(), loss)
    with pytest.raises(ConfigError, match=message):
        run(engine)
    assert not engine.update().any()


def test_a_loss_of_one_element_is_a_scalar() -> None:
    engine = engine_of(plain(), lambda model, batch: cross_entropy(model, batch).reshape(1, 1))
    run(engine)
    assert torch.equal(engine.update(), update_of(engine_of(plain())))


def test_a_gradient_that_is_not_finite_goes_out_for_the_gate_to_judge() -> None:
    engine = engine_of(plain(), lambda model, batch: cross_entropy(model, batch) * torch.inf, max_grad_norm_per_worker=1.0)
    run(engine)
    assert not engine.update().isfinite().all()


def test_clipping_per_worker_bounds_the_mean_gradient_and_spares_buffers() -> None:
    free, clipped = engine_of(normed()), engine_of(normed(), max_grad_norm_per_worker=0.05)
    whole, bounded = update_of(free), update_of(clipped)
    num_params = free.layout.num_params
    assert whole[:num_params].norm() / NUM_SAMPLES > 0.05
    assert (bounded[:num_params].norm() / NUM_SAMPLES).item() == pytest.approx(0.05, rel=1e-4)
    torch.testing.assert_close(bounded[:num_params] / bounded[:num_params].norm(), whole[:num_params] / whole[:num_params].norm())
    assert torch.equal(bounded[num_params:], whole[num_params:])
    assert torch.equal(clipped.update(), bounded)
    assert torch.equal(update_of(engine_of(normed(), max_grad_norm_per_worker=1e6)), whole)


class FailOnce:
    """Fails in the middle of backward: the layers above have their gradients, those below not yet."""

    def __init__(self, error: Exception) -> None:
        self.error: Exception | None = error
        self.sizes: list[int] = []

    def __call__(self, grad: Tensor) -> None:
        self.sizes.append(len(grad))
        if self.error is not None and len(self.sizes) == 3:
            error, self.error = self.error, None
            raise error


def with_fault(model: nn.Sequential, fault: FailOnce) -> nn.Sequential:
    model[0].register_forward_hook(lambda module, args, out: out.register_hook(fault) and None)
    return model


OUT_OF_MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
    RuntimeError("std::bad_alloc"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__ + str(error)[:9])
def test_memory_that_runs_out_in_the_middle_of_backward_leaves_nothing_and_work_goes_on_in_halves(error: Exception) -> None:
    assert is_out_of_memory(error)
    fault = FailOnce(error)
    engine = engine_of(with_fault(normed(), fault), micro_batch_size=8)
    done = run(engine)
    assert fault.sizes[:4] == [8, 8, 8, 4]
    assert (done.num_samples, done.micro_batch_size, done.num_out_of_memory) == (NUM_SAMPLES, 4, 1)

    reference = engine_of(normed(), micro_batch_size=8)
    run(reference, 0, 16)
    reference.micro_batch_size = 4
    run(reference, 16, NUM_SAMPLES)
    assert torch.equal(engine.update(), reference.update())


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("out of memory"), KeyError("x")])
def test_any_other_failure_comes_out_and_leaves_nothing_of_its_micro_batch(error: Exception) -> None:
    assert not is_out_of_memory(error)
    engine = engine_of(with_fault(normed(), FailOnce(error)), micro_batch_size=8)
    with pytest.raises(type(error), match=str(error)):
        run(engine)
    assert all(param.grad is None for param in engine._model.parameters())
    assert torch.equal(engine.update(), update_of(engine_of(normed(), micro_batch_size=8), 0, 16))


def test_memory_that_runs_out_while_fetching_halves_too() -> None:
    def fetch_at_most_3(start: int, stop: int) -> tuple[Tensor, Tensor]:
        if stop - start > 3:
            raise MemoryError
        return fetch(start, stop)

    done = run(engine_of(plain(), micro_batch_size=20), fetch=fetch_at_most_3)
    assert (done.num_samples, done.micro_batch_size, done.num_out_of_memory) == (NUM_SAMPLES, 2, 3)


def test_a_sample_that_does_not_fit_by_itself_is_named() -> None:
    def fetch_all_but_one(start: int, stop: int) -> tuple[Tensor, Tensor]:
        if start <= 9 < stop:
            raise MemoryError
        return fetch(start, stop)

    with pytest.raises(SampleTooLargeError, match="the sample at position 9 does not fit into the memory of cpu by itself"):
        run(engine_of(plain()), fetch=fetch_all_but_one)


@pytest.mark.parametrize("autocast", ["bf16", "fp16"])
def test_autocast_computes_in_half_and_sums_in_full_precision(autocast: str) -> None:
    seen: list[torch.dtype] = []
    model = plain()
    model[0].register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    engine = engine_of(model, autocast=autocast)
    update = update_of(engine)
    assert set(seen) == {torch.bfloat16 if autocast == "bf16" else torch.float16}
    assert update.dtype == torch.float32
    torch.testing.assert_close(update, update_of(engine_of(plain())), rtol=0.1, atol=0.3)


def test_float16_that_overflows_is_computed_again_at_half_the_scale() -> None:
    calm, wild = engine_of(normed(), autocast="fp16"), engine_of(normed(), autocast="fp16")
    wild._scale.value = 2.0**40  # far beyond what float16 gradients hold
    expected = update_of(calm)
    assert torch.equal(update_of(wild), expected)
    assert wild._scale.value < 2.0**40


def test_float16_overflow_that_is_the_models_own_goes_out_for_the_gate() -> None:
    engine = engine_of(plain(), lambda model, batch: cross_entropy(model, batch) * torch.inf, autocast="fp16")
    run(engine, 0, 8)
    assert engine._scale.value == 1.0
    assert not engine.update().isfinite().all()


def test_sparse_gradients_are_added_where_they_belong() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(10, 3, sparse=True), nn.Linear(3, 3))
    tokens = torch.tensor([1, 3, 3, 7])
    dense = nn.Sequential(nn.Embedding(10, 3), nn.Linear(3, 3))
    dense.load_state_dict(model.state_dict())

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return torch.as_tensor(model(batch).square().mean())

    updates = []
    for each in (model, dense):
        engine = engine_of(each, loss)
        run(engine, 0, 4, fetch=lambda start, stop: tokens[start:stop])
        updates.append(engine.update())
    assert torch.equal(updates[0], updates[1])


def test_a_parameter_that_the_batch_does_not_use_gets_no_gradient() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"used": nn.Linear(NUM_FEATURES, 3), "idle": nn.Linear(2, 2)})
    engine = engine_of(model, lambda model, batch: nn.functional.cross_entropy(model["used"](batch[0]), batch[1]))
    update = update_of(engine)
    assert update[:21].any()
    assert not update[21:].any()


def test_reentrant_checkpointing_works() -> None:
    from torch.utils.checkpoint import checkpoint

    def loss(model: nn.Sequential, batch: tuple[Tensor, Tensor]) -> Tensor:
        hidden = checkpoint(model[1], model[0](batch[0]), use_reentrant=True)
        return nn.functional.cross_entropy(model[2](hidden), batch[1])

    assert torch.equal(update_of(engine_of(plain(), loss)), update_of(engine_of(plain())))


def accuracy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> float:
    return float((model(batch[0]).argmax(1) == batch[1]).float().mean())


def test_evaluation_is_the_weighted_mean_over_batches_in_evaluation_mode() -> None:
    engine = engine_of(normed())
    found = engine.evaluate([(fetch(0, 40), 40), (fetch(40, 48), 8)], {"accuracy": accuracy, "tokens": lambda model, batch: (1.0, 3)})
    reference = normed().eval()
    assert found["loss"] == pytest.approx(cross_entropy(reference, fetch(0, 48)).item(), rel=1e-5)
    assert found["accuracy"] == pytest.approx(accuracy(reference, fetch(0, 48)))
    assert found["tokens"] == 1.0


def test_evaluation_in_the_middle_of_work_changes_nothing_and_judges_the_loaded_version() -> None:
    model = normed()
    engine, undisturbed = engine_of(model), engine_of(normed())
    before = engine.evaluate([(fetch(0, 48), 48)], {})
    model[3].eval()  # a user's own choice of mode
    run(engine, 0, 16)
    run(undisturbed, 0, 16)
    model[2].eval()
    state = torch.get_rng_state()
    assert engine.evaluate([(fetch(0, 48), 48)], {}) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model] == [True, True, False, True, True]
    run(engine, 16, NUM_SAMPLES)
    run(undisturbed, 16, NUM_SAMPLES)
    assert torch.equal(engine.update(), undisturbed.update())


def test_a_module_that_counts_evaluations_finds_its_buffer_as_it_was() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(NUM_FEATURES, 3)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls = self.calls + 1  # another tensor under the name
            out: Tensor = self.linear(x)
            return out

    engine = engine_of(Counting())
    engine.evaluate([(fetch(0, 8), 8)] * 3, {})
    assert engine._model.calls == 0
    run(engine, 0, 16)
    assert engine.update()[-1] == 16 * (0 - 2)


@pytest.mark.parametrize(
    ("batches", "metrics", "message"),
    [
        ([], {}, "the data has no sample"),
        ([(fetch(0, 4), 4)], {"loss": accuracy}, 'a metric cannot be called "loss"'),
        ([(fetch(0, 4), 4)], {"logits": lambda model, batch: model(batch[0])}, r"metric 'logits' must give one number .* shape \(4, 3\)"),
        ([(fetch(0, 4), 4)], {"text": lambda model, batch: "good"}, "metric 'text' must give one number per batch, got str 'good'"),
    ],
)
def test_evaluations_that_mean_nothing_are_refused(batches: Any, metrics: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        engine_of(plain()).evaluate(batches, metrics)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"autocast": "fp8"}, "autocast is one of bf16, fp16, or left out, got 'fp8'"),
        ({"micro_batch_size": 0}, "at least 1, got 0"),
        ({"micro_batch_size": 2.5}, "an integer of at least 1, got 2.5"),
        ({"max_grad_norm_per_worker": 0.0}, "above 0, got 0.0"),
        ({"max_grad_norm_per_worker": float("nan")}, "above 0, got nan"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        engine_of(plain(), **options)


class Encoding(dict[str, int]):
    """A batch that moves itself, as those of tokenizers do."""

    moved = False

    def to(self, device: torch.device) -> "Encoding":
        self.moved = True
        return self


def test_batches_of_any_make_keep_it_when_moved() -> None:
    Pair = namedtuple("Pair", ["x", "y"])
    batch = {"pair": Pair(torch.ones(2), "text"), "list": [torch.zeros(1), 3], "tuple": (torch.zeros(1),), "encoding": Encoding(a=1)}
    moved = to_device(batch, torch.device("meta"))
    assert moved["pair"].x.is_meta
    assert moved["pair"].y == "text"
    assert moved["list"][0].is_meta
    assert moved["list"][1] == 3
    assert isinstance(moved["tuple"], tuple)
    assert moved["encoding"].moved


def test_an_engine_is_built_by_name_with_its_options() -> None:
    model = plain()
    engine = build({"torch": {"micro_batch_size": 5, "autocast": "bf16"}}, model, cross_entropy, layout_of(model), "cpu")
    done = engine.accumulate(fetch, 0, 12, seed_of_position=seed_of_position)
    assert (done.num_samples, done.micro_batch_size) == (12, 5)
    expected = engine_of(plain(), micro_batch_size=5, autocast="bf16")
    assert torch.equal(engine.update(), update_of(expected, 0, 12))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("torhc", "unknown engine 'torhc'; did you mean 'torch'"),
        ("torch", "engine 'torch' needs micro_batch_size; there is no default"),
        ({"torch": {"micro_batch": 3}}, "engine 'torch' has no option 'micro_batch'; did you mean 'micro_batch_size'"),
        ({"torch": {"micro_batch_size": 3, "autocast": "fp8"}}, "autocast is one of"),
    ],
)
def test_mistakes_in_an_engines_spec_are_named(spec: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(spec, plain(), cross_entropy, layout_of(plain()), "cpu")

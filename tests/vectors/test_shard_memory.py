"""The numbers of a shard, command by command, against plain torch on the whole vector."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mottle import compression
from mottle.aggregation.decisions import Rules
from mottle.compression.payload import Payload
from mottle.core import exactsum
from mottle.core import protocol as p
from mottle.core.errors import ProtocolError
from mottle.core.fragments import Fragments
from mottle.core.layout import BLOCK, Entry, Layout, Range, pack
from mottle.core.rotation import Rotation
from mottle.engines.rotation import one_of, side_by_side
from mottle.optim.groups import in_rotation
from mottle.optim.schedule import PiecewiseLinear
from mottle.vectors import ShardMemory, ShardSpec, Taken

# D coordinates of the whole vector
NUM_PARAMS = 2 * BLOCK + 100
NUM_BUFFERS = 7
LAYOUT = pack([Entry("weight", (NUM_PARAMS,), "float32")], [Entry("running_mean", (NUM_BUFFERS,), "float32")])
PLAIN = pack([Entry("weight", (NUM_PARAMS,), "float32")])
TAIL = LAYOUT.tail_start
SGD = {"sgd": {"lr": 0.5}}


def vector(seed: int, layout: Layout = LAYOUT) -> Tensor:
    """Random values; zeros in the gap before the buffers."""
    values_D = torch.randn(layout.size, generator=torch.Generator().manual_seed(seed))
    values_D[layout.num_params : layout.tail_start] = 0.0
    return values_D


def copied(range_D: Tensor) -> Tensor:
    """A publisher: readers of this process take a copy."""
    return range_D.clone()


def encoded(values_D: Tensor, codec: str = "identity") -> Any:
    payload, _ = compression.build(codec).encode(values_D, None)
    return payload


def stepped(values_D: Tensor, lr: float = 0.5) -> Tensor:
    """What one step with a single update of weight 1 subtracts: parameters by the rate, buffers as they are."""
    rate_D = torch.ones_like(values_D)
    rate_D[:NUM_PARAMS] = lr
    return values_D * rate_D


@dataclass
class Cut:
    """The whole vector on a number of shards, to be driven as one."""

    shards: list[ShardMemory]
    ranges: tuple[Range, ...]

    @classmethod
    def of(cls, start_D: Tensor, num_shards: int, layout: Layout = LAYOUT, **spec: Any) -> "Cut":
        ranges = layout.cut(num_shards)
        options = {"optimizer": SGD, **spec}
        shards = [
            ShardMemory(ShardSpec(layout=layout, owned=owned, **options), start_D[owned.start : owned.stop].clone(), 0, copied)
            for owned in ranges
        ]
        return cls(shards, ranges)

    def store(self, name: str, values_D: Tensor, weight: float, references: tuple[str, ...] = ()) -> list[Any]:
        return [
            shard.store(name, owned.start, owned.stop, weight, encoded(values_D[owned.start : owned.stop]), references)
            for shard, owned in zip(self.shards, self.ranges, strict=True)
        ]

    def run(self, command: p.ShardCommand) -> list[Any]:
        return [shard.run(command) for shard in self.shards]

    def read(self, number: int) -> Tensor:
        return torch.cat([shard.read(number) for shard in self.shards])

    @property
    def values(self) -> Tensor:
        return torch.cat([shard.values for shard in self.shards])


def step(number: int, source: str, scale: float, *, samples: int = 0, drop: tuple[str, ...] = ()) -> p.Step:
    return p.Step(p.Version(0, number), source, scale, samples, number - 1, drop=drop)


# --- storing and measuring --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_shards", [1, 2, 3, 5])
def test_norms_and_inner_products_are_over_the_parameters_and_the_same_for_every_cut(num_shards: int) -> None:
    first_D, second_D = vector(1), vector(2)
    cut = Cut.of(vector(0), num_shards)
    cut.store("reference/1", second_D, 1.0)
    stored = cut.store("update/0", first_D, 4.0, ("reference/1",))
    assert all(part.finite and not part.fault for part in stored)
    norm2 = sum(part.norm2 for part in stored)
    dot = sum(dict(part.dots)["reference/1"] for part in stored)
    assert exactsum.to_float(norm2) == pytest.approx(float(first_D[:NUM_PARAMS].double().square().sum()), rel=1e-6)
    assert exactsum.to_float(dot) == pytest.approx(float(first_D[:NUM_PARAMS].double() @ second_D[:NUM_PARAMS].double()), rel=1e-4)
    whole = Cut.of(vector(0), 1)
    whole.store("reference/1", second_D, 1.0)
    (of_whole,) = whole.store("update/0", first_D, 4.0, ("reference/1",))
    assert (norm2, dot) == (of_whole.norm2, dict(of_whole.dots)["reference/1"])
    answers = cut.run(p.Measure(1, (("update/0", "update/0"), ("update/0", "reference/1"))))
    assert tuple(map(sum, zip(*(answer.values for answer in answers), strict=True))) == (norm2, dot)


@pytest.mark.parametrize(("weight", "finite"), [(1e-30, True), (1e-37, False), (1e-300, False), (0.0, True), (1e300, True)])
def test_a_mean_that_overflows_for_want_of_weight_is_not_finite(weight: float, finite: bool) -> None:
    (stored,) = Cut.of(vector(0), 1).store("update/0", vector(1), weight)
    assert stored.finite is finite


@pytest.mark.parametrize("instead", ["reference/1", "", None])
def test_a_step_may_take_the_buffers_of_a_reference_or_none_at_all(instead: str | None) -> None:
    cut = Cut.of(vector(0), 2)
    cut.store("update/0", 4.0 * vector(1), 4.0)
    cut.store("reference/1", vector(2), 1.0)
    cut.run(replace(step(1, "update/0", 0.25), buffers=instead))
    moved = {"reference/1": vector(2), "": torch.zeros(LAYOUT.size), None: vector(1)}[instead]
    torch.testing.assert_close(cut.values[TAIL:], vector(0)[TAIL:] - moved[TAIL:])
    torch.testing.assert_close(cut.values[:NUM_PARAMS], vector(0)[:NUM_PARAMS] - 0.5 * vector(1)[:NUM_PARAMS])


def test_a_range_in_two_pieces_is_the_range_in_one() -> None:
    values_D = vector(1)
    memory = Cut.of(vector(0), 1).shards[0]
    parts = [memory.store("update/0", a, b, 1.0, encoded(values_D[a:b]), ()) for a, b in ((0, BLOCK), (BLOCK, LAYOUT.size))]
    (whole,) = Cut.of(vector(0), 1).store("update/0", values_D, 1.0)
    assert sum(part.norm2 for part in parts) == whole.norm2
    memory.run(step(1, "update/0", 1.0))
    assert torch.equal(memory.values, vector(0) - stepped(values_D))


@pytest.mark.parametrize("place", [3, NUM_PARAMS - 1, TAIL, LAYOUT.size - 1])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_told_wherever_it_lies(place: int, value: float) -> None:
    values_D = vector(1)
    values_D[place] = value
    stored = Cut.of(vector(0), 3).store("update/0", values_D, 1.0)
    assert [part.finite for part in stored].count(False) == 1
    assert not any(part.fault for part in stored)


def test_a_vector_too_long_to_be_measured_counts_as_not_finite() -> None:
    stored = Cut.of(vector(0), 1).store("update/0", torch.full((LAYOUT.size,), 1e30), 1.0)
    assert not stored[0].finite


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (encoded(vector(1)[:-1]), "coordinates"),
        (encoded(torch.cat([vector(1), torch.zeros(1)])), "coordinates"),
        (encoded(vector(1)[:0]), "coordinates"),
        (encoded(vector(1).double()), "bytes instead of"),
        (encoded(vector(1), "bf16"), "codec_id"),
        (Payload(0, LAYOUT.size, np.zeros(3, np.uint8), p1=32), "3 bytes instead of"),
        (Payload(0, LAYOUT.size, vector(1).numpy(), p1=32), "no contiguous row of bytes"),
        (Payload(0, "many", np.zeros(4 * LAYOUT.size, np.uint8), p1=32), "num_coordinates 'many'"),  # type: ignore[arg-type]  # hostile
        (vector(1), "a payload was wanted, got Tensor"),
        (b"\x80\x04", "a payload was wanted, got bytes"),
        (None, "a payload was wanted, got NoneType"),
    ],
)
def test_a_payload_that_does_not_fit_is_a_fault_that_says_why_and_touches_nothing_else(payload: object, said: str) -> None:
    memory = Cut.of(vector(0), 1).shards[0]
    memory.store("update/0", 0, LAYOUT.size, 1.0, encoded(vector(1)), ())
    stored = memory.store("update/1", 0, LAYOUT.size, 1.0, payload, ())
    assert not stored.finite
    assert said in stored.fault
    memory.run(p.Drop(("update/1",)))
    memory.run(step(1, "update/0", 1.0))
    assert torch.equal(memory.values, vector(0) - stepped(vector(1)))


def test_a_range_encoded_part_by_part_is_the_range_in_one() -> None:
    """Tensors of a model end anywhere; only what is said of a range must begin at a block."""
    values_D, whole, parts = vector(1), Cut.of(vector(0), 1), Cut.of(vector(0), 1)
    (expected,) = whole.store("update/0", values_D, 4.0)
    payloads = tuple(encoded(part) for part in torch.split(values_D, [3, 4097, len(values_D) - 4100]))
    assert parts.shards[0].store("update/0", 0, len(values_D), 4.0, payloads, ()) == expected
    for cut in (whole, parts):
        cut.run(step(1, "update/0", 0.25))
    assert torch.equal(whole.values, parts.values)


@pytest.mark.parametrize("lengths", [(), (3,), (3, 10**9), (LAYOUT.size, 1), (LAYOUT.size + 5, -5), (0, LAYOUT.size), ("3", None)])
def test_parts_that_do_not_make_up_the_range_are_a_fault(lengths: tuple[Any, ...]) -> None:
    parts = tuple(Payload(0, length, np.zeros(4, dtype=np.uint8), p1=32) for length in lengths)
    stored = Cut.of(vector(0), 1).shards[0].store("update/0", 0, LAYOUT.size, 1.0, parts, ())
    assert not stored.finite
    assert "do not make up" in stored.fault


def test_what_was_stored_is_a_copy_that_the_sender_cannot_change() -> None:
    memory = Cut.of(vector(0), 1).shards[0]
    sent_D = vector(1)
    payload = encoded(sent_D)
    assert np.shares_memory(payload.body, sent_D.numpy())
    memory.store("update/0", 0, LAYOUT.size, 1.0, payload, ())
    sent_D.fill_(torch.nan)
    memory.run(step(1, "update/0", 1.0))
    assert torch.equal(memory.values, vector(0) - stepped(vector(1)))


def taken(memory: ShardMemory, values_D: Tensor, codec: str = "identity") -> Taken:
    """As a shard takes a payload out of a sender's memory: its body lies where the shard said."""
    payload = encoded(values_D, codec)
    room = memory.room(len(payload.body))
    body = room.numpy().view(np.uint8)[: len(payload.body)]
    body[:] = payload.body
    return Taken(replace(payload, body=body), room)


def test_a_plain_payload_in_the_shards_own_memory_is_kept_where_it_lies_and_measured_as_any() -> None:
    memory, other = (Cut.of(vector(0), 1).shards[0] for _ in range(2))
    own = taken(memory, vector(1))
    stored = memory.store("update/0", 0, LAYOUT.size, 1.0, own, ())
    assert stored == other.store("update/0", 0, LAYOUT.size, 1.0, encoded(vector(1)), ())
    assert memory.holding().vectors["update/0"][0].data_ptr() == own.room.data_ptr()
    memory.run(step(1, "update/0", 1.0, drop=("update/0",)))
    assert torch.equal(memory.values, vector(0) - stepped(vector(1)))
    assert memory.room(4 * LAYOUT.size).data_ptr() == own.room.data_ptr()


def test_a_coded_payload_and_a_part_are_decoded_and_their_room_is_used_again() -> None:
    memory = Cut.of(vector(0), 1, codec="bf16").shards[0]
    own = taken(memory, vector(1), "bf16")
    memory.store("update/0", 0, LAYOUT.size, 1.0, own, ())
    assert torch.equal(memory.holding().vectors["update/0"][0], vector(1).bfloat16().float())
    assert memory.room(len(own.payload.body)).data_ptr() == own.room.data_ptr()
    part = taken(memory, vector(1)[:BLOCK])
    memory.store("reference/0", 0, BLOCK, 1.0, part, ())
    assert torch.equal(memory.holding().vectors["reference/0"][0][:BLOCK], vector(1)[:BLOCK])


@pytest.mark.parametrize(
    ("length", "changed"), [(LAYOUT.size - 1, {}), (LAYOUT.size, {"codec_id": 1}), (LAYOUT.size, {"num_coordinates": "3"})]
)
def test_a_payload_in_the_shards_own_memory_that_does_not_fit_is_a_fault(length: int, changed: dict[str, Any]) -> None:
    memory = Cut.of(vector(0), 1).shards[0]
    own = taken(memory, vector(1)[:length])
    stored = memory.store("update/0", 0, LAYOUT.size, 1.0, own._replace(payload=replace(own.payload, **changed)), ())
    assert "not what this codec sends" in stored.fault


def test_memory_of_dropped_vectors_is_used_again_without_a_trace_of_them() -> None:
    memory = Cut.of(vector(0), 1).shards[0]
    for number in range(3):
        memory.store(f"update/{number}", 0, LAYOUT.size, 1.0, encoded(torch.full((LAYOUT.size,), torch.nan)), ())
    memory.run(p.Drop(("update/0", "update/1", "update/2", "never/there")))
    for number in (3, 4):
        memory.store(f"update/{number}", 0, LAYOUT.size, 1.0, encoded(vector(number)), ())
    memory.run(p.Combine("direction", (("update/3", 0.5), ("update/4", 0.5))))
    memory.run(step(1, "direction", 1.0, drop=("update/3", "update/4", "direction")))
    torch.testing.assert_close(memory.values, vector(0) - stepped((vector(3) + vector(4)) / 2))


# --- steps ------------------------------------------------------------------------------------------------------------------------------


OPTIONS: dict[str, dict[str, float]] = {
    "sgd": {"lr": 0.5, "momentum": 0.9, "weight_decay": 0.01},
    "adamw": {"lr": 0.01, "weight_decay": 0.1},
}
FALLING = PiecewiseLinear(points=((0, 1.0), (200, 0.0)))
SCALES = (1.0, 0.25, 1.0)
SAMPLES = (0, 100, 100)
NEW_LR = 0.125


def trained(optimizer: str, num_shards: int) -> Tensor:
    """Three steps on two updates each, with a schedule, factors as from clipping, and a rate that the user changes before the third."""
    cut = Cut.of(vector(0, PLAIN), num_shards, PLAIN, optimizer={optimizer: OPTIONS[optimizer]}, schedule=FALLING)
    for number, (scale, samples) in enumerate(zip(SCALES, SAMPLES, strict=True), start=1):
        if number == 3:
            cut.run(p.Configure({"lr": NEW_LR}))
        cut.store("update/0", vector(2 * number, PLAIN), 30.0)
        cut.store("update/1", vector(2 * number + 1, PLAIN), 10.0)
        cut.run(p.Combine("direction", (("update/0", 1 / 40), ("update/1", 1 / 40))))
        cut.run(step(number, "direction", scale, samples=samples, drop=("update/0", "update/1", "direction")))
    return cut.values


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_steps_are_those_of_torch_and_their_bits_do_not_depend_on_the_cut(optimizer: str) -> None:
    whole = trained(optimizer, 1)
    weight = torch.nn.Parameter(vector(0, PLAIN))
    theirs: Any = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[optimizer]
    stepper = theirs([weight], **OPTIONS[optimizer])
    rates = [OPTIONS[optimizer]["lr"], OPTIONS[optimizer]["lr"] * 0.5, NEW_LR * 0.5]
    for number, (scale, rate) in enumerate(zip(SCALES, rates, strict=True), start=1):
        weight.grad = (vector(2 * number, PLAIN) + vector(2 * number + 1, PLAIN)) / 40 * scale
        stepper.param_groups[0]["lr"] = rate
        stepper.step()
    torch.testing.assert_close(whole, weight.detach())
    assert all(torch.equal(trained(optimizer, num_shards), whole) for num_shards in (2, 3, 5))


def test_buffers_become_their_mean_over_samples_whatever_the_step_does_to_the_parameters() -> None:
    """Workers of 30 and 10 samples push weight * (base - new); the factor, the rate and momentum are for parameters alone."""
    start_D = vector(0)
    ends = (vector(1)[TAIL:], vector(2)[TAIL:])
    cut = Cut.of(start_D, 3, optimizer={"sgd": {"lr": 0.5, "momentum": 0.9}})
    for work_id, (weight, end) in enumerate(zip((30.0, 10.0), ends, strict=True)):
        update_D = vector(10 + work_id)
        update_D[TAIL:] = weight * (start_D[TAIL:] - end)
        cut.store(f"update/{work_id}", update_D, weight)
    cut.run(p.Combine("direction", (("update/0", 1 / 40), ("update/1", 1 / 40))))
    cut.run(step(1, "direction", 0.1))
    torch.testing.assert_close(cut.values[TAIL:], (30 * ends[0] + 10 * ends[1]) / 40)
    assert torch.equal(cut.values[NUM_PARAMS:TAIL], torch.zeros(TAIL - NUM_PARAMS))


def test_a_decoded_sum_averages_running_statistics_by_the_size_of_its_weights() -> None:
    """Of coded sums one may be subtracted; a variance that was subtracted would be none."""
    start_D = vector(0)
    ends = (vector(1)[TAIL:], vector(2)[TAIL:])
    cut = Cut.of(start_D, 3)
    sums = [vector(10 + work_id) for work_id in range(2)]
    for work_id, end in enumerate(ends):
        sums[work_id][TAIL:] = 20.0 * (start_D[TAIL:] - end)
        cut.store(f"update/{work_id}", sums[work_id], 20.0)
    cut.run(p.Combine("direction", (("update/0", 2 / 30), ("update/1", -1 / 30))))
    cut.run(step(1, "direction", 1.0))
    torch.testing.assert_close(cut.values[TAIL:], (2 * ends[0] + ends[1]) / 3)
    decoded_D = (2 * sums[0] - sums[1])[:NUM_PARAMS] / 30
    torch.testing.assert_close(cut.values[:NUM_PARAMS], start_D[:NUM_PARAMS] - 0.5 * decoded_D)


def test_a_single_update_is_applied_without_a_combination() -> None:
    start_D, end = vector(0), vector(1)[TAIL:]
    cut = Cut.of(start_D, 2)
    update_D = vector(10)
    update_D[TAIL:] = 30.0 * (start_D[TAIL:] - end)
    cut.store("update/0", update_D, 30.0)
    cut.run(step(1, "update/0", 0.25 / 30, drop=("update/0",)))
    torch.testing.assert_close(cut.values[TAIL:], end)
    torch.testing.assert_close(cut.values[:NUM_PARAMS], (start_D - 0.5 * 0.25 / 30 * update_D)[:NUM_PARAMS])


def test_a_rate_of_zero_stops_the_parameters_and_not_the_statistics() -> None:
    cut = Cut.of(vector(0), 2)
    cut.run(p.Configure({"lr": 0.0}))
    cut.store("update/0", vector(1), 1.0)
    cut.run(step(1, "update/0", 1.0))
    assert torch.equal(cut.values[:NUM_PARAMS], vector(0)[:NUM_PARAMS])
    assert torch.equal(cut.values[TAIL:], (vector(0) - vector(1))[TAIL:])


def test_a_command_that_no_shard_runs_is_an_error() -> None:
    command: Any = p.Started(p.Version(0, 0))
    with pytest.raises(ProtocolError, match="cannot run Started"):
        Cut.of(vector(0), 1).run(command)


# --- versions ---------------------------------------------------------------------------------------------------------------------------


def test_a_version_is_copied_once_and_stays_what_it_was_until_it_is_freed() -> None:
    copies = []

    def publish(range_D: Tensor) -> Tensor:
        copies.append(range_D.clone())
        return copies[-1]

    spec = ShardSpec(layout=PLAIN, owned=Range(0, PLAIN.size), optimizer=SGD)
    memory = ShardMemory(spec, vector(0, PLAIN), 7, publish)
    assert memory.read(7) is memory.read(7)
    assert len(copies) == 1
    memory.store("update/0", 0, PLAIN.size, 1.0, encoded(vector(1, PLAIN)), ())
    memory.run(p.Step(p.Version(0, 8), "update/0", 1.0, 0, 7))
    assert torch.equal(memory.read(7), vector(0, PLAIN))
    assert torch.equal(memory.read(8), vector(0, PLAIN) - 0.5 * vector(1, PLAIN))
    memory.free((7,))
    with pytest.raises(ProtocolError, match="version 7 was not kept, the newest is 8"):
        memory.read(7)
    with pytest.raises(ProtocolError, match="version 9"):
        memory.read(9)


def test_a_version_that_nobody_has_read_yet_survives_the_step_that_replaces_it() -> None:
    memory = Cut.of(vector(0, PLAIN), 1, PLAIN).shards[0]
    memory.store("update/0", 0, PLAIN.size, 1.0, encoded(vector(1, PLAIN)), ())
    memory.run(step(1, "update/0", 1.0))
    assert torch.equal(memory.read(0), vector(0, PLAIN))


def test_a_version_that_nobody_will_read_is_not_copied() -> None:
    memory = Cut.of(vector(0, PLAIN), 1, PLAIN).shards[0]
    memory.store("update/0", 0, PLAIN.size, 1.0, encoded(vector(1, PLAIN)), ())
    memory.run(step(1, "update/0", 1.0), save=False)
    with pytest.raises(ProtocolError, match="version 0 was not kept"):
        memory.read(0)
    assert torch.equal(memory.read(1), vector(0, PLAIN) - 0.5 * vector(1, PLAIN))


@pytest.mark.parametrize("num_shards", [1, 2, 3])
def test_distances_are_those_of_means_and_do_not_cancel(num_shards: int) -> None:
    """Two gradients of nearly the same direction, as sums over unlike numbers of samples; and two models, one of them kept on the way."""
    cut = Cut.of(vector(0, PLAIN), num_shards, PLAIN)
    near = vector(1, PLAIN) + 1e-4 * vector(2, PLAIN)
    cut.store("update/0", 4.0 * vector(1, PLAIN), 4.0)
    cut.store("update/1", 2.0 * near, 2.0)
    cut.run(p.Keep("model/0", p.PARAMS))
    cut.run(p.Keep("kept/gradient", "update/0"))
    cut.run(step(1, "update/0", 0.25, drop=("update/0",)))
    cut.run(p.Keep("model/1", p.PARAMS))
    answers = cut.run(p.Distances(1, (("update/1", "kept/gradient"), ("model/1", "model/0"))))
    apart, moved = (exactsum.to_float(sum(column)) for column in zip(*(answer.values for answer in answers), strict=True))
    params = slice(0, PLAIN.num_params)
    expected = ((near - vector(1, PLAIN))[params].double() ** 2).sum()
    assert apart == pytest.approx(float(expected), rel=2e-3)
    assert moved == pytest.approx(float(((0.5 * vector(1, PLAIN))[params].double() ** 2).sum()), rel=1e-5)


def test_a_version_that_is_retained_comes_back_with_the_optimizers_slots_over_a_newcomer_and_a_checkpoint() -> None:
    spec = ShardSpec(layout=LAYOUT, owned=Range(0, LAYOUT.size), optimizer={"sgd": {"lr": 0.5, "momentum": 0.9}})

    def moved(memory: ShardMemory, number: int, seed: int) -> None:
        memory.store(f"update/{number}", 0, LAYOUT.size, 1.0, encoded(vector(seed)), ())
        memory.run(step(number, f"update/{number}", 1.0))

    first = ShardMemory(spec, vector(0), 0, copied)
    moved(first, 1, seed=1)
    retained = first.values.clone()
    first.run(p.Retain("kept/good"))
    moved(first, 2, seed=2)
    newcomer = ShardMemory.of(spec, first.holding(), copied)
    resumed = ShardMemory(spec, first.values.clone(), 2, copied)
    resumed.restore_optimizer(first.optimizer_state())
    straight = ShardMemory(spec, vector(0), 0, copied)
    moved(straight, 1, seed=1)
    moved(straight, 2, seed=3)
    for memory in (first, newcomer, resumed):
        memory.run(p.Replace(p.Version(1, 3), "kept/good", 2, drop=("kept/good",)))
        assert torch.equal(memory.values, retained)
        assert not [name for name in memory.held if name.startswith("kept/")], "nothing is left of it"
        moved(memory, 4, seed=3)
        assert torch.equal(memory.values, straight.values), "its momentum is that of then"


def test_writing_into_a_version_that_was_read_never_reaches_the_shard() -> None:
    memory = Cut.of(vector(0, PLAIN), 1, PLAIN).shards[0]
    memory.read(0).fill_(torch.nan)
    memory.store("update/0", 0, PLAIN.size, 1.0, encoded(vector(1, PLAIN)), ())
    memory.run(step(1, "update/0", 1.0))
    assert torch.equal(memory.values, vector(0, PLAIN) - 0.5 * vector(1, PLAIN))


# --- checkpoints ------------------------------------------------------------------------------------------------------------------------


def test_optimizer_state_is_taken_up_by_another_shard_that_goes_on_alike() -> None:
    options: Any = {"adamw": {"lr": 0.01}}

    def fresh(values_D: Tensor, version: int) -> ShardMemory:
        return ShardMemory(ShardSpec(layout=PLAIN, owned=Range(0, PLAIN.size), optimizer=options), values_D, version, copied)

    first = fresh(vector(0, PLAIN), 0)
    first.store("update/0", 0, PLAIN.size, 1.0, encoded(vector(1, PLAIN)), ())
    first.run(step(1, "update/0", 1.0, drop=("update/0",)))
    second = fresh(first.read(1).clone(), 1)
    second.restore_optimizer(first.optimizer_state())
    for memory in (first, second):
        memory.store("update/1", 0, PLAIN.size, 1.0, encoded(vector(2, PLAIN)), ())
        memory.run(step(2, "update/1", 1.0))
    assert torch.equal(first.values, second.values)


def test_what_a_rule_and_a_strategy_keep_is_part_of_a_checkpoint() -> None:
    """Centred clipping clips around the last direction: a run that goes on begins around the same one."""
    rule: Any = {"centered_clipping": {"radius": 1.0}}

    def fresh(values_D: Tensor, version: int) -> ShardMemory:
        spec = ShardSpec(layout=PLAIN, owned=Range(0, PLAIN.size), optimizer={"sgd": {"lr": 0.5}})
        return ShardMemory(spec, values_D, version, copied)

    def round_of(memory: ShardMemory, number: int) -> None:
        memory.store(f"update/{number}", 0, PLAIN.size, 1.0, encoded(vector(number, PLAIN)), ())
        rows = ((f"update/{number}", 1.0),)
        sums = memory.run(p.RuleStatistics(1, rule, rows)).values
        decision = Rules().decide(rule, sums, (1.0,), 1)
        memory.run(p.ApplyRule("direction", rule, rows, decision.instructions))
        memory.run(step(number + 1, "direction", 1.0, drop=(f"update/{number}", "direction")))

    first = fresh(vector(9, PLAIN), 0)
    round_of(first, 0)
    second = fresh(first.read(1).clone(), 1)
    second.restore_optimizer(first.optimizer_state())
    for memory in (first, second):
        round_of(memory, 1)
    assert torch.equal(first.values, second.values)


# --- newcomers --------------------------------------------------------------------------------------------------------------------------


def test_a_newcomer_goes_on_bit_for_bit_and_shares_no_memory() -> None:
    spec = ShardSpec(layout=PLAIN, owned=Range(0, PLAIN.size), optimizer={"adamw": {"lr": 0.01}})
    donor = ShardMemory(spec, vector(0, PLAIN), 0, copied)
    donor.store("update/0", 0, PLAIN.size, 2.0, encoded(vector(1, PLAIN)), ())
    donor.run(step(1, "update/0", 0.5, drop=("update/0",)))
    donor.run(p.Configure({"lr": 0.02}))
    donor.store("update/1", 0, PLAIN.size, 4.0, encoded(vector(2, PLAIN)), ())
    newcomer = ShardMemory.of(spec, donor.holding(), copied)
    assert newcomer.held == ("update/1",)
    assert torch.equal(newcomer.read(0), vector(0, PLAIN)), "somebody may still read it"
    assert newcomer.read(0).data_ptr() != donor.read(0).data_ptr()
    for memory in (donor, newcomer):  # one after the other: what they shared would be changed twice
        memory.run(p.Measure(1, (("update/1", "update/1"),)))
        memory.run(step(2, "update/1", 0.25))
    assert torch.equal(newcomer.values, donor.values)
    assert newcomer.version == donor.version == 2
    assert torch.equal(newcomer.mean("update/1"), donor.mean("update/1"))


# --- fragments --------------------------------------------------------------------------------------------------------------------------

FRAGMENTS = Fragments(((Range(0, BLOCK), Range(2 * BLOCK, LAYOUT.size)), (Range(BLOCK, 2 * BLOCK),)))
OUTER = {"outer_sgd": {"lr": 0.4, "momentum": 0.9, "nesterov": True}}


def part_of(values_D: Tensor, fragment: int) -> Tensor:
    return torch.cat([values_D[piece.start : piece.stop] for piece in FRAGMENTS.ranges[fragment]])


def store_fragment(cut: Cut, name: str, values_D: Tensor, fragment: int, weight: float = 1.0) -> list[Any]:
    """Each shard gets what it holds of the fragment, in the fragment's coordinates."""
    vector_F, stored = part_of(values_D, fragment), []
    for shard, owned in zip(cut.shards, cut.ranges, strict=True):
        own = FRAGMENTS.owned(fragment, owned)
        payload = encoded(vector_F[own.start : own.stop])
        stored.append(shard.store(name, own.start, own.stop, weight, payload, (), fragment))
    return stored


def fragment_step(number: int, source: str, scale: float, fragment: int) -> p.Step:
    return replace(step(number, source, scale, drop=("update/0", "update/1", source)), fragment=fragment)


@pytest.mark.parametrize("num_shards", [1, 2, 3])
def test_a_step_moves_one_fragment_with_its_own_momentum_and_nothing_else(num_shards: int) -> None:
    """Twice fragment 0, once fragment 1 between; the parameters as torch's SGD moves them, the buffers to their mean."""
    cut = Cut.of(vector(0), num_shards, optimizer=OUTER, fragments=FRAGMENTS)
    theta_D = vector(0)
    momenta = [torch.zeros(FRAGMENTS.size(fragment)) for fragment in range(2)]
    for number, fragment in enumerate((0, 1, 0), start=1):
        deltas = [vector(10 * number), vector(10 * number + 1)]
        for each, delta_D in enumerate(deltas):
            assert all(not part.fault for part in store_fragment(cut, f"update/{each}", 3.0 * delta_D, fragment, weight=3.0))
        cut.run(p.Combine("direction", (("update/0", 1.0), ("update/1", 1.0))))
        cut.run(fragment_step(number, "direction", 1 / 6, fragment))
        mean_F = part_of(sum(deltas) / 2, fragment)
        momenta[fragment] = 0.9 * momenta[fragment] + mean_F
        moved_F = part_of(theta_D, fragment) - 0.4 * (mean_F + 0.9 * momenta[fragment])
        if fragment == 0:
            num_params = FRAGMENTS.size(0) - (LAYOUT.size - NUM_PARAMS)
            moved_F[num_params:] = part_of(theta_D, 0)[num_params:] - mean_F[num_params:]
        start = 0
        for piece in FRAGMENTS.ranges[fragment]:
            theta_D[piece.start : piece.stop] = moved_F[start : start + piece.size]
            start += piece.size
        torch.testing.assert_close(cut.values, theta_D, rtol=1e-5, atol=1e-6)
    assert torch.equal(torch.cat([shard.read(3, 0) for shard in cut.shards]), part_of(cut.values, 0))
    assert torch.cat([shard.read(2, 1) for shard in cut.shards]).shape == (FRAGMENTS.size(1),), "what moved last is kept with its version"


def test_norms_of_a_fragment_are_the_same_for_every_cut() -> None:
    norms = {
        sum(part.norm2 for part in store_fragment(Cut.of(vector(0), n, fragments=FRAGMENTS), "update/0", vector(5), 0)) for n in (1, 2, 3)
    }
    assert len(norms) == 1


def test_momenta_of_fragments_go_on_from_a_checkpoint() -> None:
    def walked(cut: Cut, numbers: range) -> Cut:
        for number in numbers:
            store_fragment(cut, "update/0", vector(number), number % 2)
            cut.run(fragment_step(number, "update/0", 1.0, number % 2))
        return cut

    straight = walked(Cut.of(vector(0), 1, optimizer=OUTER, fragments=FRAGMENTS), range(1, 5))
    first = walked(Cut.of(vector(0), 1, optimizer=OUTER, fragments=FRAGMENTS), range(1, 2))
    (memory,) = first.shards
    second = Cut.of(memory.values.clone(), 1, optimizer=OUTER, fragments=FRAGMENTS)
    second.shards[0].restore_optimizer(memory.optimizer_state())
    second.shards[0].version = 1
    assert torch.equal(walked(second, range(2, 5)).values, straight.values)


# --- models side by side ----------------------------------------------------------------------------------------------------------------

ROTATION = Rotation(LAYOUT, 2)
OWN = ({}, {"lr": 0.02, "betas": [0.8, 0.9]})
ADAM = {"adam": {"lr": 0.1}}


def walked_side_by_side(cut: Cut, turns: tuple[int, ...], first: int = 1) -> Cut:
    """Steps of these models, each with an update of its own weight and at a place of its own in the schedule."""
    for number, model in enumerate(turns, start=first):
        for shard, owned in zip(cut.shards, cut.ranges, strict=True):
            own = ROTATION.fragments.owned(model, owned)
            stored = shard.store(f"update/{number}", own.start, own.stop, 3.0, encoded(vector(number)[own.start : own.stop]), (), model)
            assert not stored.fault
        cut.run(replace(step(number, f"update/{number}", 1 / 3, samples=10 * number, drop=(f"update/{number}",)), fragment=model))
    return cut


def side(num_shards: int) -> Cut:
    start_D = side_by_side([vector(100), vector(101)], ROTATION)
    spec = {"optimizer": in_rotation(ADAM, OWN), "fragments": ROTATION.fragments, "schedule": FALLING}
    return Cut.of(start_D, num_shards, ROTATION.stacked, **spec)


@pytest.mark.parametrize("num_shards", [1, 2, 5])
def test_models_side_by_side_go_bit_for_bit_the_way_of_each_alone_with_its_own_options_and_count_of_steps(num_shards: int) -> None:
    turns = (0, 1, 0, 0, 1)
    cut = walked_side_by_side(side(num_shards), turns)
    for model in range(2):
        alone = Cut.of(vector(100 + model), 1, optimizer={"adam": {"lr": 0.1, **OWN[model]}}, schedule=FALLING)
        for number, turn in enumerate(turns, start=1):
            if turn == model:
                alone.store(f"update/{number}", vector(number), 3.0)
                alone.run(step(number, f"update/{number}", 1 / 3, samples=10 * number, drop=(f"update/{number}",)))
        assert torch.equal(one_of(cut.values, ROTATION, model), alone.values)
        assert torch.equal(torch.cat([shard.read(len(turns), model) for shard in cut.shards]), alone.values)


def test_a_model_is_published_once_until_it_moves_and_a_version_of_all_only_for_whoever_reads_one() -> None:
    (memory,) = side(1).shards
    told = memory.read(0, 0)
    other = memory.read(0, 1)
    cut = walked_side_by_side(Cut([memory], ROTATION.stacked.cut(1)), (0,))
    assert memory.read(1, 1) is other, "nothing has moved it"
    assert memory.read(1, 0) is not told
    assert torch.equal(memory.read(1, 0), one_of(cut.values, ROTATION, 0))
    assert torch.equal(memory.read(0)[: len(told)], side(1).shards[0].values[: len(told)]), (
        "saved, for this one was not told to save nothing"
    )


@pytest.mark.parametrize("walked", [(0,), (0, 1, 0)])
def test_a_newcomer_and_a_run_that_is_resumed_go_on_with_the_state_of_each_model(walked: tuple[int, ...]) -> None:
    straight = walked_side_by_side(side(1), (*walked, 1, 0, 1))
    (memory,) = walked_side_by_side(side(1), walked).shards
    newcomer = ShardMemory.of(memory.spec, memory.holding(), copied)
    resumed = ShardMemory(memory.spec, memory.values.clone(), memory.version, copied)
    resumed.restore_optimizer(memory.optimizer_state())
    for one in (newcomer, resumed):
        cut = walked_side_by_side(Cut([one], ROTATION.stacked.cut(1)), (1, 0, 1), first=len(walked) + 1)
        assert torch.equal(cut.values, straight.values)


# --- other models -----------------------------------------------------------------------------------------------------------------------


def versions(memory: ShardMemory, numbers: range, scale: float = 1.0) -> None:
    """Make these versions, each with an update of its own."""
    for number in numbers:
        values_D = scale * vector(number)
        memory.store(f"update/{number}", 0, LAYOUT.size, 1.0, encoded(values_D), ())
        memory.run(step(number, f"update/{number}", 1.0, drop=(f"update/{number}",)))


def one(seed: int, optimizer: Any) -> ShardMemory:
    return Cut.of(vector(seed), 1, optimizer=optimizer).shards[0]


MOMENTUM = {"sgd": {"lr": 0.5, "momentum": 0.5}}


def test_a_replaced_range_goes_on_as_the_one_that_offered_it() -> None:
    """Parameters and momentum; the version before stays readable."""
    donor, own = one(0, MOMENTUM), one(50, MOMENTUM)
    versions(donor, range(1, 3))
    versions(own, range(1, 3), scale=3.0)
    donor.run(p.Offer("copy"))
    versions(donor, range(3, 4))
    offered = donor.offered("copy")
    assert offered is not None
    before = own.values.clone()
    model = offered[0].clone(), {key: slot.clone() for key, slot in offered[1].items()}
    assert own.misfit(model) == ""
    own.take("model/1", model)
    own.run(p.Replace(p.Version(1, 3), "model/1", 2, drop=("model/1",)))
    assert torch.equal(own.read(2), before)
    assert torch.equal(own.read(3), offered[0])
    memory, values_D = own, vector(3)
    memory.store("update/9", 0, LAYOUT.size, 1.0, encoded(values_D), ())
    memory.run(p.Step(p.Version(1, 4), "update/9", 1.0, 0, 3, drop=("update/9",)))
    assert torch.equal(own.values, donor.values)


def test_a_replaced_range_of_fragments_goes_on_with_the_momentum_of_each() -> None:
    def walked(memory: ShardMemory, numbers: range, lineage: int = 0) -> None:
        for number in numbers:
            owned = FRAGMENTS.owned(number % 2, memory.spec.owned)
            memory.store("update/0", owned.start, owned.stop, 1.0, encoded(part_of(vector(number), number % 2)), (), number % 2)
            memory.run(p.Step(p.Version(lineage, number), "update/0", 1.0, 0, number - 1, drop=("update/0",), fragment=number % 2))

    donor, own = (Cut.of(vector(seed), 1, optimizer=OUTER, fragments=FRAGMENTS).shards[0] for seed in (0, 50))
    walked(donor, range(1, 4))
    walked(own, range(1, 3))
    donor.run(p.Offer("copy"))
    offered = donor.offered("copy")
    assert offered is not None
    own.take("model/1", offered)
    moved = own.read(2, 0)
    own.run(p.Replace(p.Version(1, 3), "model/1", 2, drop=("model/1",)))
    assert torch.equal(own.read(2, 0), moved), "what workers had still to mix in of the last step"
    assert torch.equal(own.read(3, 1), part_of(donor.values, 1))
    walked(donor, range(4, 7))
    walked(own, range(4, 7), lineage=1)
    assert torch.equal(own.values, donor.values)


def test_slots_of_another_optimizer_are_left_behind_and_what_is_not_finite_or_too_short_is_refused() -> None:
    donor, own = one(0, {"adam": {"lr": 0.1}}), one(50, MOMENTUM)
    versions(donor, range(1, 2))
    donor.run(p.Offer("copy"))
    offered = donor.offered("copy")
    assert offered is not None
    assert own.misfit(offered) == ""
    own.take("model/1", offered)
    own.run(p.Replace(p.Version(1, 1), "model/1", 0, drop=("model/1",)))
    assert torch.equal(own.values, donor.values)
    assert own.optimizer_state() == {}
    for value in (torch.nan, torch.inf, -torch.inf):
        broken = own.values.clone()
        broken[-1] = value
        assert "not finite" in own.misfit((broken, {}))
    assert "wanted" in own.misfit((own.values[:1], {}))
    donor.run(p.Drop(("copy",)))
    assert donor.offered("copy") is None


def test_momentum_is_changed_in_the_middle() -> None:
    changed, other = one(0, {"sgd": {"lr": 0.5, "momentum": 0.9}}), one(0, MOMENTUM)
    changed.run(p.Configure({"momentum": 0.5}))
    for memory in (changed, other):
        versions(memory, range(1, 4))
    assert torch.equal(changed.values, other.values)
    newcomer = ShardMemory.of(changed.spec, changed.holding(), copied)
    for memory in (newcomer, other):
        versions(memory, range(4, 6))
    assert torch.equal(newcomer.values, other.values), "a newcomer is told"

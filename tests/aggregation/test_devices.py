"""The same rules on rows in an accelerator's memory: the kernels in plain torch, which are what runs there.

They run on the processor here, where any machine can compare them with the kernels for main memory; and on CUDA where there is one.

Letters: N rows, D coordinates.
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mottle import aggregation, attacks
from mottle.aggregation.kernels import eager, engine, toolchain
from mottle.aggregation.rows import Rows
from mottle.core.layout import BLOCK

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)

SPECS: list[Any] = [
    "mean",
    "median",
    {"trimmed_mean": {"trim": 2}},
    {"phocas": {"trim": 2}},
    {"mea_med": {"num_byzantine": 2}},
    {"krum": {"num_byzantine": 2}},
    {"multi_krum": {"num_byzantine": 2}},
    {"bulyan": {"num_byzantine": 1}},
    "geometric_median",
    "rfa",
    {"centered_clipping": {"radius": 30.0, "iterations": 2}},
    {"zeno": {"trim": 2, "rho": 0.001, "gamma": 0.1}},
    "fltrust",
    {"nnm": {"num_byzantine": 2, "inner": "median"}},
    {"nnm": {"num_byzantine": 2, "inner": "krum"}},
]
COUNTS = (3, 9, 1, 4, 4, 4, 2, 50, 3)


def round_of(dtype: torch.dtype) -> Tensor:
    """9 rows of two blocks and a bit; ties, a far row."""
    rows_ND = torch.randn(9, 2 * BLOCK + 77, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    rows_ND[:, :100] = rows_ND[:, :100].round()
    rows_ND[3] *= 1e4
    return rows_ND.to(dtype)


def inputs_of(spec: Any, rows_ND: Tensor) -> dict[str, Tensor]:
    return {"reference": rows_ND[0].clone()} if "reference" in aggregation.build(spec).config.required else {}


@pytest.fixture
def as_on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks as tensors, programs in torch."""
    monkeypatch.setattr(engine, "_interpreter", eager.Interpreter)
    monkeypatch.setattr(Rows, "views", Rows.block)


@dtypes
@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("counts", [None, COUNTS], ids=["equal", "unequal"])
def test_programs_in_torch_give_the_bits_of_those_in_main_memory(
    spec: Any, counts: Any, dtype: torch.dtype, request: pytest.FixtureRequest
) -> None:
    rows_ND = round_of(dtype)
    rule, inputs = aggregation.build(spec), inputs_of(spec, rows_ND)
    with toolchain.disabled():
        expected = rule.explain(rows_ND, counts, **inputs)
        request.getfixturevalue("as_on_an_accelerator")
        told = rule.explain(rows_ND, counts, **inputs)
    assert told.chosen == expected.chosen
    assert torch.equal(told.aggregate, expected.aggregate)


@pytest.mark.parametrize("spec", SPECS[1:5], ids=str)
def test_the_gate_and_overflow_in_torch(spec: Any, as_on_an_accelerator: None) -> None:
    rows_ND = round_of(torch.float32)
    rows_ND[:4, 7] = torch.finfo(torch.float32).max
    with toolchain.disabled():
        assert bool(torch.isfinite(aggregation.build(spec)(rows_ND)).all())
        rows_ND[6, BLOCK] = torch.nan
        assert aggregation.build(spec).explain(rows_ND).invalid == (6,)


@needs_cuda
@dtypes
@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("counts", [None, COUNTS], ids=["equal", "unequal"])
def test_rows_on_cuda_are_aggregated_there_with_the_same_result(spec: Any, counts: Any, dtype: torch.dtype) -> None:
    rows_ND = round_of(dtype)
    rule, inputs = aggregation.build(spec), inputs_of(spec, rows_ND)
    with toolchain.disabled():
        expected = rule.explain(rows_ND, counts, **inputs)
    told = rule.explain(rows_ND.cuda(), counts, **{name: vector.cuda() for name, vector in inputs.items()})
    assert told.aggregate.device.type == "cuda"
    assert told.chosen == expected.chosen
    torch.testing.assert_close(told.aggregate.cpu(), expected.aggregate, rtol=1e-6, atol=1e-6)


@needs_cuda
def test_shards_on_cuda_give_the_decision_of_the_whole() -> None:
    rule, rows_ND = aggregation.build({"multi_krum": {"num_byzantine": 2}}), round_of(torch.float32).cuda()
    shards = [rows_ND[:, :BLOCK], rows_ND[:, BLOCK:]]
    decision = rule.decide(rule.measure(shards[0]) + rule.measure(shards[1]), 9)
    assert torch.equal(torch.cat([rule.apply(shard, decision) for shard in shards]), rule(rows_ND))


@needs_cuda
def test_rows_and_companions_on_different_devices_are_refused() -> None:
    with pytest.raises(aggregation.InputError, match="several devices"):
        aggregation.build("median")([torch.ones(2), torch.ones(2, device="cuda")])
    with pytest.raises(aggregation.InputError, match="move it there"):
        aggregation.build("fltrust")(torch.ones(3, 2, device="cuda"), reference=torch.ones(2))


@needs_cuda
@pytest.mark.parametrize("spec", ["gaussian", "sign_flip", "bit_flip", "alie", "ipm", "min_max", "mimic", "non_finite", "zero_sum"])
def test_attacks_on_cuda_send_what_they_send_from_main_memory(spec: str) -> None:
    rows_ND = torch.randn(9, 200, generator=torch.Generator().manual_seed(1))
    sent = [
        attacks.build(spec).rows(attacks.RoundView.split(each, [2, 5]), generator=np.random.default_rng(0))
        for each in (rows_ND, rows_ND.cuda())
    ]
    assert sent[1].device.type == "cuda"
    torch.testing.assert_close(sent[1].cpu(), sent[0], equal_nan=True, rtol=1e-5, atol=1e-5)

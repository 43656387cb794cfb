"""The GPT example: its text, its model, and both ways of training it on a live local Ray."""

import math
from functools import partial
from pathlib import Path

import gpt
import pytest
import stdlib_text
import torch
import train
from torch import nn

tiny = partial(gpt.GPT, width=32, depth=1, num_heads=2)


def model_of(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return tiny().eval()


# --- the text -------------------------------------------------------------------------------------------------------------------------


def test_no_file_is_both_trained_on_and_held_out() -> None:
    training, held_out = stdlib_text.files(held_out=False), stdlib_text.files(held_out=True)
    assert not set(training) & set(held_out)
    assert len(held_out) >= 10
    assert len(training) > 5 * len(held_out)


def test_the_files_are_sorted_programs_of_the_library_itself() -> None:
    names = [[path.as_posix() for path in stdlib_text.files(held_out)] for held_out in (False, True)]
    assert all(each == sorted(each) for each in names)
    both = [*names[0], *names[1]]
    assert sum(name.endswith(("/heapq.py", "/ast.py", "/json/decoder.py")) for name in both) == 3
    assert not any("-packages/" in name or "/test/" in name for name in both)


def test_a_data_set_is_a_view_that_holds_every_byte_once() -> None:
    windows = stdlib_text.train_data()
    text_bytes = sum(path.stat().st_size + 1 for path in stdlib_text.files(held_out=False))
    assert windows.dtype == torch.uint8
    assert windows.shape == ((text_bytes - 1) // stdlib_text.CONTEXT, stdlib_text.CONTEXT + 1)
    assert windows.untyped_storage().nbytes() == text_bytes


def test_windows_follow_each_other_and_share_the_byte_between() -> None:
    windows = stdlib_text.windows(torch.arange(3 * stdlib_text.CONTEXT).to(torch.uint8))
    assert windows.shape == (2, stdlib_text.CONTEXT + 1)
    assert windows[1, 0] == windows[0, -1]
    assert windows[0, :3].tolist() == [0, 1, 2]


def test_the_test_set_is_held_out_text() -> None:
    windows = stdlib_text.test_data()
    assert windows.shape == (stdlib_text.TEST_WINDOWS, stdlib_text.CONTEXT + 1)
    held_out = b"".join(stdlib_text.END_OF_FILE + path.read_bytes() for path in stdlib_text.files(held_out=True))
    assert bytes(windows[-1].tolist()) in held_out


# --- the model ------------------------------------------------------------------------------------------------------------------------


def test_the_model_has_one_to_ten_million_parameters_and_one_matrix_for_both_ends() -> None:
    model = gpt.GPT()
    assert 1e6 <= sum(param.numel() for param in model.parameters()) <= 10e6
    assert model.head.weight is model.embedding.weight


def test_a_fresh_model_knows_nothing() -> None:
    windows = stdlib_text.test_data()[:8]
    assert gpt.loss(model_of(0), windows).item() == pytest.approx(math.log(gpt.NUM_SYMBOLS), rel=0.02)
    assert gpt.bits_per_byte(model_of(0), windows).item() == pytest.approx(8.0, rel=0.02)


def test_no_byte_sees_a_later_one() -> None:
    model = model_of(1)
    bytes_BT = stdlib_text.test_data()[:2, :-1]
    changed_BT = bytes_BT.clone()
    changed_BT[:, 70:] = 7
    with torch.no_grad():
        before, after = model(bytes_BT), model(changed_BT)
    torch.testing.assert_close(before[:, :70], after[:, :70])
    assert (before[:, 70:] - after[:, 70:]).abs().max() > 1e-3


def test_products_of_turned_queries_and_keys_depend_on_distance_alone() -> None:
    cos_TC, sin_TC = (table.double() for table in gpt.rotations(8))
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 8, generator=generator, dtype=torch.float64)

    def turned(vector: torch.Tensor, position: int) -> torch.Tensor:
        first, second = vector.chunk(2)
        cos, sin = cos_TC[position], sin_TC[position]
        return torch.cat([first * cos - second * sin, first * sin + second * cos])

    products = [float(turned(query, 5 + shift) @ turned(key, 2 + shift)) for shift in (0, 1, 50, 100)]
    assert products == pytest.approx([products[0]] * 4, rel=1e-5)


def test_generation_has_the_asked_length_follows_its_seed_and_outruns_the_context() -> None:
    model = model_of(2)
    long = stdlib_text.CONTEXT + 40
    assert len(gpt.generate(model, b"import ", long)) == long
    assert gpt.generate(model, b"x", 30, seed=3) == gpt.generate(model, b"x", 30, seed=3) != gpt.generate(model, b"x", 30, seed=4)


# --- training -------------------------------------------------------------------------------------------------------------------------


def test_norms_and_biases_are_not_decayed(tmp_path: Path) -> None:
    job = train.trainer("sync", tmp_path, samples=64, model=tiny).job
    groups = {piece.name: piece.group for piece in job.layout.parameters}
    assert {name for name, group in groups.items() if group == 0} == {
        "embedding.weight",
        "blocks.0.attention.qkv.weight",
        "blocks.0.attention.out.weight",
        "blocks.0.widen.weight",
        "blocks.0.narrow.weight",
    }
    assert job.layout.aliases == {"head.weight": "embedding.weight"}


def test_the_learning_rate_rises_then_falls_over_the_samples(tmp_path: Path) -> None:
    schedule = train.trainer("sync", tmp_path, samples=2000, model=tiny).job.schedule
    assert schedule is not None
    assert [schedule(samples) for samples in (0, 100, 2000)] == pytest.approx([0.01, 1.0, 0.05])
    assert schedule(50) < schedule(100) > schedule(1000) > schedule(2000)


@pytest.mark.ray
@pytest.mark.parametrize("strategy", ["sync", "async"])
def test_training_lowers_the_loss_and_the_trained_model_writes(strategy: str, tmp_path: Path, local_ray: None) -> None:
    job = train.trainer(strategy, tmp_path / strategy, samples=960, batch_size=8, model=tiny)
    result, parameters = train.train(job)
    assert result.error is None
    assert result.metrics is not None
    assert result.metrics["samples"] == 960
    assert result.metrics["test_bits_per_byte"] == pytest.approx(result.metrics["test_loss"] / math.log(2), rel=1e-5)
    assert result.metrics["test_bits_per_byte"] < 6.5  # a fresh model needs 8
    assert result.summary is not None
    assert result.summary.problems() == []
    assert len(train.write(parameters, 50, tiny)) == 50

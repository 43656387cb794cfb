"""What every codec must do, as tests. For one of your own:

    from mottle.compression.contract import CodecContract

    class TestMyCodec(CodecContract):
        def make(self) -> Codec:
            return MyCodec(ratio=0.1)

pytest finds the rest. Needs neither pytest nor a network; all inputs are seeded.
"""

import pickle
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mottle.compression.base import Codec, Memory
from mottle.compression.payload import Payload, PayloadError, from_wire

LENGTHS = (0, 1, 2, 5, 127, 4096, 4099)
DTYPES = (torch.float32, torch.float64)


class CodecContract:
    """The contract; `make` gives the codec under test, with the options under test."""

    def make(self) -> Codec:
        raise NotImplementedError("return the codec to be tested")

    def test_the_body_is_as_long_as_the_codec_says(self) -> None:
        codec = self.make()
        for vector in _vectors():
            payload, _ = codec.encode(vector, None)
            assert len(payload.body) == codec.num_bytes(len(vector), vector.dtype)
            assert payload.num_coordinates == len(vector)

    def test_the_error_keeps_its_bound(self) -> None:
        codec = self.make()
        assert 0 < codec.contraction <= 1
        for vector in _vectors():
            error = (_there_and_back(codec, vector) - vector).double().square().sum()
            assert error <= (1 - codec.contraction) * vector.double().square().sum(), f"{len(vector)} coordinates of {vector.dtype}"

    def test_zero_stays_zero(self) -> None:
        for dtype in DTYPES:
            assert not _there_and_back(self.make(), torch.zeros(300, dtype=dtype)).any()

    def test_half_precision_is_taken_as_float32(self) -> None:
        codec = self.make()
        for dtype in (torch.float16, torch.bfloat16):
            vector = _random(300, torch.float32).to(dtype)
            assert _bytes(codec, vector) == _bytes(codec, vector.float())

    def test_encoding_changes_neither_the_range_nor_the_memory(self) -> None:
        codec = self.make()
        vector = _random(300, torch.float32)
        before = vector.clone()
        _, memory = codec.encode(vector, None)
        kept = _copied(memory)
        codec.encode(vector, memory)
        assert torch.equal(vector, before)
        assert (memory is None) == (kept is None)
        assert all(torch.equal(value, (memory or {})[name]) for name, value in (kept or {}).items())

    def test_the_same_input_gives_the_same_bytes(self) -> None:
        codec = self.make()
        vector = _random(300, torch.float32)
        assert _bytes(codec, vector) == _bytes(codec, vector.clone()) == _bytes(self.make(), vector)

    def test_a_range_of_a_longer_vector_is_encoded_like_a_vector_of_its_own(self) -> None:
        codec = self.make()
        whole = _random(5000, torch.float32)
        assert _bytes(codec, whole[37:1000]) == _bytes(codec, whole[37:1000].clone())
        assert _bytes(codec, whole[::3]) == _bytes(codec, whole[::3].clone())

    def test_decoding_writes_every_coordinate_and_nothing_around(self) -> None:
        codec = self.make()
        vector = _random(300, torch.float32)
        around = torch.full((302,), torch.nan)
        codec.decode(codec.encode(vector, None)[0], around[1:301])
        assert torch.equal(around[1:301], _there_and_back(codec, vector))
        assert around[[0, 301]].isnan().all()

    def test_a_value_that_is_not_finite_is_refused_or_arrives_as_such(self) -> None:
        """It must never become a number, with which it would pass the gate of the step, nor spoil its neighbours unseen."""
        codec = self.make()
        for value in (torch.nan, torch.inf, -torch.inf):
            vector = _random(300, torch.float32)
            vector[17] = value
            try:
                came = _there_and_back(codec, vector)
            except ValueError:
                continue
            assert not came[17].isfinite()

    def test_it_survives_the_wire_and_read_only_memory(self) -> None:
        codec = self.make()
        for vector in _vectors():
            payload, _ = codec.encode(vector, None)
            expected = _there_and_back(codec, vector)
            wired = from_wire(payload.header(), payload.body.tobytes())
            pickled = pickle.loads(pickle.dumps(payload, protocol=5))
            for again in (wired, pickled):
                again.body.flags.writeable = False
                out = torch.full_like(vector, torch.nan)
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    codec.decode(again, out)
                assert torch.equal(out, expected)

    def test_a_payload_that_is_not_its_own_is_refused_and_nothing_is_written(self) -> None:
        codec = self.make()
        payload, _ = codec.encode(_random(300, torch.float32), None)
        for what, spoil in _SPOILS.items():
            out = torch.full((300,), 7.0)
            try:
                codec.decode(spoil(payload), out)
            except PayloadError:
                assert torch.equal(out, torch.full((300,), 7.0)), f"{what}: refused, but written to"
            else:
                raise AssertionError(f"{what}: accepted")

    def test_a_payload_for_another_length_is_refused(self) -> None:
        codec = self.make()
        for sent, expected in ((300, 299), (300, 301), (300, 0), (0, 300)):
            payload, _ = codec.encode(_random(sent, torch.float32), None)
            try:
                codec.decode(payload, torch.zeros(expected))
            except PayloadError:
                continue
            raise AssertionError(f"{sent} coordinates decoded into {expected}")

    def test_any_bytes_of_the_right_length_are_decoded_or_refused(self) -> None:
        codec = self.make()
        payload, _ = codec.encode(_random(300, torch.float32), None)
        generator = np.random.default_rng(0)
        for _ in range(50):
            body = generator.integers(0, 256, len(payload.body), dtype=np.uint8)
            try:
                codec.decode(replace(payload, body=body), torch.zeros(300))
            except PayloadError:
                continue


_SPOILS: dict[str, Callable[[Payload], Payload]] = {
    "one byte too few": lambda payload: replace(payload, body=payload.body[:-1]),
    "one byte too many": lambda payload: replace(payload, body=np.append(payload.body, np.uint8(0))),
    "no byte": lambda payload: replace(payload, body=payload.body[:0]),
    "a body of another dtype": lambda payload: replace(payload, body=payload.body.astype(np.float64)),
    "a body of another shape": lambda payload: replace(payload, body=payload.body[None]),
    "a body with gaps": lambda payload: replace(payload, body=np.repeat(payload.body, 2)[::2]),
    "a body of objects": lambda payload: replace(payload, body=payload.body.astype(object)),
    "a body that is a list": lambda payload: replace(payload, body=[1, 2, 3]),  # type: ignore[arg-type]  # on purpose
    "another codec": lambda payload: replace(payload, codec_id=payload.codec_id ^ 1),
    "another version": lambda payload: replace(payload, version=2),
    "unknown flags": lambda payload: replace(payload, flags=payload.flags | 0x8000),
    "a huge count": lambda payload: replace(payload, num_coordinates=2**60),
    "a negative count": lambda payload: replace(payload, num_coordinates=-300),
    "a count that is no integer": lambda payload: replace(payload, num_coordinates=300.0),  # type: ignore[arg-type]  # on purpose
}


def _random(length: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(length, generator=torch.Generator().manual_seed(length), dtype=dtype)


def _vectors() -> Iterator[Tensor]:
    """Vectors of many lengths; moderate, tiny and huge values."""
    for dtype in DTYPES:
        for length in LENGTHS:
            for scale in (1.0, 1e-20, 1e20):
                yield _random(length, dtype) * scale


def _there_and_back(codec: Codec, vector: Tensor) -> Tensor:
    payload, _ = codec.encode(vector, None)
    out = torch.full_like(vector, torch.nan)
    codec.decode(payload, out)
    return out


def _bytes(codec: Codec, vector: Tensor) -> bytes:
    payload, _ = codec.encode(vector, None)
    return payload.header() + payload.body.tobytes()


def _copied(memory: Memory) -> Memory:
    return None if memory is None else {name: value.clone() for name, value in memory.items()}

"""Every codec through the contract, and the bits of each by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mottle.compression import CATALOGUE, E3M0, BFloat16, Codec, Identity, Memory, Payload, PayloadError, build, from_wire
from mottle.compression.contract import CodecContract
from mottle.core.errors import ConfigError


class TestIdentity(CodecContract):
    def make(self) -> Codec:
        return Identity()


class TestBFloat16(CodecContract):
    def make(self) -> Codec:
        return BFloat16()


class TestE3M0(CodecContract):
    def make(self) -> Codec:
        return E3M0()


class UsersOwn:
    """A user's own codec, with memory: sends half of what it was given and remembers the other half."""

    codec_id = 200
    contraction = 0.5

    def num_bytes(self, num_coordinates: int, dtype: torch.dtype) -> int:
        return Identity().num_bytes(num_coordinates, dtype)

    def encode(self, range_tensor: torch.Tensor, memory: Memory) -> tuple[Payload, Memory]:
        vector = range_tensor.float() if range_tensor.dtype in (torch.float16, torch.bfloat16) else range_tensor
        total = vector + memory["residual"] if memory else vector
        payload, _ = Identity().encode(total / 2, None)
        return replace(payload, codec_id=self.codec_id), {"residual": total / 2}

    def decode(self, payload: Payload, out: torch.Tensor) -> None:
        if payload.codec_id != self.codec_id:
            raise PayloadError(f"codec {self.codec_id} was wanted, got {payload.codec_id}")
        Identity().decode(replace(payload, codec_id=0), out)


class TestUsersOwn(CodecContract):
    def make(self) -> Codec:
        return build(UsersOwn())


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (type("Short", (Identity,), {"num_bytes": lambda self, n, dtype: 4 * n + 1}), "the_body_is_as_long_as_the_codec_says"),
        (type("Lossy", (BFloat16,), {"contraction": 1.0}), "the_error_keeps_its_bound"),
        (type("Lazy", (Identity,), {"decode": lambda self, payload, out: None}), "decoding_writes_every_coordinate_and_nothing_around"),
        (
            type("Credulous", (Identity,), {"decode": lambda self, payload, out: out.zero_()}),
            "a_payload_that_is_not_its_own_is_refused_and_nothing_is_written",
        ),
    ],
)
def test_the_contract_catches_a_broken_codec(broken: type[Identity], test: str) -> None:
    contract = CodecContract()
    contract.make = broken  # type: ignore[method-assign]  # what a subclass would override
    with pytest.raises(AssertionError):
        getattr(contract, f"test_{test}")()


def test_every_codec_has_its_own_number_on_the_wire() -> None:
    numbers = [codec.codec_id for codec in CATALOGUE.values()]
    assert len(set(numbers)) == len(numbers)
    assert all(0 <= number < 128 for number in numbers)


@given(st.lists(st.floats(width=32), max_size=20))
def test_identity_keeps_every_bit(values: list[float]) -> None:
    vector = torch.tensor(values, dtype=torch.float32)
    out = torch.zeros_like(vector)
    Identity().decode(Identity().encode(vector, None)[0], out)
    assert torch.equal(out.view(torch.int32), vector.view(torch.int32))


def test_identity_does_not_copy() -> None:
    vector = torch.ones(10)
    payload, _ = Identity().encode(vector, None)
    vector.fill_(2.0)
    assert payload.body.view("<f4").tolist() == [2.0] * 10


def test_identity_body_and_header_byte_by_byte() -> None:
    payload, memory = Identity().encode(torch.tensor([1.0, -2.0]), None)
    assert memory is None
    assert payload.body.tobytes() == bytes.fromhex("0000803f 000000c0")
    assert payload.header() == b"GC01" + bytes.fromhex("00 01 0000 0200000000000000 00000000 20000000 00000000 00000000")


@pytest.mark.parametrize(
    ("value", "bits"),
    [
        (1.0, 0x3F80),
        (-2.0, 0xC000),
        (1 + 2**-8, 0x3F80),  # half-way between 1 and 1 + 2^-7: to the even one below
        (1 + 3 * 2**-8, 0x3F82),  # half-way: to the even one above
        (1 + 2**-8 + 2**-20, 0x3F81),
        (3.3895313892515355e38, 0x7F7F),
        (3.4028234663852886e38, 0x7F80),
        (float("inf"), 0x7F80),
        (float("-inf"), 0xFF80),
        (-0.0, 0x8000),
        (1e-40, 0x0001),
    ],
)
def test_bf16_rounds_to_nearest_even(value: float, bits: int) -> None:
    payload, _ = BFloat16().encode(torch.tensor([value]), None)
    assert payload.body.view("<u2").tolist() == [bits]
    assert (payload.codec_id, payload.p1) == (18, 16)


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=20))
def test_bf16_agrees_with_rounding_done_on_integers(values: list[float]) -> None:
    """Adding 0x7FFF and the last kept bit, then dropping the lower half, is rounding to nearest even."""
    patterns = np.array(values, np.float32).view(np.uint32).astype(np.uint64)
    expected = (patterns + 0x7FFF + ((patterns >> 16) & 1)) >> 16
    payload, _ = BFloat16().encode(torch.tensor(values, dtype=torch.float32), None)
    assert payload.body.view("<u2").tolist() == expected.tolist()


def test_bf16_into_float64_is_exact_and_nan_stays_nan() -> None:
    out = torch.zeros(3, dtype=torch.float64)
    BFloat16().decode(BFloat16().encode(torch.tensor([1.5, -3.0, torch.nan]), None)[0], out)
    assert out[:2].tolist() == [1.5, -3.0]
    assert out[2].isnan()


def test_bf16_takes_half_the_bytes() -> None:
    assert BFloat16().num_bytes(1000, torch.float32) == 2000
    assert Identity().num_bytes(1000, torch.float32) == 4000


def test_identity_of_another_width_is_refused() -> None:
    payload, _ = Identity().encode(torch.ones(4), None)
    with pytest.raises(PayloadError, match="p1 32 instead of 64; 16 bytes instead of 32"):
        Identity().decode(payload, torch.zeros(4, dtype=torch.float64))


def test_what_is_no_payload_is_refused() -> None:
    with pytest.raises(PayloadError, match="a payload was wanted, got dict"):
        Identity().decode({"body": b""}, torch.zeros(0))  # type: ignore[arg-type]  # what a peer may send


@pytest.mark.parametrize("header", [b"", b"GC01", b"GC02" + bytes(28), bytes(33)])
def test_a_header_of_another_format_is_refused(header: bytes) -> None:
    with pytest.raises(PayloadError, match=r"(has 32 bytes|begins with)"):
        from_wire(header, b"")


@given(header=st.binary(min_size=28, max_size=28), body=st.binary(max_size=40))
def test_any_header_and_body_are_decoded_or_refused(header: bytes, body: bytes) -> None:
    for codec in (Identity(), BFloat16()):
        try:
            codec.decode(from_wire(b"GC01" + header, body), torch.zeros(4))
        except PayloadError:
            continue


@pytest.mark.parametrize("tensor", [torch.ones(2, 2), torch.ones((), dtype=torch.float32), torch.ones(3, dtype=torch.int64)])
@pytest.mark.parametrize("codec", [Identity(), BFloat16()])
def test_only_vectors_of_floating_point_are_encoded_and_decoded_into(codec: Codec, tensor: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="a range to encode has shape"):
        codec.encode(tensor, None)
    payload, _ = codec.encode(torch.ones(4), None)
    with pytest.raises(ValueError, match="a range to decode into is contiguous"):
        codec.decode(payload, tensor)


def test_codecs_are_built_by_name_and_users_own_pass_through() -> None:
    assert build({"bf16": {}}) == BFloat16()
    assert build("Identity") == Identity()
    assert build(None) == Identity()
    own = UsersOwn()
    assert build(own) is own


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("bf61", "unknown codec 'bf61'; did you mean 'bf16'"),
        ({"bf16": {"bits": 8}}, "codec 'bf16' has no option 'bits'; it has none"),
        (Identity, "codec is named as"),
        (16, "codec is named as"),
    ],
)
def test_mistakes_in_a_codecs_spec_are_named(spec: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(spec)


# --- E3M0 -------------------------------------------------------------------------------------------------------------------------------


def through_e3m0(values: list[float], group: int = 128) -> list[float]:
    codec, vector = E3M0(group), torch.tensor(values)
    out = torch.empty_like(vector)
    codec.decode(codec.encode(vector, None)[0], out)
    return out.tolist()


def test_the_worked_examples_of_e3m0() -> None:
    assert through_e3m0([16, -6, 1, 0.2, -0.12, 0, 12, 12.5]) == [16, -8, 1, 0.25, 0, 0, 16, 16]
    values = torch.tensor([16, 5, -3, 0.1, 0.125, 1.5, -0.7, 0])
    payload, _ = E3M0(8).encode(values, None)
    assert payload.body.tobytes() == bytes([0x75, 0xD0, 0x14, 0xA0]) + np.float32(1).tobytes()
    assert through_e3m0(values.tolist()) == [16, 4, -4, 0, 0.25, 2, -0.5, 0]


def test_levels_of_e3m0_come_back_as_they_went() -> None:
    levels = [sign * level for level in (0.25, 0.5, 1, 2, 4, 8, 16) for sign in (1, -1)]
    assert through_e3m0([0, *levels]) == [0, *levels]


@pytest.mark.parametrize("value", [2.0**-101, -(2.0**-120)])
def test_a_tiny_group_of_e3m0_is_zero(value: float) -> None:
    assert through_e3m0([value] * 3 + [1.0], group=2) == [0, 0, 0, 1]


def test_a_value_that_is_not_finite_spoils_its_group_of_e3m0_and_no_other() -> None:
    came = through_e3m0([1.0, float("nan"), 2.0, 4.0], group=2)
    assert np.isnan(came[:2]).all()
    assert came[2:] == [2, 4]


@pytest.mark.parametrize("group", [0, 3, 5000, 2.0])
def test_e3m0_names_a_group_that_cannot_be(group: object) -> None:
    with pytest.raises(ConfigError, match="even group"):
        build({"e3m0": {"group": group}})


def test_e3m0_takes_an_eighth_of_float32_and_a_scale() -> None:
    assert E3M0().num_bytes(1 << 20, torch.float32) == (1 << 19) + 4 * (1 << 13)

"""What may lie in a sender's memory until a shard has read it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mottle import compression
from mottle.actors.transport import rows_of
from mottle.compression import Payload

PLAIN, BF16 = compression.build("identity"), compression.build("bf16")


def encoded(*values: float, codec: compression.Codec = PLAIN) -> Payload:
    return codec.encode(torch.tensor(values), None)[0]


def test_a_payload_is_its_header_and_one_row() -> None:
    payload = encoded(1.0, 2.0, codec=BF16)
    found = rows_of(payload)
    assert found is not None
    header, (row,) = found
    assert (header.header(), len(header.body)) == (payload.header(), 0)
    assert row is payload.body


def test_plain_pieces_are_one_payload_in_several_rows() -> None:
    found = rows_of((encoded(1.0, 2.0), encoded(3.0)))
    assert found is not None
    header, rows = found
    whole = replace(header, body=np.concatenate(rows))
    assert torch.equal(PLAIN.view(whole, 3, torch.float32), torch.tensor([1.0, 2.0, 3.0]))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "payload",
    [
        torch.ones(3),
        replace(encoded(1.0), body=[1]),
        replace(encoded(1.0), body=np.zeros(8, np.uint8)[::2]),
        (encoded(1.0, codec=BF16), encoded(1.0, codec=BF16)),
        (encoded(1.0), PLAIN.encode(torch.ones(2, dtype=torch.float64), None)[0]),
        (encoded(1.0), replace(encoded(1.0), num_coordinates="1")),
    ],
)
def test_anything_else_goes_another_way(payload: object) -> None:
    assert rows_of(payload) is None

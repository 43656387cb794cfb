"""How an encoded range travels: a header of 32 bytes that says what it is, and one body.

The body is a flat array of bytes, so that it moves through the object store, a socket or a file as one buffer without a copy. Nothing in
a payload is believed: a codec computes from its own knowledge (which codec, how many coordinates the receiver expects) how many bytes
there must be, compares, and only then looks into the body. The receiver brings the memory that is decoded into, so a length in a header
never causes an allocation.

Header, little-endian:

======  =====  ==================================================================================
offset  bytes  field
======  =====  ==================================================================================
0       4      magic `GC01`
4       1      codec id
5       1      version, 1
6       2      flags: bit 0 stochastic, bit 1 indices from a shared key, bit 2 smoothed, bit 3 float16 values
8       8      number of coordinates
16      4      p0: kept, group size or block length
20      4      p1: levels or bits
24      4      step, counted from 1
28      4      tensor id: position of the range in the layout
======  =====  ==================================================================================
"""

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mottle.core.errors import MottleError

MAGIC = b"GC01"
VERSION = 1
HEADER = struct.Struct("<4sBBHQIIII")

Body = npt.NDArray[np.uint8]


class PayloadError(MottleError, ValueError):
    """What came is not what this codec sends for such a range: the sender's fault, never the user's."""


@dataclass(frozen=True, slots=True, eq=False)
class Payload:
    """An encoded range.

    Attributes:
        body: shape (n,), uint8, contiguous; read-only when it lies in shared memory. May be a view of the tensor that was encoded: write
            it out, or copy it, before that tensor changes.
    """

    codec_id: int
    num_coordinates: int
    body: Body
    version: int = VERSION
    flags: int = 0
    p0: int = 0
    p1: int = 0
    step: int = 0
    tensor_id: int = 0

    def header(self) -> bytes:
        """The 32 bytes that go before the body."""
        return HEADER.pack(
            MAGIC, self.codec_id, self.version, self.flags, self.num_coordinates, self.p0, self.p1, self.step, self.tensor_id
        )


def from_wire(header: bytes, body: bytes | memoryview) -> Payload:
    """A payload from its two parts; the body is not copied.

    Raises:
        PayloadError: not a header of this format.
    """
    if len(header) != HEADER.size:
        raise PayloadError(f"a payload's header has {HEADER.size} bytes, got {len(header)}")
    magic, codec_id, version, flags, num_coordinates, p0, p1, step, tensor_id = HEADER.unpack(header)
    if magic != MAGIC:
        raise PayloadError(f"a payload begins with {MAGIC!r}, got {magic!r}")
    return Payload(codec_id, num_coordinates, np.frombuffer(body, dtype=np.uint8), version, flags, p0, p1, step, tensor_id)


def check(payload: Payload, *, codec_id: int, num_coordinates: int, num_bytes: int, p0: int = 0, p1: int = 0, flags: int = 0) -> Body:
    """The body, when everything about it is as the receiver expects.

    Every field may hold anything (a payload can come from a hostile worker), so all are compared by value and type, and none is used.

    Raises:
        PayloadError: names all differences.
    """
    if not isinstance(payload, Payload):
        raise PayloadError(f"a payload was wanted, got {type(payload).__name__}")
    wanted = {
        "codec_id": codec_id,
        "version": VERSION,
        "flags": flags,
        "num_coordinates": num_coordinates,
        "p0": p0,
        "p1": p1,
    }
    wrong = [
        f"{name} {getattr(payload, name)!r:.40} instead of {value}"
        for name, value in wanted.items()
        if not _is(getattr(payload, name), value)
    ]
    body = payload.body
    if not is_row(body):
        wrong.append(f"a body that is no contiguous row of bytes ({type(body).__name__})")
    elif len(body) != num_bytes:
        wrong.append(f"{len(body)} bytes instead of {num_bytes}")
    if wrong:
        raise PayloadError(f"not what this codec sends for {num_coordinates} coordinates: {'; '.join(wrong)}")
    return body


def is_row(body: object) -> bool:
    """Whether it is a contiguous row of bytes, as the body of every payload is."""
    return isinstance(body, np.ndarray) and body.dtype == np.uint8 and body.ndim == 1 and body.flags.c_contiguous


def _is(value: object, wanted: int) -> bool:
    return type(value) is int and value == wanted

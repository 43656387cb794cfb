"""Codecs: how a range of an update travels. The contract for codecs of one's own is `mottle.compression.contract`."""

from mottle.compression.base import Codec, Memory
from mottle.compression.bf16 import BFloat16
from mottle.compression.catalogue import CATALOGUE, build, remembers
from mottle.compression.e3m0 import E3M0
from mottle.compression.identity import Identity
from mottle.compression.payload import Payload, PayloadError, from_wire

__all__ = ["CATALOGUE", "E3M0", "BFloat16", "Codec", "Identity", "Memory", "Payload", "PayloadError", "build", "from_wire", "remembers"]

"""Which codecs there are, and one from its name in a job."""

from collections.abc import Mapping
from typing import Any

import torch

from mottle.compression.base import Codec
from mottle.compression.bf16 import BFloat16
from mottle.compression.e3m0 import E3M0
from mottle.compression.identity import Identity
from mottle.core.layout import BLOCK
from mottle.core.naming import construct

CATALOGUE: Mapping[str, type[Any]] = {"identity": Identity, "bf16": BFloat16, "e3m0": E3M0}


def build(spec: object) -> Codec:
    """A codec from its name (`{"bf16": {}}`), a codec as it is, or `None` for identity.

    Raises:
        ConfigError: unknown name or option (names the nearest), or a value out of range.
    """
    if spec is None:
        return Identity()
    if isinstance(spec, Codec) and not isinstance(spec, type):
        return spec
    codec: Codec = construct(spec, CATALOGUE, "codec")
    return codec


def remembers(codec: Codec) -> bool:
    """Whether the codec keeps a memory from update to update."""
    return codec.encode(torch.zeros(BLOCK), None)[1] is not None

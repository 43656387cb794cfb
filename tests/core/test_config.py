"""The brain's numbers: what no run can be made of is refused, all of it at once."""

import math
from typing import Any

import pytest

from mottle.core.config import BrainConfig
from mottle.core.errors import ConfigError


def test_a_data_set_is_all_that_is_needed() -> None:
    assert BrainConfig(num_positions=1).evaluate_every is None


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ({"num_positions": 0}, "num_positions must be an integer of at least 1, got 0"),
        ({"evaluate_every": 0}, "evaluate_every must be an integer of at least 1, got 0"),
        ({"checkpoint_every": -5}, "checkpoint_every must be an integer of at least 1, got -5"),
        ({"max_samples": 2.5}, r"max_samples must be an integer of at least 1, got 2\.5"),
        ({"max_ns": 0}, "max_ns must be an integer"),
        ({"num_shards": True}, "num_shards must be an integer of at least 1, got True"),
        ({"replicas": 2}, "replicas is 0 or 1 further copy of each shard, got 2"),
        ({"max_grad_norm": 0.0}, r"max_grad_norm must be above 0 and finite, got 0\.0; leave it out"),
        ({"max_grad_norm": math.inf}, "max_grad_norm must be above 0 and finite"),
        ({"max_grad_norm": "1"}, "max_grad_norm must be above 0 and finite, got '1'"),
        ({"target": ("test_loss", math.nan)}, "the target of test_loss must be a number, got nan"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"lease_floor_ns": -1}, "lease_floor_ns must be an integer of at least 1"),
        ({"evaluate_every": 0, "seed": None}, "seed must be an integer .*; evaluate_every must be"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_what_cannot_be_is_told(numbers: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        BrainConfig(**{"num_positions": 8, **numbers})

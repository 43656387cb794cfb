"""Replicas that move off machines which are taken away, on numbers: no bit of the model changes."""

import numpy as np
import pytest

from mottle.core import protocol as p


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("replicas", [0, 1])
def test_replicas_that_move_change_no_bit(train, least_squares, replicas: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    problem = least_squares(num_samples=64, dim=4, seed=1)
    settings = {
        "defaults": {"batch_size": 8, "lr": 0.01},
        "num_positions": 64,
        "max_samples": 640,
        "num_shards": 2,
        "replicas": replicas,
        "checkpoint_every": 100,
        "max_grad_norm": 1.0,
    }
    still = train("sync", problem, speeds=(1, 2), **settings)
    still.run()
    moved = train("sync", problem, speeds=(1, 2), **settings)
    for _ in range(5):
        last_ns = moved.now_ns + int(rng.integers(1, 80))
        moved.run(until=lambda last_ns=last_ns: moved.now_ns > last_ns)
        live = sorted(moved.brain.shards.live)
        moved.tell(p.ReplicaDraining(live[int(rng.integers(len(live)))]))
    moved.run()
    assert moved.finished == p.Finished("samples")
    assert max(replica.replica for replica in moved.brain.shards.live) > replicas, "none has moved"
    assert len(moved.brain.shards.live) == 2 * (1 + replicas)
    assert np.array_equal(still.params, moved.params)
    assert still.used == moved.used

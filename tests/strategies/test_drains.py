"""Replicas that move off machines which are taken away, on numbers: no bit of the model changes."""

import numpy as np
import pytest

from mottle.core import protocol as p

PROBLEM = {"num_samples": 64, "dim": 4, "seed": 1}
SETTINGS = {
    "defaults": {"batch_size": 8, "lr": 0.01},
    "num_positions": 64,
    "max_samples": 640,
    "num_shards": 2,
    "checkpoint_every": 100,
    "max_grad_norm": 1.0,
}


@pytest.fixture(scope="module", params=[0, 1])
def still(request, train, least_squares):
    """Replicas of each shard, and the run in which none of them moves: once for all that are compared with it."""
    run = train("sync", least_squares(**PROBLEM), speeds=(1, 2), replicas=request.param, **SETTINGS)
    run.run()
    return request.param, run


@pytest.mark.parametrize("seed", range(10))
def test_replicas_that_move_change_no_bit(train, least_squares, still, seed: int) -> None:
    replicas, unmoved = still
    rng = np.random.default_rng(seed)
    moved = train("sync", least_squares(**PROBLEM), speeds=(1, 2), replicas=replicas, **SETTINGS)
    for _ in range(5):
        last_ns = moved.now_ns + int(rng.integers(1, 80))
        moved.run(until=lambda last_ns=last_ns: moved.now_ns > last_ns)
        live = sorted(moved.brain.shards.live)
        moved.tell(p.ReplicaDraining(live[int(rng.integers(len(live)))]))
    moved.run()
    assert moved.finished == p.Finished("samples")
    assert max(replica.replica for replica in moved.brain.shards.live) > replicas, "none has moved"
    assert len(moved.brain.shards.live) == 2 * (1 + replicas)
    assert np.array_equal(unmoved.params, moved.params)
    assert unmoved.used == moved.used

"""The run context that Ray's `UserCallback`s are given. Its class is private to Ray; this is the one place that knows it."""

from typing import Any

import ray.train


def run_context(name: str, storage_path: str, num_workers: int) -> Any:
    """A `TrainRunContext` with the run's name, its storage and the number of workers that it starts with."""
    from ray.train.v2._internal.execution.context import TrainRunContext

    make: Any = TrainRunContext
    return make(
        run_config=ray.train.RunConfig(name=name, storage_path=storage_path),
        train_loop_config=None,
        scaling_config=ray.train.ScalingConfig(num_workers=num_workers),
        backend_config=ray.train.BackendConfig(),
        dataset_config=ray.train.DataConfig(),
    )

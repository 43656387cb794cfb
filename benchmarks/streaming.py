"""Streaming DiLoCo against synchronous training: bytes on the wire and final loss, on the byte-level GPT of `examples/gpt`.

    python benchmarks/streaming.py [--width 160] [--samples 16000] [--set outer_lr=0.9 --set local_steps=17 --set download=bf16 ...]

The learning simulator runs the very machines, engine and codecs of a live run and counts what each worker's links carry, up and down; time
plays no part. Same model, data, inner optimizer, schedule and number of samples; two workers that share a batch of 8.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples" / "gpt"))

import gpt
import torch
import train
import yaml
from table import tell

from mottle import strategies
from mottle.core.brain import Brain
from mottle.core.config import BrainConfig
from mottle.core.fragments import fragments_of
from mottle.core.strategy import Fragmented
from mottle.engines.flat import flatten
from mottle.sdk import Trainer
from mottle.simulate import Fleet, Learning, Simulation, TorchProblem, Workers

WORKERS, BATCH = 2, 8


def job(samples: int, width: int, depth: int, seed: int) -> Trainer:
    """The example's synchronous job, for a model of that size."""
    return train.trainer(
        "sync", Path("never-made"), samples=samples, batch_size=BATCH, model=lambda: gpt.GPT(width, depth, max(1, width // 32)), seed=seed
    )


def outcome(described: Trainer, spec: Any, codec: str) -> tuple[float, float, int]:
    """Final loss on held-out files, bytes a sample over all workers, and parameters."""
    job = described.job
    torch.manual_seed(job.seed)
    start = flatten(job.model(), job.layout)
    strategy = strategies.build(spec, job.strategy_defaults)
    local = strategy.server_optimizer is not None
    problem = TorchProblem(
        job.model, job.loss, job.layout, start, job.loader, test=job.test, seed=job.seed,
        micro_batch_size=BATCH, max_grad_norm_per_worker=1.0 if local else None,
    )  # fmt: skip
    config = BrainConfig(
        num_positions=job.brain.num_positions,
        max_samples=job.brain.max_samples,
        evaluate_every=job.brain.max_samples,
        max_grad_norm=None if local else 1.0,
        lease_floor_ns=None,
        seed=job.seed,
    )
    brain = Brain(config, strategy)
    numbers = Learning(
        problem,
        brain.shards.live,
        optimizer=strategy.server_optimizer or job.optimizer,
        codec=codec,
        schedule=job.schedule,
        fragments=fragments_of(job.layout, strategy.fragmentation) if isinstance(strategy, Fragmented) else None,
    )
    run = Simulation(brain, Fleet(workers=(Workers(count=WORKERS, sample_s=0.01),)), numbers).run()
    carried = sum(worker.side.up.num_bytes + worker.side.down.num_bytes for worker in run.crew.all.values())
    return run.tally.points[-1].metrics["test_loss"], carried / brain.samples, job.layout.num_params


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--samples", type=int, default=8_000)
    parser.add_argument("--codec", default="e3m0")
    parser.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE", help="of the strategy, beside its defaults")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = {"fragments": 2, **{name: yaml.safe_load(value) for name, value in (each.split("=") for each in options.set)}}
    described = job(options.samples, options.width, options.depth, options.seed)
    sync_loss, sync_bytes, size = outcome(described, "sync", "identity")
    print(f"sync: loss {sync_loss:.4f}, {sync_bytes:,.0f} bytes a sample", flush=True)
    loss, per_sample, _ = outcome(described, {"streaming_diloco": chosen}, options.codec)
    print(f"streaming_diloco: loss {loss:.4f}, {per_sample:,.0f} bytes a sample", flush=True)
    tell(
        f"Streaming DiLoCo ({options.codec}) against synchronous training, byte-level GPT of {size:,} parameters, {WORKERS} workers, "
        f"{options.samples:,} windows, learning simulator",
        f"1/{sync_bytes / per_sample:.0f} of the bytes a sample, loss {loss:.3f} against {sync_loss:.3f} ({loss / sync_loss - 1:+.1%})",
        "1/50 at a loss within 1 %",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

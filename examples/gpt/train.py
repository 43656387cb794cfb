"""Train a small GPT on the Python standard library's own source text, then let it write some.

    python examples/gpt/train.py [--strategy async] [--samples 16000] [--minutes 5] [--workers 2] [--out runs/gpt]

Both strategies train the same model with AdamW, at rates of their own. `sync`: every step takes one batch, shared among the workers, and
waits for all of them. `async`: every worker's batch is a step of its own, and nobody waits.
"""

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import gpt
import ray
import stdlib_text
from rich.console import Console
from torch import Tensor, nn

from mottle.observe import Display, write_report
from mottle.sdk import Result, Trainer, WorkerGroup

SAMPLE_BYTES = 600
WARM_UP = 0.05
EVALUATIONS = 10


# Two asynchronous workers step on gradients that are one step old. At the synchronous rate that alone, in plain PyTorch too, keeps the
# model for a quarter of the run at what the frequencies of the bytes tell.
LEARNING_RATE = {"sync": 3e-3, "async": 2e-3}
ADAMW = {
    "betas": (0.9, 0.95),
    "weight_decay": 0.1,
    # Decay pulls matrices towards zero; norms and biases have no business there.
    "param_groups": [{"params": ["*norm*", "*.bias"], "weight_decay": 0.0}],
}


def trainer(
    strategy: str,
    folder: Path,
    *,
    samples: int,
    minutes: float | None = None,
    workers: int = 2,
    batch_size: int = 8,
    model: Callable[[], nn.Module] = gpt.GPT,
    seed: int = 0,
) -> Trainer:
    """The job. Its samples are windows of text.

    The learning rate follows the samples, so `minutes` that run out before them end the run at a higher rate than planned.
    """
    warm_up = max(1, round(WARM_UP * samples))
    return Trainer(
        model,
        gpt.loss,
        stdlib_text.train_data,
        test_data=stdlib_text.test_data,
        metrics={"bits_per_byte": gpt.bits_per_byte},
        optimizer={"adamw": {"lr": LEARNING_RATE[strategy], **ADAMW}},
        lr_schedule={"linear_warmup": {"samples": warm_up, "then": {"cosine": {"samples": samples - warm_up, "floor": 0.05}}}},
        batch_size=batch_size,
        until={"samples": samples} | ({} if minutes is None else {"seconds": 60 * minutes}),
        strategy=strategy,
        scaling_config=WorkerGroup(count=workers),
        evaluate_every=max(1, samples // EVALUATIONS),
        max_grad_norm=1.0 if strategy == "sync" else None,
        seed=seed,
        seed_samples=False,  # a window is read as it lies there: nothing about it is random
        folder=folder,
    )


def train(job: Trainer) -> tuple[Result, dict[str, Tensor]]:
    """To the end, under a live display; returns what the run leaves behind, and the trained parameters."""
    run = job.start()
    with Display() as display:
        for snapshot in run.watch():
            display.show(snapshot)
        parameters = run.parameters()
        result = run.result()
        display.finish(run.progress)
    return result, parameters


def write(parameters: dict[str, Tensor], num_bytes: int = SAMPLE_BYTES, model: Callable[[], nn.Module] = gpt.GPT) -> bytes:
    """The first `num_bytes` bytes of what the trained model takes for a source file."""
    trained = model()
    trained.load_state_dict(parameters)
    return gpt.generate(trained, stdlib_text.END_OF_FILE, num_bytes)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategy", choices=["sync", "async"], default="async")
    parser.add_argument("--samples", type=int, default=16_000, help="windows of text to train on; the learning rate falls over them")
    parser.add_argument("--minutes", type=float, help="end after that long, even if samples are left")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/gpt"))
    options = parser.parse_args()
    folder: Path = options.out / options.strategy
    shutil.rmtree(folder, ignore_errors=True)
    job = trainer(options.strategy, folder, samples=options.samples, minutes=options.minutes, workers=options.workers)
    result, parameters = train(job)
    ray.shutdown()
    text = write(parameters)
    (folder / "sample.txt").write_bytes(text)
    report = write_report(folder)
    console = Console(highlight=False)
    console.rule("what it writes")
    console.print(text.decode(errors="replace"), markup=False)
    console.rule()
    assert result.metrics is not None
    print(f"{result.metrics['test_bits_per_byte']:.3f} bits per byte on held-out files; report: {report}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

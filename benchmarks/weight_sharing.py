"""Does a supernet rank architectures as training each of them alone would, and better so in parts that gradient matching splits it into?

    python benchmarks/weight_sharing.py [--seeds 0 1] [--epochs 30] [--alone 40] [--kept FILE]

The search of `examples/supernet` once for each seed, on a live local Ray. The sample that is trained alone, in plain PyTorch, is the same
for all of them.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import ray
import torch
from table import tell

from mottle.sdk import kept_processes

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples" / "supernet"))
import report
import search
import space


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument(
        "--epochs", type=int, default=search.Settings.epochs, help="of the supernet; each part after a split gets half of it"
    )
    parser.add_argument("--alone", type=int, default=search.Settings.alone, help="architectures to train alone, 2 or more")
    parser.add_argument("--kept", type=Path, help="JSON file in which results of training alone are looked for and kept")
    parser.add_argument("--picture", type=Path, help="where to draw the first seed's rankings")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the model is small, threads would wait for each other
    settings = [
        search.Settings(seed=seed, epochs=options.epochs, part_epochs=max(1, options.epochs // 2), alone=options.alone)
        for seed in options.seeds
    ]
    with tempfile.TemporaryDirectory() as folder, kept_processes():
        searches = [search.search(each, Path(folder) / str(each.seed)) for each in settings]
    ray.shutdown()
    truth = search.train_alone(space.sample(space.whole(settings[0].num_layers), options.alone, seed=0), settings[0], options.kept)
    rows = []
    for each, found in zip(settings, searches, strict=True):
        print(f"seed {each.seed}", flush=True)
        report.tell(found, truth, search.train_alone([*found.chosen.values()], each, options.kept))
        rows.append(report.correlations(found.scores, truth))
    if options.picture is not None:
        report.draw(searches[0], truth, options.picture)
    seeds = ", ".join(map(str, options.seeds))
    tell(
        f"{options.alone} of {len(searches[0].scores[search.WHOLE])} architectures ranked by a supernet and by training each alone, "
        f"digits, {options.epochs} epochs, 3 asynchronous workers, seed {seeds}: Kendall's tau",
        "; ".join(f"{name} {_several([row[name].kendall for row in rows])}" for name in rows[0]),
    )
    return 0


def _several(values: list[float]) -> str:
    """One figure where all are the same; else each of them, and their mean."""
    if len({*values}) == 1:
        return f"{values[0]:.3f}"
    return f"{statistics.mean(values):.3f} ({', '.join(f'{value:.3f}' for value in values)})"


if __name__ == "__main__":
    sys.exit(main())

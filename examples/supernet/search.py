"""Weight-sharing search on the digits: does a supernet rank architectures as training each of them alone would?

    python examples/supernet/search.py [--seed 0] [--epochs 30] [--alone 40] [--out runs/supernet]

1. Trains a supernet of 625 architectures, asynchronously on an unequal crew: every micro-batch trains one path.
2. Ranks all of them by the weights that they inherit.
3. Splits the space by gradient matching, trains each part on from the supernet's weights, and ranks again; beside it the same work without
   a split, and with a split at random.
4. Searches by gradient descent (TangleNAS).
5. Trains a sample alone, and what was chosen; compares the rankings.
"""

import argparse
import random
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import matching
import ray
import report
import tangled
import torch
from ranking import FLOOR, Alone, inherited
from report import Found
from space import Architecture, Space, paths, sample, whole
from supernet import NUM_LAYERS, Measured, Supernet, train_data
from torch import nn

from mottle.sdk import Trainer, kept_processes
from mottle.sdk.jobfile import read

JOB = Path(__file__).resolve().with_name("supernet.yaml")
WHOLE, LONGER, MATCHED, CHANCE, DESCENT = "supernet", "trained on whole", "split by gradients", "split at random", "TangleNAS"
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Of a search."""

    seed: int = 0
    """Of every run, and of the random split."""
    num_layers: int = NUM_LAYERS
    epochs: int = 30
    """Of the supernet, and of the search by gradient descent."""
    part_epochs: int = 15
    """Of each part after a split; the whole is trained on for those of all parts together."""
    split_layers: int = 1
    draws: int = 64
    """Paths that an operator's gradient is the mean over."""
    alone: int = 40
    """Architectures trained alone: the same ones whatever the seed."""
    alone_seeds: tuple[int, ...] = (0, 1)
    alone_epochs: int = 12


# --- training -------------------------------------------------------------------------------------------------------------------------


def trainer(model: nn.Module | Callable[[], nn.Module], epochs: int, seed: int, folder: Path, **changes: Any) -> Trainer:
    """The job file's job with this model (that begins as it is, if it is a module), and a learning rate that falls over the epochs."""
    job = read(JOB, [f"until.epochs={epochs}", f"seed={seed}"]).trainer(folder=folder)
    schedule = {"cosine": {"samples": epochs * len(train_data()), "floor": FLOOR}}
    return Trainer(**{**job.arguments, "model": model, "lr_schedule": schedule, **changes})


def trained(job: Trainer, model: Module) -> Module:
    """`model` with the weights that the job ends with."""
    run = job.start()
    for _ in run.watch():
        pass
    parameters = run.parameters()
    if (error := run.result().error) is not None:
        raise error
    model.load_state_dict(parameters)
    return model


def copied(model: Supernet, space: Space) -> Supernet:
    """Its weights, for a part of its space."""
    part = Supernet(space)
    part.load_state_dict(model.state_dict())
    return part


def learning_rate() -> float:
    """Of the weights, as the job file has it."""
    return float(read(JOB).data["optimizer"]["adam"]["lr"])


# --- searching ------------------------------------------------------------------------------------------------------------------------


def search(settings: Settings, out: Path) -> Found:
    """Everything but what is trained alone."""
    found = Found()
    space = whole(settings.num_layers)
    supernet = trained(trainer(partial(Supernet, space), settings.epochs, settings.seed, out / "supernet"), Supernet(space))
    for layer in range(settings.num_layers):
        grads_OD = matching.gradients(supernet, layer, train_data(), draws=settings.draws, seed=settings.seed)
        found.agreements.append(matching.agreement(grads_OD, matching.used(supernet, layer)))
        found.cuts.append(matching.cut(found.agreements[-1]))
    matched = matching.split(space, found.cuts, settings.split_layers)
    by_chance = matching.split(space, random_cuts(space, settings.seed), settings.split_layers)
    models = {
        WHOLE: [supernet],
        LONGER: go_on(supernet, [space], len(matched) * settings.part_epochs, settings.seed, out / "longer"),
        MATCHED: go_on(supernet, matched, settings.part_epochs, settings.seed, out / "matched"),
        CHANCE: go_on(supernet, by_chance, settings.part_epochs, settings.seed, out / "chance"),
    }
    found.scores = {name: inherited(each, paths(space)) for name, each in models.items()}
    found.chosen = {name: min(scores, key=scores.__getitem__) for name, scores in found.scores.items()}
    found.chosen[DESCENT] = descend(settings, out / "tangled").chosen()
    return found


def go_on(supernet: Supernet, spaces: Sequence[Space], epochs: int, seed: int, folder: Path) -> list[Supernet]:
    """A supernet for each of the spaces, trained on from its weights, one run after the other."""
    parts = [copied(supernet, space) for space in spaces]
    return [trained(trainer(part, epochs, seed, folder / str(number)), part) for number, part in enumerate(parts)]


def descend(settings: Settings, folder: Path) -> tangled.Tangled:
    """The search by gradient descent, for as many epochs as the supernet's."""
    rate = learning_rate()
    job = trainer(
        partial(tangled.Tangled, settings.num_layers),
        settings.epochs,
        settings.seed,
        folder,
        loss=tangled.loss,
        train_data=tangled.halved_data,
        metrics={"accuracy": tangled.accuracy},
        optimizer={"adam": {"lr": rate, "param_groups": [{"params": ["alpha_LO"], "lr": tangled.FASTER * rate}]}},
    )
    return trained(job, tangled.Tangled(settings.num_layers))


def random_cuts(space: Space, seed: int) -> list[matching.Cut]:
    """A balanced cut of every layer, and which layers are split, by chance."""
    chance = random.Random(seed)
    return [matching.Cut(chance.choice(list(matching.balanced(tuple(range(len(each))), 2))), chance.random()) for each in space]


def train_alone(some: Sequence[Architecture], settings: Settings, kept: Path | None = None) -> dict[Architecture, list[Measured]]:
    """Each of them by itself, once for each seed; `kept` as in `ranking.Alone`."""
    alone = Alone(epochs=settings.alone_epochs, lr=learning_rate(), kept=kept)
    return {path: alone.measure(path, settings.alone_seeds) for path in some}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--epochs", type=int, default=Settings.epochs, help="of the supernet; each part after a split gets half as many")
    parser.add_argument("--alone", type=int, default=Settings.alone, help="architectures to train alone, 2 or more")
    parser.add_argument("--kept", type=Path, help="JSON file in which results of training alone are looked for and kept")
    parser.add_argument("--out", type=Path, default=Path("runs/supernet"))
    options = parser.parse_args()
    settings = Settings(seed=options.seed, epochs=options.epochs, part_epochs=max(1, options.epochs // 2), alone=options.alone)
    out: Path = options.out
    shutil.rmtree(out, ignore_errors=True)
    torch.set_num_threads(1)  # the model is small, threads would wait for each other
    with kept_processes():
        found = search(settings, out)
    ray.shutdown()
    print(f"training {settings.alone} of {len(found.scores[WHOLE])} architectures alone ...", flush=True)
    truth = train_alone(sample(whole(settings.num_layers), settings.alone, seed=0), settings, options.kept)
    best = train_alone([*found.chosen.values()], settings, options.kept)
    report.tell(found, truth, best)
    print(f"all scores: {report.save(found, truth, out / 'ranking.json')}; picture: {report.draw(found, truth, out / 'ranking.png')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

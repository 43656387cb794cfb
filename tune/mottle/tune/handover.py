"""Checkpoints between Mottle's runs and Ray Tune: what a trial hands over, and how another one takes it up.

A checkpoint of Tune's is a token first, `trial.json`: of which run, version and model it is, and who coordinates it. As long as that run
lives the model is copied from its shards (`mottle.actors.copies`), whatever has become of the version by then. The durable copy of the
version, a whole checkpoint of the run, follows into the same folder in the background (`mottle.tune.keeping`); its manifest comes last.
Before it is there the run's own folder has what was saved so far.

Another trial may have another optimizer or strategy: what the old one kept is then left behind, and the new one begins with the
parameters alone.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import ray.tune
import torch

from mottle import optim, strategies
from mottle.actors.copies import Source
from mottle.actors.job import Job
from mottle.checkpoint import Manifest, WorkerPart, folder_of, numbers, read_manifest, read_part, write_manifest
from mottle.checkpoint.manifest import MANIFEST_FILE
from mottle.checkpoint.parts import CheckpointError
from mottle.core.layout import GroupRange
from mottle.core.naming import folded, parse
from mottle.core.protocol import KEPT
from mottle.engines.local import INNER
from mottle.storage import Folder

LOOK_EVERY_S = 0.05
TRIAL_FILE = "trial.json"
FORMAT = 2


@dataclass(frozen=True, kw_only=True)
class Token:
    """What Tune keeps of a trial at once."""

    source: Source
    """The live model."""
    version: int
    """That was measured."""
    strategy: str
    """Name of the trial's."""


def write_token(token: Token, directory: str) -> None:
    told = {"format": FORMAT, **asdict(token), "source": token.source._asdict()}
    Path(directory, TRIAL_FILE).write_text(json.dumps(told) + "\n", encoding="utf-8")


class InPlace(ray.tune.Checkpoint):
    """A checkpoint that is read where it lies. Ray would download all of it before a trial sees any, and a run that takes the model from
    another one's shards wants a file of a few hundred bytes."""

    @contextmanager
    def as_directory(self) -> Iterator["InPlace"]:  # type: ignore[override]  # `Trainable.restore` passes on what it gets here
        yield self

    def __fspath__(self) -> str:
        """Where `Trainable.restore` looks for a pickled dictionary: nowhere."""
        return os.devnull

    @property
    def folder(self) -> Folder:
        return Folder(self.filesystem, self.path)


def read_token(folder: Folder) -> Token:
    """Inverse of `write_token`.

    Raises:
        CheckpointError: it is none of ours, damaged, or of another format.
    """
    if not folder.has(TRIAL_FILE):
        raise CheckpointError(f"{folder.path} is no checkpoint of a Mottle trial: there is no {TRIAL_FILE}")
    file = f"{folder.path}/{TRIAL_FILE}"
    try:
        told = dict(json.loads(folder.read_text(TRIAL_FILE)))
        if (written := told.pop("format", None)) == FORMAT:
            return Token(**{**told, "source": Source(**told["source"])})
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{file} is damaged: {error}") from error
    raise CheckpointError(f"{file} has format {written}, this Mottle reads {FORMAT}; restore with the Mottle that wrote it")


# --- durable copies ---------------------------------------------------------------------------------------------------------------------


def whole(run: Folder, version: int, lineage: int) -> Manifest | None:
    """The oldest whole checkpoint of at least that version of a model; None if there is none yet."""
    manifests = (read_manifest(run, number) for number in numbers(run))
    return next((each for each in manifests if each.version[0] == lineage and each.version[1] >= version), None)


def hand_over(run: Folder, manifest: Manifest, kept: Folder) -> None:
    """Copy a checkpoint of a run to where its token lies, then delete those that are older: nobody asks for them any more.

    Tune may delete its folder at any moment; then nothing is left there.
    """
    if kept.has(TRIAL_FILE):
        _copy(folder_of(run, manifest.number), kept)
        if not kept.has(TRIAL_FILE):
            kept.remove_all()
    for number in numbers(run):
        if number < manifest.number:
            folder_of(run, number).remove_all()


def take_up(kept: Folder, token: Token, job: Job, is_coming: Callable[[], bool] = lambda: False) -> Manifest | None:
    """Make the durable copy of a checkpoint of Tune's the first checkpoint of a new run; None if its writer died before anything was saved.

    One whose writer died before it was there is taken from the run's own folder: what was saved last before it, if need be.

    Args:
        kept: Tune's folder, with the token.
        job: what goes on, in a folder of its own.
        is_coming: whether the durable copy may still be written, and is worth waiting for.
    Raises:
        CheckpointError: it is damaged.
    """
    saved, run = _saved(kept, token, is_coming), Folder.at(job.run_dir)
    if saved is None:
        return None
    number = int(json.loads(saved.read_text(MANIFEST_FILE))["number"])
    _copy(saved, folder_of(run, number))
    manifest = read_manifest(run, number)
    if folded(token.strategy) != folded(_name(job)):
        manifest = replace(_with_a_fresh_strategy(manifest, job), workers=())
    if not all(_goes_on(folder_of(run, number), part, job) for part in manifest.workers):
        manifest = replace(manifest, workers=())
    held = {name for part in manifest.optimizer for name in read_part(folder_of(run, number), part)}
    slots = {name for name in held if not name.startswith(KEPT)}
    if slots and slots != _kept_by(job.server_optimizer or job.optimizer):
        manifest = replace(manifest, optimizer=())
        if held > slots:  # what its strategy kept on the shards is left behind with it
            manifest = _with_a_fresh_strategy(manifest, job)
    write_manifest(run, manifest)
    return manifest


def token_of(job: Job, source: Source, version: int) -> Token:
    return Token(source=source, version=version, strategy=_name(job))


def _saved(kept: Folder, token: Token, is_coming: Callable[[], bool]) -> Folder | None:
    """Where a whole checkpoint for a token lies."""
    if kept.has(MANIFEST_FILE):
        return kept
    run, last = Folder.at(token.source.run), False
    while not last:
        last = not is_coming()  # asked before the look: what was written by then is seen
        if (found := whole(run, token.version, token.source.lineage)) is not None:
            return folder_of(run, found.number)
        if not last:
            time.sleep(LOOK_EVERY_S)
    earlier = numbers(run)
    return folder_of(run, earlier[-1]) if earlier else None


def _name(job: Job) -> str:
    return parse(job.strategy, "strategy")[0]


def _with_a_fresh_strategy(manifest: Manifest, job: Job) -> Manifest:
    begun = strategies.build(job.strategy, job.strategy_defaults).state()
    return replace(manifest, brain={**manifest.brain, "strategy": begun})


def _kept_by(optimizer: Any) -> set[str]:
    """Names of what an optimizer keeps, found by taking one step on a coordinate of each group."""
    num_groups = 1 + len(optim.read(optimizer).group_options)
    stepper = optim.build_server(optimizer, torch.zeros(num_groups), [GroupRange(each, each + 1, each) for each in range(num_groups)])
    stepper.step(torch.zeros(num_groups))
    return set(stepper.state())


def _goes_on(folder: Folder, part: WorkerPart, job: Job) -> bool:
    """Whether a worker of the job can go on from the part: its inner optimizer keeps what the part has of one."""
    inner = {name.removeprefix(INNER) for name in read_part(folder, part.saved) if name.startswith(INNER)}
    return not inner or inner == _kept_by(job.optimizer)


def _copy(source: Folder, destination: Folder) -> None:
    """Copy a whole checkpoint, the manifest last: without it nothing is there."""
    destination.filesystem.create_dir(destination.path, recursive=True)
    parts = [name for name in source.names() if name not in (MANIFEST_FILE, TRIAL_FILE) and not name.startswith(".")]
    for name in [*parts, MANIFEST_FILE]:
        pafs.copy_files(
            f"{source.path}/{name}", f"{destination.path}/{name}",
            source_filesystem=source.filesystem, destination_filesystem=destination.filesystem,
        )  # fmt: skip

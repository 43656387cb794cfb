"""Checkpoints between Mottle's runs and Ray Tune: what a trial hands over, and how another one takes it up.

A checkpoint of Tune's holds one whole checkpoint of the run and `trial.json`, which says of which job. Another trial may have another
optimizer or strategy: what the old one kept is then left behind, and the new one begins with the parameters alone.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import torch

from mottle import optim, strategies
from mottle.actors.job import Job
from mottle.checkpoint import Manifest, WorkerPart, folder_of, numbers, read_manifest, read_part, write_manifest
from mottle.checkpoint.parts import CheckpointError
from mottle.core.layout import GroupRange
from mottle.core.naming import folded, parse
from mottle.engines.local import INNER
from mottle.storage import Folder

TRIAL_FILE = "trial.json"
FORMAT = 1


def whole(run: Folder, version: int) -> Manifest | None:
    """The oldest whole checkpoint of at least that version; None if there is none yet."""
    manifests = (read_manifest(run, number) for number in numbers(run))
    return next((manifest for manifest in manifests if manifest.version[1] >= version), None)


def hand_over(job: Job, manifest: Manifest, directory: str) -> None:
    """Copy a checkpoint of a run to where Tune wants it, then delete those that are older: nobody asks for them any more.

    Args:
        job: of the run.
        directory: empty, on this machine.
    """
    run = Folder.at(job.run_dir)
    _copy(folder_of(run, manifest.number), Folder.at(directory))
    told = {"format": FORMAT, "checkpoint": manifest.number, "strategy": _name(job)}
    Path(directory, TRIAL_FILE).write_text(json.dumps(told) + "\n", encoding="utf-8")
    for number in numbers(run):
        if number < manifest.number:
            folder_of(run, number).remove_all()


def take_up(directory: str, job: Job) -> Manifest:
    """Make a checkpoint of Tune's the first one of a new run.

    Args:
        job: what goes on, in a folder of its own.
    Raises:
        CheckpointError: it is none of ours, damaged, or of another format.
    """
    told, run = _told(Path(directory, TRIAL_FILE)), Folder.at(job.run_dir)
    number = int(told["checkpoint"])
    _copy(Folder.at(directory), folder_of(run, number))
    manifest = read_manifest(run, number)
    if folded(str(told["strategy"])) != folded(_name(job)):
        begun = strategies.build(job.strategy, job.strategy_defaults).state()
        manifest = replace(manifest, brain={**manifest.brain, "strategy": begun}, workers=())
    if not all(_goes_on(folder_of(run, number), part, job) for part in manifest.workers):
        manifest = replace(manifest, workers=())
    if not _fits(folder_of(run, number), manifest, job.server_optimizer or job.optimizer):
        manifest = replace(manifest, optimizer=())
    write_manifest(run, manifest)
    return manifest


def _name(job: Job) -> str:
    return parse(job.strategy, "strategy")[0]


def _told(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise CheckpointError(f"{file.parent} is no checkpoint of a Mottle trial: there is no {TRIAL_FILE}")
    try:
        told = dict(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise CheckpointError(f"{file} is damaged: {error}") from error
    if told.get("format") != FORMAT:
        raise CheckpointError(f"{file} has format {told.get('format')}, this Mottle reads {FORMAT}; restore with the Mottle that wrote it")
    return told


def _fits(folder: Folder, manifest: Manifest, optimizer: Any) -> bool:
    """Whether the optimizer keeps what the checkpoint has of one, or the checkpoint has nothing."""
    saved = {name for part in manifest.optimizer for name in read_part(folder, part)}
    return not saved or saved == _kept_by(optimizer)


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
    destination.filesystem.create_dir(destination.path, recursive=True)
    pafs.copy_files(source.path, destination.path, source_filesystem=source.filesystem, destination_filesystem=destination.filesystem)

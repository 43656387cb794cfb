"""Taking up a run from a checkpoint: on any number of shards and workers."""

from torch import Tensor

from mottle.actors.job import Job, Resumption
from mottle.actors.slot_state import TakeUp
from mottle.checkpoint import folder_of, forget_after, latest, read_manifest, read_model, read_optimizer
from mottle.checkpoint.parts import CheckpointError
from mottle.observe.result import RESULT_FILE
from mottle.storage import Folder


def take_up(job: Job, number: int | None = None) -> tuple[Tensor, Resumption]:
    """The flat vector and everything else that checkpoint `number` (the newest by default) of the job's folder holds.

    Checkpoints after it are deleted: what comes now is another history.

    Raises:
        CheckpointError: there is none, it is damaged, or of another model.
    """
    run = Folder.at(job.run_dir)
    number = latest(run) if number is None else number
    if number is None:
        raise CheckpointError(f"{run.path} holds no whole checkpoint to go on from; set checkpoint_every, or start anew")
    manifest = read_manifest(run, number)
    folder = folder_of(run, number)
    values = read_model(folder, manifest.model, job.layout)
    slots = read_optimizer(folder, manifest.optimizer, job.layout.cut(manifest.num_shards), job.layout.cut(job.brain.num_shards))
    forget_after(run, number)
    if run.has(RESULT_FILE):  # it tells of an end that is none any more
        run.remove(RESULT_FILE)
    workers = [TakeUp(number, part) for part in manifest.workers]
    return values, Resumption(version=manifest.version, brain=manifest.brain, slots=slots, log_seq=manifest.log_seq, workers=workers)

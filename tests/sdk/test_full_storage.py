"""A run's folder that stops taking writes: training goes on, whoever watches is told, and the next checkpoint is whole again."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.actors import live

from mottle.sdk import WorkerGroup

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

SIZE_KB = 512


@dataclass
class Storage:
    """A folder that can be made to refuse what is written to it."""

    path: Path
    full: bool
    """Whether it refuses by having no room left; else by its permissions, which the superuser would not feel."""

    def fail(self) -> None:
        if not self.full:
            for folder in [self.path, *(each for each in self.path.rglob("*") if each.is_dir())]:
                folder.chmod(0o555)
            return
        with open(self.path / "filler", "wb", buffering=0) as stream:
            try:
                while stream.write(bytes(1024)) == 1024:
                    pass
            except OSError:
                return

    def heal(self) -> None:
        if self.full:
            (self.path / "filler").unlink()
        else:
            for folder in [self.path, *(each for each in self.path.rglob("*") if each.is_dir())]:
                folder.chmod(0o755)


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    where = tmp_path / "storage"
    where.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_KB}k", "tmpfs", str(where)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    if os.geteuid() == 0 and not mounted:
        pytest.skip("the superuser may write everywhere, and a small file system cannot be mounted here")
    made = Storage(where, full=mounted)
    yield made
    if mounted:
        subprocess.run(["umount", "--lazy", str(where)], check=True)
    else:
        made.heal()


def test_training_goes_on_over_storage_that_is_full_and_the_next_checkpoint_is_whole(storage: Storage) -> None:
    group = WorkerGroup(count=1, num_cpus=0.5, delay_s=0.001)
    job = live.trainer(storage.path, live.perceptron, strategy="async", scaling_config=group, until={"epochs": 100_000})
    with live.started(job) as run:
        live.wait_for(run, lambda now: now.version >= 2, "its second version")
        storage.fail()
        run.checkpoint()
        told = live.wait_for(run, lambda now: any("checkpoint 1 failed" in each.text for each in now.events), "the failed checkpoint")
        assert "training goes on and the next one tries again" in next(each.text for each in told.events if "checkpoint 1" in each.text)
        noted = live.wait_for(run, lambda now: any("the record cannot be written" in note for note in now.notes), "the word on the record")
        live.wait_for(run, lambda now: now.version >= noted.version + 2, "two more versions")
        storage.heal()
        live.wait_for(run, lambda now: not any("cannot be written" in note for note in now.notes), "the record's recovery")
        run.checkpoint()
        live.wait_for(run, lambda now: any("checkpoint 2 is complete" in each.text for each in now.events), "the whole checkpoint")
        run.stop("seen enough")
        result = run.result()
    assert result.error is None
    assert result.checkpoint is not None
    assert result.checkpoint.path.endswith("000002")
    assert [path.name for path in (storage.path / "run" / "checkpoints").iterdir()] == ["000002"], "nothing is left of the failed one"
    live.assert_replay(job)  # the record has no hole: what could not be written was written later

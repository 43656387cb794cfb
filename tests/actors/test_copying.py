"""A live run takes over the model of another one: from shard to shard, while both go on."""

from pathlib import Path

import pytest
import torch
from tests.actors import live

from mottle.actors.copies import CopyError
from mottle.core.errors import ConfigError
from mottle.sdk import Run, Trainer
from mottle.storage import Folder

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


def job(folder: Path, **options: object) -> Trainer:
    folder.mkdir()
    defaults = {
        "model": live.perceptron,
        "optimizer": {"sgd": {"lr": 0.05, "momentum": 0.9}},
        "strategy": "async",
        "until": {"epochs": 10_000},
    }
    return live.trainer(folder, **{**defaults, **options})


def end(run: Run) -> None:
    run.stop()
    live.wait_for_end(run)


def test_a_run_takes_over_anothers_model_with_other_settings_and_both_go_on(tmp_path: Path) -> None:
    one, other = job(tmp_path / "one", shards=2, replicas=1), job(tmp_path / "other", shards=1)
    with live.started(one) as donor, live.started(other) as run:
        live.wait_for(donor, lambda now: now.version >= 20, "20 versions")
        live.wait_for(run, lambda now: now.version >= 5, "5 versions")
        processes = run.places()
        donor.pause()
        live.wait_for(donor, lambda now: not live.computing(now), "the pause")
        wanted, at = donor.parameters(), run.progress.version
        run.copy_from(donor, lr=0.0, momentum=0.5, strategy={"async": {"batch_size": 10}})
        live.wait_for(run, lambda now: now.version > at + 5, "updates after the copy")
        assert all(torch.equal(values, wanted[name]) for name, values in run.parameters().items()), "at a rate of 0 nothing moves"
        assert run.places() == processes
        assert any(event.kind == "replaced" for event in run.progress.events)
        donor.resume()
        run.set(lr=0.05)
        live.wait_for(run, lambda now: now.version > at + 10, "going on")
        assert not torch.equal(run.parameters()["0.weight"], wanted["0.weight"])

        with pytest.raises(ConfigError, match="did you mean 'momentum'"):
            run.copy_from(donor, momentun=0.5)
        with pytest.raises(CopyError, match="a run cannot copy itself"):
            run.copy_from(run)
        end(donor)
        end(run)
    live.assert_replay(other)
    text = "".join(Folder.at(other.job.run_dir).read_text(f"logs/{log}.log") for log in ("w0", "shard0"))
    assert "Traceback" not in text


def test_what_cannot_be_copied_is_told_and_changes_nothing(tmp_path: Path) -> None:
    one, other = job(tmp_path / "one", model=live.linear), job(tmp_path / "other", shards=2)
    with live.started(other) as run:
        with live.started(one) as donor:
            live.wait_for(donor, lambda now: now.version >= 1, "a version")
            with pytest.raises(CopyError, match="has another model: its parameters have other names or shapes"):
                run.copy_from(donor, lr=0.0)
            end(donor)
        gone = donor.coordinator
        with pytest.raises(CopyError, match="could not offer its model"):
            run.copy_from_coordinator(gone)
        at = run.progress.version
        live.wait_for(run, lambda now: now.version > at + 3, "going on")
        end(run)

"""`mottle chaos` on a real run: workers and shard replicas killed with SIGKILL while it trains."""

from pathlib import Path

import pytest

from mottle.observe.result import read_result

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "digits" / "async.yaml"


def setting(*assignments: str) -> list[str]:
    return [word for each in assignments for word in ("--set", each)]


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray", "own_modules")
def test_a_run_survives_its_workers_and_shard_replicas(tmp_path: Path, mottle) -> None:
    small = setting("until={samples: 6000}", "evaluate_every=3000", "replicas=1", "fleet.fast.count=2", "fleet.slow.count=1")
    storm = ("--kill", "workers,shards", "--every", "1", "--seed", "4")
    done = mottle("chaos", EXAMPLE, *storm, "--out", tmp_path / "run", *small, "--json")
    assert done.code == 0, done.err
    assert {kill["kind"] for kill in done.data["kills"]} == {"workers", "shards"}
    assert done.data["problems"] == []
    result = read_result(tmp_path / "run")
    assert result is not None
    assert result.samples == 6000
    whole = result.epochs[:-1]
    assert whole
    assert all((epoch.missed, epoch.repeated) == (0, 0) for epoch in whole)


@pytest.mark.parametrize(
    ("kill", "message"),
    [("shards", "kill shards with --set replicas=1"), ("hosts", "one or more of workers")],
)
def test_what_no_run_survives_is_refused_before_anything_starts(kill: str, message: str, tmp_path: Path, mottle) -> None:
    done = mottle("chaos", EXAMPLE, "--kill", kill, "--out", tmp_path / "run")
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "run").exists()

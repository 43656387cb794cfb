"""Half an hour of chaos on three hosts: whatever dies, and whenever, nothing is lost. Killed hosts come back, as machines are replaced."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.clusters.conftest import ROOT

from mottle.clusters.testbed import Detection, Testbed

pytestmark = [pytest.mark.testbed, pytest.mark.ray, pytest.mark.soak, pytest.mark.timeout(900)]
EXAMPLE = Path(ROOT) / "examples" / "digits" / "async.yaml"
DURATION_S = 300.0
KINDS = ("workers", "shards", "coordinator", "nodes")
LOOK_EVERY_S = 1.0
AWAY_S = 4.0
"""That a host stays away."""
FLEET = [{"name": "crew", "count": 4, "num_cpus": 0.5, "delay_s": 0.002}]


@contextmanager
def replacing(bed: Testbed) -> Iterator[None]:
    """Hosts other than the head's whose raylet was killed are started again."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(LOOK_EVERY_S):
            for host in [each for each in bed.hosts if each != bed.head and not bed.has_raylet(each)]:
                over.wait(AWAY_S)
                bed.start(host)

    thread = threading.Thread(target=watch, name="replacing")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def chaos(bed: Testbed, folder: Path, seed: int) -> dict[str, Any]:
    """What the command says at its end."""
    settings = [f"fleet={json.dumps(FLEET)}", f"until={{seconds: {DURATION_S:g}}}", "replicas=1", "shards=2", "max_failures=0"]
    command = [sys.executable, "-c", "from mottle.cli.main import app; app()", "chaos", str(EXAMPLE), "--kill", ",".join(KINDS)]
    command += ["--every", "10", "--seed", str(seed), "--out", str(folder / "run"), "--json"]
    command += [word for setting in settings for word in ("--set", setting)]
    with (folder / "stderr").open("w") as stderr:
        driver = bed.popen(bed.head, command, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=ROOT)
        said, _ = driver.communicate()
    assert driver.returncode == 0, (folder / "stderr").read_text()[-4000:]
    return dict(json.loads(said))


@pytest.mark.usefixtures("_possible")
@pytest.mark.parametrize("seed", range(6))
def test_five_minutes_of_chaos_lose_nothing(seed: int, tmp_path: Path) -> None:
    with Testbed(3, detection=Detection(period_ms=300, timeout_ms=3000)) as bed, replacing(bed):
        answer = chaos(bed, tmp_path, seed)
    kills, result = answer["kills"], answer["result"]
    print(f"seed {seed}: {len(kills)} kills, {result['versions']} versions, {result['updates']['accepted']} updates accepted")
    assert {kill["kind"] for kill in kills} == set(KINDS)
    assert answer["problems"] == []
    assert (result["updates"]["lost"], result["updates"]["duplicated"]) == (0, 0)
    assert all(epoch["repeated"] == 0 for epoch in result["epochs"])

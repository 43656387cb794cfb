"""That workers of Ray really are forked in tests (`tests/warm`), and are otherwise as if they had been started."""

import os
import random
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.skipif(bool(os.environ.get("MOTTLE_TEST_COLD")), reason="workers are to start cold")]


def test_a_worker_is_forked_with_its_own_environment_path_and_randomness(local_ray: None) -> None:
    import ray

    def seen() -> dict[str, Any]:
        parent = Path(f"/proc/{os.getppid()}/cmdline").read_text()
        return {
            "parent": parent,
            "had": os.environ.get("GIVEN"),
            "path": sys.path,
            "drawn": random.random(),
            "loaded": "torch" in sys.modules,
        }

    remote: Any = ray.remote(num_cpus=0)(seen)
    environments = [{"GIVEN": "1", "PYTHONPATH": "/given"}, {"GIVEN": "2"}]
    first, second = ray.get([remote.options(runtime_env={"env_vars": each}).remote() for each in environments])
    assert "fork_server.py" in first["parent"]
    assert first["loaded"]
    assert (first["had"], second["had"]) == ("1", "2")
    assert ("/given" in first["path"], "/given" in second["path"]) == (True, False)
    assert first["drawn"] != second["drawn"]

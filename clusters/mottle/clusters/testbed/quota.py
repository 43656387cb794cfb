"""CPU quotas: a control group of a host's processes, of either version of the kernel's interface."""

import time
from pathlib import Path

from mottle.clusters.testbed.commands import TestbedError

_PERIOD_US = 20_000
"""Short, so that a slow host is slow evenly and not in turns of 100 ms, which is the kernel's default."""
_ROOT = Path("/sys/fs/cgroup")
_REMOVAL_S = 5.0


class CpuQuota:
    """The share of the machine's processors that one host may use.

    Args:
        name: of the control group.
        root: where control groups are mounted.
    """

    def __init__(self, name: str, root: Path = _ROOT) -> None:
        self._unified = (root / "cgroup.controllers").exists()
        self._root = root
        self.folder = (root if self._unified else root / "cpu") / name

    @property
    def members(self) -> Path:
        """The file that takes process ids; their children belong too."""
        return self.folder / "cgroup.procs"

    def set(self, cpus: float) -> None:
        """Let the group use `cpus` processors' time, such as 0.5.

        Raises:
            TestbedError: this machine has no control groups for processors.
        """
        quota_us = max(1000, round(cpus * _PERIOD_US))
        try:
            if self._unified:
                (self._root / "cgroup.subtree_control").write_text("+cpu")
                self.folder.mkdir(exist_ok=True)
                (self.folder / "cpu.max").write_text(f"{quota_us} {_PERIOD_US}")
            else:
                self.folder.mkdir(exist_ok=True)
                (self.folder / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
                (self.folder / "cpu.cfs_quota_us").write_text(str(quota_us))
        except OSError as error:
            raise TestbedError(f"cannot limit processors by control groups in {self._root}: {error}; leave cpus out") from error

    def remove(self) -> None:
        """Once its processes were killed."""
        _remove(self.folder)


def remove_groups(prefix: str, root: Path = _ROOT) -> None:
    """All groups whose name begins so."""
    for folder in (*root.glob(f"{prefix}*"), *(root / "cpu").glob(f"{prefix}*")):
        _remove(folder)


def _remove(folder: Path) -> None:
    """A process leaves its group a moment after it has left its namespace; till then the group is busy."""
    deadline = time.monotonic() + _REMOVAL_S
    while folder.exists() and time.monotonic() < deadline:
        try:
            folder.rmdir()
        except OSError:
            time.sleep(0.01)

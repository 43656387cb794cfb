"""Durable copies of a trial's checkpoints, written in the background while Tune and the run go on."""

import queue
import threading
import traceback
from dataclasses import dataclass

from mottle.storage import Folder
from mottle.tune.handover import LOOK_EVERY_S, hand_over, whole


@dataclass(frozen=True)
class _Wanted:
    version: int
    lineage: int
    kept: Folder


class Keeper:
    """Puts whole checkpoints of a run beside their tokens, in the order in which they were asked for.

    Args:
        run: where they are written.
    """

    def __init__(self, run: Folder) -> None:
        self._run = run
        self._wanted: queue.Queue[_Wanted | None] = queue.Queue()
        self._last = threading.Event()
        """Nothing more will be written: what is not there by now will not come."""
        self._thread = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._thread.start()

    def keep(self, version: int, lineage: int, kept: Folder) -> None:
        """Have a version of a model put where its token lies, as soon as it is whole."""
        self._wanted.put(_Wanted(version, lineage, kept))

    def finish(self, timeout_s: float) -> bool:
        """Wait for what was asked for, while the run can still write it. Whether all of it is there."""
        self._wanted.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Nothing comes any more."""
        self._last.set()
        self._wanted.put(None)
        self._thread.join()

    def _keep(self) -> None:
        while (wanted := self._wanted.get()) is not None:
            try:
                self._put(wanted)
            except Exception:  # a disk that is full, say: what is there stays, and the trial's next one is tried again
                traceback.print_exc()

    def _put(self, wanted: _Wanted) -> None:
        while True:
            is_last = self._last.is_set()
            if (manifest := whole(self._run, wanted.version, wanted.lineage)) is not None:
                hand_over(self._run, manifest, wanted.kept)
                return
            if is_last:
                print(f"no checkpoint of version {wanted.version} could be written to {self._run.path}; see the logs there", flush=True)
                return
            self._last.wait(LOOK_EVERY_S)

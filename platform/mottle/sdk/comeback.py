"""Going on after a failure that stopped a run: Ray's `FailureConfig.max_failures`."""

from collections.abc import Callable

from mottle.checkpoint import latest
from mottle.sdk.run import Run
from mottle.storage import Folder


class Comeback:
    """Takes a failed run up from its newest checkpoint, so often and no more.

    Args:
        resume: goes on from the newest checkpoint.
        max_failures: how often; -1 without limit.
        run_dir: the run's folder.
    """

    def __init__(self, resume: Callable[[], Run], max_failures: int, run_dir: str) -> None:
        self._resume = resume
        self._left = max_failures
        self._run_dir = run_dir

    def again(self) -> Run | None:
        """The run that goes on; None if it may not any more, or has no checkpoint to go on from."""
        if self._left == 0 or latest(Folder.at(self._run_dir)) is None:
            return None
        self._left -= 1
        return self._resume()

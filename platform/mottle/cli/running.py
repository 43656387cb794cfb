"""A run under the eyes of a terminal: shown while it goes, ended by Ctrl-C, its model and report written at the end."""

import json
import os
import signal
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from mottle.cli.answers import Answer, BadInputError, Code, say

MODEL_FILE = "model.safetensors"
_STOPPED = "interrupted by the user"
# Ray reads these when it is imported. A private Ray on one machine sends no statistics, and leaves the GPU variables of workers without a
# GPU as they are, which Ray makes its default from the next version on and warns about until then.
_RAY_DEFAULTS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


def before_ray() -> None:
    """Set what Ray reads from the environment, where the user has not."""
    for name, value in _RAY_DEFAULTS.items():
        os.environ.setdefault(name, value)


def absolute(folder: str) -> str:
    """The same folder for every process: a URI as it is, a path from the root on."""
    return folder if "://" in folder else str(Path(folder).expanduser().absolute())


def detached_run(name: str, address: str | None) -> Any:
    """The live handle of a detached run.

    Raises:
        BadInputError: there is none of that name, or no Ray to ask.
    """
    before_ray()
    from mottle.sdk.attaching import RunGoneError, attach

    try:
        return attach(name, address=address)
    except RunGoneError as error:
        raise BadInputError(str(error)) from error


class Interrupts:
    """Ctrl-C while a run goes on: the first asks it to end well, the second ends the process at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._on)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _on(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


def conduct(run: Any, *, as_json: bool, leave: bool = False) -> Answer:
    """Show a run to its end and leave its model and report in its folder.

    Args:
        run: a live `mottle.sdk.Run`.
        as_json: what is shown goes to standard error.
        leave: Ctrl-C leaves a detached run alone and ends only the showing.
    """
    from rich.console import Console

    from mottle.observe import Display

    with Interrupts() as interrupts, Display(Console(stderr=True, highlight=False) if as_json else None) as display:
        stopping = False
        for snapshot in run.watch():
            display.show(snapshot)
            if interrupts.asked and leave:
                return Answer({"run": run.job.run_dir, "state": "live"}, f"{run.job.name} goes on without this terminal", Code.INTERRUPTED)
            if interrupts.asked and not stopping:
                stopping = True
                say("stopping: waiting for what is computed already and for a checkpoint; press Ctrl-C again to end at once")
                run.stop(_STOPPED, checkpoint=True)
        model, model_trouble = _save_model(run)
        result = run.result()
        report, report_trouble = _write_report(run.job.run_dir)
        display.finish(run.progress, report=report)
    for trouble in (model_trouble, report_trouble):
        if trouble:
            say(f"mottle: {trouble}")
    return _answer(run.job.run_dir, result, model, report)


def _answer(folder: str, result: Any, model: str | None, report: str | None) -> Answer:
    from mottle.observe import result_to_json

    failure = None if result.error is None else str(result.error)
    if failure is not None:
        say(f"mottle: the run failed: {failure}")
    code = Code.FAILED if failure is not None else Code.INTERRUPTED if result.summary.stopped == _STOPPED else Code.OK
    tree = json.loads(result_to_json(result.summary))
    text = f" run     {folder}" + (f"\n model   {model}" if model else "")
    return Answer({"run": folder, "model": model, "report": report, "error": failure, "result": tree}, text, code)


def _save_model(run: Any) -> tuple[str | None, str]:
    """Write the newest parameters and buffers by name, before the run is closed: the shards hold them. Where, or why not."""
    from ray.exceptions import RayError
    from safetensors.torch import save

    from mottle.storage import Folder

    try:
        tensors = {name: tensor.contiguous() for name, tensor in run.parameters().items()}
        with Folder.at(run.job.run_dir).writing(MODEL_FILE) as stream:
            stream.write(save(tensors, {"format": "pt"}))
    except (OSError, RayError) as error:
        return None, f"the model could not be written: {error}"
    return f"{run.job.run_dir}/{MODEL_FILE}", ""


def _write_report(folder: str) -> tuple[str | None, str]:
    """Where the report lies, or why there is none."""
    from mottle.observe import MissingDependencyError, write_report

    try:
        return str(write_report(folder)), ""
    except (MissingDependencyError, ValueError, OSError) as error:
        return None, f"no report was written: {error}"

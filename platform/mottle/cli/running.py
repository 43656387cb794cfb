"""A run under the eyes of a terminal: shown while it goes, ended by Ctrl-C, its model and report written at the end."""

import json
import os
import signal
from collections.abc import Callable
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


def conduct(run: Any, *, as_json: bool, leave: bool = False, again: Callable[[], Any] = lambda: None) -> Answer:
    """Show a run to its end and leave its model and report in its folder.

    Args:
        run: a live `mottle.sdk.Run`.
        as_json: what is shown goes to standard error.
        leave: Ctrl-C leaves a detached run alone and ends only the showing.
        again: after a failure, gives the run that goes on, or None when there is none.
    """
    from mottle.sdk.result import RunFailedError

    while True:
        failure: Exception
        try:
            answer, error = _attended(run, as_json=as_json, leave=leave)
            if error is None:
                return answer
            failure = error
        except RunFailedError as gone:
            answer, failure = None, gone
        following = again()
        if following is None:
            if answer is None:
                raise failure
            say(f"mottle: the run failed: {failure}")
            return answer
        say(f"mottle: the run failed: {failure}; it goes on from its newest checkpoint")
        run = following


def _attended(run: Any, *, as_json: bool, leave: bool) -> tuple[Answer, Exception | None]:
    """Show one run to its end; what is to be said of it, and why it could not go on."""
    from rich.console import Console

    from mottle.observe import Display

    with Interrupts() as interrupts, Display(Console(stderr=True, highlight=False) if as_json else None) as display:
        stopping = False
        for snapshot in run.watch():
            display.show(snapshot)
            if interrupts.asked and leave:
                text = f"{run.job.name} goes on without this terminal"
                return Answer({"run": run.job.run_dir, "state": "live"}, text, Code.INTERRUPTED), None
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
    return _answer(run.job.run_dir, result, model, report), result.error


def _answer(folder: str, result: Any, model: str | None, report: str | None) -> Answer:
    from mottle.observe import result_to_json

    failure = None if result.error is None else str(result.error)
    code = Code.FAILED if failure is not None else Code.INTERRUPTED if result.summary.stopped == _STOPPED else Code.OK
    tree = json.loads(result_to_json(result.summary))
    text = f" run     {folder}" + (f"\n model   {model}" if model else "")
    return Answer({"run": folder, "model": model, "report": report, "error": failure, "result": tree}, text, code)


def model_files(job: Any) -> dict[str, int | None]:
    """Names of the files that a run leaves its model in, and which of several each holds; None: the only one, or the best."""
    number = 1 if job.rotation is None else job.rotation.number
    own = {one_model_file(model): model for model in range(number)} if number > 1 else {}
    return {MODEL_FILE: None, **own}


def one_model_file(model: int) -> str:
    """Of one of several models."""
    return f"model-{model}.safetensors"


def _save_model(run: Any) -> tuple[str | None, str]:
    """Write the newest parameters and buffers by name, before the run is closed: the shards hold them. Where, or why not."""
    from ray.exceptions import RayError
    from safetensors.torch import save

    from mottle.core.errors import ConfigError
    from mottle.storage import Folder

    trouble = ""
    for name, model in model_files(run.job).items():
        try:
            tensors = {each: tensor.contiguous() for each, tensor in run.parameters(model).items()}
            with Folder.at(run.job.run_dir).writing(name) as stream:
                stream.write(save(tensors, {"format": "pt"}))
        except ConfigError as error:  # no best one: each has a file of its own
            trouble = f"{MODEL_FILE} was not written: {error}"
        except (OSError, RayError) as error:
            return None, f"the model could not be written: {error}"
    return (None if trouble else f"{run.job.run_dir}/{MODEL_FILE}"), trouble


def _write_report(folder: str) -> tuple[str | None, str]:
    """Where the report lies, or why there is none."""
    from mottle.observe import MissingDependencyError, write_report

    try:
        return str(write_report(folder)), ""
    except (MissingDependencyError, ValueError, OSError) as error:
        return None, f"no report was written: {error}"

"""One sentence of Ray's pages."""

import pytest

from mottle.actors.reasons import reason_of

LOST = "its process is not heard any more: killed (by somebody, or by the system for want of memory), crashed or cut off"
HEAD = "The actor died unexpectedly before finishing this task.\n\tclass_name: TrainingWorker\n\tpid: 7\n"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            f"{HEAD}The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: "
            "Worker unexpectedly exits with a connection error code 2. End of file. Some common causes include: ...",
            LOST,
        ),
        (f"{HEAD}The actor is dead because it was killed by `ray.kill`.", LOST),
        (f"{HEAD}The actor is dead because its owner has died.", "its owner has died."),
        (
            f"{HEAD}The actor is dead because its worker process has died. Task was killed due to the node running low on memory.",
            "its worker process has died. Task was killed due to the node running low on memory.",
        ),
        ("The actor died because of an error raised in its creation task, ...\n  File x\nValueError: no", "ValueError: no"),
        ("", "RuntimeError"),
    ],
    ids=["killed", "by our hand", "its owner's end", "Ray's memory monitor", "never began", "says nothing"],
)
def test_the_cause_is_told_and_nothing_else(said: str, told: str) -> None:
    assert reason_of(RuntimeError(said)) == told

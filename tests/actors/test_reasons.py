"""One sentence of Ray's pages."""

import pytest

from mottle.actors.reasons import reason_of

HEAD = "The actor died unexpectedly before finishing this task.\n\tclass_name: TrainingWorker\n\tpid: 7\n"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            f"{HEAD}The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: "
            "Worker unexpectedly exits with a connection error code 2. End of file. Some common causes include: ...",
            "its process ended without a word: killed, by somebody or by the system for want of memory, or crashed",
        ),
        (f"{HEAD}The actor is dead because it was killed by `ray.kill`.", "it was killed by `ray.kill`."),
        (
            f"{HEAD}The actor is dead because its worker process has died. Task was killed due to the node running low on memory.",
            "its worker process has died. Task was killed due to the node running low on memory.",
        ),
        ("The actor died because of an error raised in its creation task, ...\n  File x\nValueError: no", "ValueError: no"),
        ("", "RuntimeError"),
    ],
    ids=["killed", "by Ray's own hand", "Ray's memory monitor", "never began", "says nothing"],
)
def test_the_cause_is_told_and_nothing_else(said: str, told: str) -> None:
    assert reason_of(RuntimeError(said)) == told

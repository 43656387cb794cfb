"""Why something failed, in a sentence."""

import ray

_DEAD = "The actor is dead because "
_SILENT = ("unexpectedly exits with a connection error", "killed by `ray.kill`")
"""What Ray says of a process that somebody ended. The last is our own hand: whoever is not heard over its line is ended, so that Ray tells
of its end, and of a process that was gone already Ray may hear that first."""
_LOST = "its process is not heard any more: killed (by somebody, or by the system for want of memory), crashed or cut off"


def reason_of(error: BaseException) -> str:
    """One sentence out of an error: Ray's messages go on for a page, with the cause at the end or inside."""
    if isinstance(error, ray.exceptions.RayTaskError):
        return f"{type(error.cause).__name__}: {error.cause}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if "creation task" in lines[0]:
        return lines[-1]
    cause = next((line.removeprefix(_DEAD) for line in lines if line.startswith(_DEAD)), lines[0])
    return _LOST if any(sign in cause for sign in _SILENT) else cause

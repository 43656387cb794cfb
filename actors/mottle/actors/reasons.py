"""Why something failed, in a sentence."""

import ray


def reason_of(error: BaseException) -> str:
    """One sentence out of an error: Ray's messages go on for a page, with the cause at the end or inside."""
    if isinstance(error, ray.exceptions.RayTaskError):
        return f"{type(error.cause).__name__}: {error.cause}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1] if "creation task" in lines[0] else lines[0]

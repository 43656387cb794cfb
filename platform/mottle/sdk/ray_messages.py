"""What Ray tells a driver of dead workers, put aside: it goes to standard output from a thread of Ray's, a paragraph for each.

There it would stand between the lines of a live display, and inside the one JSON object of `--json`. The run tells of every death itself,
in one line. Ray has no switch for it. Its function that prints is private; this is the one place that knows it.
"""

import logging
from collections.abc import Mapping
from typing import Any

LOGGER = logging.getLogger("mottle.ray")


def put_aside() -> None:
    """From here on Ray's messages go to the logger `mottle.ray`, level INFO; for a Ray that this process was connected to by Mottle."""
    import ray._private.worker as private

    if hasattr(private, "print_to_stdstream"):  # else a newer Ray prints in another way: its words are only in the way
        private.print_to_stdstream = _log


def _log(data: Mapping[str, Any], ignore_prefix: bool) -> None:
    LOGGER.info("%s: %s", data.get("pid"), "\n".join(data.get("lines", ())))

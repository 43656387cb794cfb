"""Asks a Ray head which nodes live, or waits until some do or do not; run inside a host, for the heads of two testbeds have two tokens.

`python -m mottle.clusters.testbed.probe HEAD:PORT TIMEOUT_S [+ADDRESS | -ADDRESS ...]`: waits until each `+` lives and each `-` does not,
then prints the addresses that live, one a line; exit code 1 when the time is over.
"""

import sys
import time

_POLL_S = 0.05


def main(address: str, timeout_s: str, *wanted: str) -> int:
    """See above."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # a compiled module

    client = GcsClient(address=address)
    deadline = time.monotonic() + float(timeout_s)
    while True:
        alive = {info.node_manager_address for info in client.get_all_node_info().values() if info.state == 0}
        if all((each[1:] in alive) == (each[0] == "+") for each in wanted):
            print("\n".join(sorted(alive)))
            return 0
        if time.monotonic() > deadline:
            return 1
        time.sleep(_POLL_S)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""Hosts as the kernel sees them: a network namespace each, joined by one bridge, with own addresses and link rates.

Everything of one testbed carries its number in its name, so that it can be found and removed without any memory of how it was made.
Addresses come from 198.18.0.0/15, which is reserved for tests of networks (RFC 2544) and so is nobody's.
"""

import json
import shutil
from pathlib import Path

from mottle.clusters.testbed.commands import attempt, run

PREFIX = "mtb"
_BURST_BYTES = 16 * 1024
_PROBED = "8.8.8.8"
_DEVICE = "eth0"
_OVERLAYS = Path("/etc/netns")


class Network:
    """Bridge, namespaces and links of one testbed.

    Args:
        number: of the testbed, 0 to 255.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self.bridge = f"{PREFIX}{number}"

    def address(self, place: int) -> str:
        """Of the host at that place, 1 to 253."""
        return f"198.18.{self._number}.{place}"

    def namespace(self, host: str) -> str:
        return f"{self.bridge}-{host}"

    def overlay(self, host: str) -> Path:
        """A folder whose files `ip netns exec` lays over those of `/etc` for the processes that it starts in the host."""
        return _OVERLAYS / self.namespace(host)

    def link(self, place: int) -> str:
        """The bridge's end of a host's link."""
        return f"{self.bridge}p{place}"

    # --- making and removing ----------------------------------------------------------------------------------------------------------

    def make(self) -> None:
        """The bridge; this machine itself is on it too, at the last address."""
        run("ip", "link", "add", self.bridge, "type", "bridge")
        run("ip", "address", "add", f"{self.address(254)}/24", "dev", self.bridge)
        run("ip", "link", "set", self.bridge, "up")

    def add(self, host: str, place: int) -> None:
        """A namespace with its address, joined to the bridge."""
        namespace = self.namespace(host)
        run("ip", "netns", "add", namespace)
        run("ip", "link", "add", self.link(place), "type", "veth", "peer", "name", _DEVICE, "netns", namespace)
        run("ip", "link", "set", self.link(place), "master", self.bridge, "up")
        run("ip", "-n", namespace, "address", "add", f"{self.address(place)}/24", "dev", _DEVICE)
        run("ip", "-n", namespace, "link", "set", _DEVICE, "up")
        run("ip", "-n", namespace, "link", "set", "lo", "up")
        # Ray learns a host's address by asking the kernel how it would reach this one; no packet is sent. Without any other way out, names
        # that a program asks for fail at once instead of after a timeout.
        run("ip", "-n", namespace, "route", "add", f"{_PROBED}/32", "dev", _DEVICE)

    def remove(self, host: str, place: int) -> None:
        """Take a host away whose processes are gone."""
        attempt(["ip", "link", "delete", self.link(place)])
        attempt(["ip", "netns", "delete", self.namespace(host)])
        shutil.rmtree(self.overlay(host), ignore_errors=True)

    def namespaces(self) -> list[str]:
        """Of this testbed, as the kernel has them."""
        listed = json.loads(run("ip", "-json", "netns", "list") or "[]")
        return [each["name"] for each in listed if each["name"].startswith(f"{self.bridge}-")]

    def remove_all(self) -> None:
        """Everything of this testbed, whoever made it."""
        for link in Path("/sys/class/net").glob(f"{self.bridge}p*"):
            attempt(["ip", "link", "delete", link.name])
        for namespace in self.namespaces():
            attempt(["ip", "netns", "delete", namespace])
        for overlay in _OVERLAYS.glob(f"{self.bridge}-*"):
            shutil.rmtree(overlay, ignore_errors=True)
        attempt(["ip", "link", "delete", self.bridge])

    # --- faults -----------------------------------------------------------------------------------------------------------------------

    def cut(self, place: int) -> None:
        """Take the cable out: packets vanish, nobody is told."""
        run("ip", "link", "set", self.link(place), "down")

    def heal(self, place: int) -> None:
        run("ip", "link", "set", self.link(place), "up")

    def limit(self, host: str, place: int, rate_mbit: float | None) -> None:
        """Hold the link to a rate in both directions; None takes the limit away.

        Bursts are 4 ms of the rate, at least 16 kB; what waits longer than 400 ms is dropped, as a switch would.
        """
        ends: tuple[tuple[list[str], str], ...] = ([], self.link(place)), (["-n", self.namespace(host)], _DEVICE)
        for where, device in ends:
            if rate_mbit is None:
                attempt(["tc", *where, "qdisc", "delete", "dev", device, "root"])
                continue
            burst_bytes = max(_BURST_BYTES, round(rate_mbit * 1e6 / 8 * 0.004))
            shape = ["tbf", "rate", f"{round(rate_mbit * 1000)}kbit", "burst", str(burst_bytes), "latency", "400ms"]
            run("tc", *where, "qdisc", "replace", "dev", device, "root", *shape)

    def sent_bytes(self, place: int) -> int:
        """Bytes that the host has sent since it was made."""
        return int(Path(f"/sys/class/net/{self.link(place)}/statistics/rx_bytes").read_text())

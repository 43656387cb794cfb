"""Several hosts on one machine, for trying what happens when one of them dies, stalls or is cut off.

Each host is a network namespace with its own address, link and Ray node; all share this machine's disks and processors.
"""

from mottle.clusters.testbed.bed import Testbed as Testbed
from mottle.clusters.testbed.commands import TestbedError as TestbedError
from mottle.clusters.testbed.commands import missing as missing
from mottle.clusters.testbed.registry import entries as entries
from mottle.clusters.testbed.registry import remove_stale as remove_stale
from mottle.clusters.testbed.specs import Detection as Detection
from mottle.clusters.testbed.specs import HostSpec as HostSpec

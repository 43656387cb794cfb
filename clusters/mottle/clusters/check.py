"""What is wrong with a cluster file, in words and with its line, before anybody pays for machines.

Two kinds of file: those of Ray's cluster launcher (`ray up`) and `RayCluster` resources of Kubernetes. Each is read once as a document that
knows the line of every key and given to Ray's own schema and validator, then to what we know of clusters that train.
"""

from dataclasses import dataclass
from pathlib import Path

from mottle.clusters import kubernetes, launcher
from mottle.clusters.findings import Findings
from mottle.storage.document import Fault, read_document


@dataclass(frozen=True)
class Checked:
    """The outcome of a check."""

    kind: str
    """`ray up` or `RayCluster`."""
    faults: tuple[Fault, ...]
    """What would make the cluster fail, or leave it open to everybody."""
    remarks: tuple[Fault, ...]
    """What works and has a price."""


def check(path: Path, base: Path | None = None) -> Checked:
    """Check a cluster file.

    Args:
        base: folder that local paths of the file are relative to; the present one by default, as for `ray up`.
    Raises:
        DocumentError: no such file, or not YAML.
    """
    document = read_document(path, such_as="cluster_name: and provider:")
    findings = Findings(document)
    if document.data.get("kind") is not None or "apiVersion" in document.data:
        kind = "RayCluster"
        kubernetes.look(document.data, findings)
    else:
        kind = "ray up"
        launcher.look(document.data, findings, base or Path.cwd())
    return Checked(kind, findings.in_order(findings.faults), findings.in_order(findings.remarks))

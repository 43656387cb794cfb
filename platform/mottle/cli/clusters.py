"""`mottle clusters`: what is wrong with a cluster file, with its machines, or with a running cluster."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mottle.cli.answers import Answer, Code, Json
from mottle.cli.running import before_ray


def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="For `ray up`, or a RayCluster of Kubernetes.")],
    reach: Annotated[bool, typer.Option("--reach", help="Log in on the machines that the file names, and compare versions.")] = False,
    as_json: Json = False,
) -> Answer:
    """Say what is wrong with a cluster file, before anybody pays for machines.

    Local paths of the file are looked for from the present folder, as `ray up` does.

    Examples:

        mottle clusters check clusters/aws.yaml

        mottle clusters check clusters/onprem.yaml --reach
    """
    before_ray()
    from mottle.clusters.check import check as look
    from mottle.clusters.reach import Reached, hosts_of, login_of
    from mottle.clusters.reach import reach as log_in
    from mottle.storage.document import DocumentError, read_document

    checked = look(file)
    if checked.faults:
        raise DocumentError(checked.faults)
    remarks = [str(each) for each in checked.remarks]
    reached = Reached()
    if reach:
        data = read_document(file, such_as="cluster_name: and provider:").data
        if hosts := hosts_of(data):
            reached = log_in(hosts, login_of(data))
        else:
            remarks.append(f"{file}: names no machines to log in on; those of a cloud are there after `ray up`")
    data_out = {"file": str(file), "kind": checked.kind, "remarks": remarks, **asdict(reached)}
    lines = [f"{file}: a sound {checked.kind} file", *remarks, *reached.faults]
    lines += [f"host {host}: {', '.join(f'{name} {value}' for name, value in found.items())}" for host, found in reached.versions.items()]
    lines += [f"host {host}: lets us in, and has no environment yet" for host in reached.bare]
    return Answer(data_out, "\n".join(lines), Code.FAILED if reached.faults else Code.OK)


def join(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="Of Ray's head.")],
    as_json: Json = False,
) -> Answer:
    """Say whether a run could be started on a running cluster from here: head, token, versions of every node.

    Example:

        mottle clusters join 10.0.0.5:6379
    """
    before_ray()
    from mottle.clusters.joining import look

    joined = look(address, os.environ)
    lines = [f"node {host}: {', '.join(f'{name} {value}' for name, value in found.items())}" for host, found in joined.versions.items()]
    code = Code.FAILED if joined.faults else Code.OK
    return Answer({"address": address, "nodes": joined.versions, "faults": joined.faults}, "\n".join([*lines, *joined.faults]), code)

"""`mottle calibrate`: how fast this machine's device is with a job's model, by batch size, and how fast a cluster's links are."""

from pathlib import Path
from typing import Annotated

import typer

from mottle.cli.answers import Answer, Json


def calibrate(
    job: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="What is trained.")],
    out: Annotated[Path, typer.Option(metavar="CALIBRATION.json", help="Kept there by device and model, and found there again.")] = Path(
        "calibration.json"
    ),
    cuda: Annotated[bool, typer.Option("--cuda", help="Measure the first CUDA device instead of the CPU.")] = False,
    most: Annotated[int, typer.Option(min=1, help="Largest batch tried.")] = 1024,
    seconds: Annotated[float, typer.Option(min=0.1, help="No further batch size is begun after that.")] = 5.0,
    again: Annotated[bool, typer.Option("--again", help="Measure although it is known.")] = False,
    links: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Also time the links of the Ray cluster there; auto: one that runs here."),
    ] = None,
    as_json: Json = False,
) -> Answer:
    """Measure samples a second against batch size, where the device is saturated, and where its memory ends.

    Examples:

        mottle calibrate job.yaml --out calibration.json

        mottle calibrate job.yaml --links auto

    Then, in a fleet file: `sample_s: {calibrated: {file: calibration.json, device: cpu}}`
    """
    from mottle.sdk import jobfile
    from mottle.sdk.calibrating import calibrate as measured
    from mottle.sdk.calibrating import calibrate_links

    found = measured(jobfile.read(job).trainer().job, out, cuda=cuda, most=most, budget_s=seconds, again=again)
    curve = found.curve
    overhead_s, sample_s = curve.line
    lines = [f"{'batch':>7} {'samples/s':>11}", *(f"{size:>7,} {rate:>11,.1f}" for size, rate in curve.rates)]
    limit = "memory never ran out" if curve.memory_limit is None else f"memory holds {curve.memory_limit:,} samples, not twice as many"
    lines += [
        f"{found.device}: saturated from {curve.saturation:,} samples on; {limit}.",
        f"A batch takes {overhead_s * 1e3:.3g} ms and {sample_s * 1e3:.3g} ms a sample. "
        + (f"Known from {out}; --again measures anew." if found.reused else f"Kept in {out}."),
    ]
    timed: dict[str, dict[str, float]] = {}
    if links is not None:
        timed, known = calibrate_links(out, links, again=again)
        lines += [
            f"{device}: {speed['bandwidth_bytes_per_s'] / 1e6:,.0f} MB/s and {speed['latency_s'] * 1e3:.2g} ms one way, on its slowest link"
            + (", as known." if known else ".")
            for device, speed in sorted(timed.items())
        ]
    data = {"links": timed, "device": found.device, "model": found.model, "reused": found.reused, "out": str(out), **curve.as_dict()}
    return Answer(data, "\n".join(lines))

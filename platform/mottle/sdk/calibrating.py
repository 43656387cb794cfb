"""Speed curves of this machine's devices, and links of a cluster's, kept in a file by device type, so that each is measured once.

The file is JSON: `{"format": 1, "devices": {"NVIDIA H200": {"<digest of the model's layout>": curve}}, "links": {"NVIDIA H200":
{"latency_s": ..., "bandwidth_bytes_per_s": ...}}}`, a curve as `engines.speed.SpeedCurve.as_dict` makes it. Fleet files name it:
`sample_s: {calibrated: {file: calibration.json, device: cpu}}`, `bandwidth_bytes_per_s` and `latency_s` likewise.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mottle.actors.job import Job
from mottle.actors.node_links import time_links
from mottle.core.errors import ConfigError
from mottle.data import Positions, derive_seed
from mottle.engines import TorchEngine
from mottle.engines.flat import flatten
from mottle.engines.speed import SpeedCurve, measure
from mottle.sdk.local import ensure_ray

FORMAT = 1


@dataclass(frozen=True)
class Calibrated:
    """A curve and where it comes from."""

    device: str
    model: str
    curve: SpeedCurve
    reused: bool
    """It was in the file already."""


def calibrate(job: Job, file: Path, *, cuda: bool, most: int, budget_s: float, again: bool = False) -> Calibrated:
    """The curve of this machine's device for a job's model: from the file if it is there, else measured and added to it.

    Args:
        cuda: the first CUDA device; else the CPU, with torch's threads as they are.
        most: largest batch tried, and no more than there are samples.
        again: measure anew.
    Raises:
        ConfigError: the file is something else, there is no such device, or not one sample fits.
    """
    if cuda and not torch.cuda.is_available():
        raise ConfigError("there is no CUDA device on this machine; leave --cuda out to measure its CPU")
    device = torch.cuda.get_device_name(0) if cuda else "cpu"
    kept = _read(file)
    known = kept["devices"]
    found = known.get(device, {}).get(job.model_layout.digest)
    if found is not None and not again:
        return Calibrated(device, job.model_layout.digest, SpeedCurve.of(found), reused=True)
    curve = _measured(job, "cuda" if cuda else "cpu", most=min(most, job.brain.num_positions), budget_s=budget_s)
    known.setdefault(device, {})[job.model_layout.digest] = curve.as_dict()
    _write(file, kept)
    return Calibrated(device, job.model_layout.digest, curve, reused=False)


def calibrate_links(file: Path, address: str, *, again: bool = False) -> tuple[dict[str, dict[str, float]], bool]:
    """Links of a Ray cluster by device type: from the file if it has any, else timed and added to it.

    Args:
        address: of the cluster; where this process is connected already, that one counts.
    Returns:
        Latency in seconds and bandwidth in bytes a second, one way, of each type; and whether they were known.
    Raises:
        ConfigError: the file is something else.
        ConnectionError: there is no Ray at that address.
    """
    kept = _read(file)
    if kept["links"] and not again:
        return kept["links"], True
    ensure_ray((), address)
    kept["links"] |= {device: speed._asdict() for device, speed in time_links().items()}
    _write(file, kept)
    return kept["links"], False


def _measured(job: Job, device: str, *, most: int, budget_s: float) -> SpeedCurve:
    module = job.model()
    values = flatten(module, job.model_layout)
    engine = TorchEngine(module, job.loss, job.model_layout, device, most)
    engine.load(values, 0)

    def compute(size: int) -> None:
        if engine.micro_batch_size < size:
            raise MemoryError(f"{size} samples were too many: the engine went down to {engine.micro_batch_size}")
        engine.zero()
        engine.accumulate(
            lambda start, stop: job.loader.load(Positions(0, start, stop)),
            0,
            size,
            seed_of_position=lambda at: derive_seed(job.seed, "model", 0, at),
        )
        if engine.micro_batch_size < size:  # it ran out of memory on the way and went on in halves
            raise MemoryError(f"{size} samples do not fit")
        if device == "cuda":
            torch.cuda.synchronize()

    return measure(compute, most=most, budget_s=budget_s, clock=time.perf_counter)


def _write(file: Path, kept: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"format": FORMAT, **kept}, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _read(file: Path) -> dict[str, Any]:
    """What the file holds of devices and links."""
    if not file.exists():
        return {"devices": {}, "links": {}}
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is no calibration file: {error}") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT or not isinstance(data.get("devices"), dict):
        raise ConfigError(f"{file} is no calibration file of format {FORMAT}; give another one, or delete it")
    return {"devices": data["devices"], "links": data.get("links", {})}

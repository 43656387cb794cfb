"""`mottle calibrate` as a user calls it, and fleet files that name what it found."""

import json
from pathlib import Path

import pytest
from tests.cli.test_simulate import JOB, MODULE

from mottle.actors.node_links import slowest
from mottle.placement import Link
from mottle.simulate.fleetfile import read_fleet
from mottle.storage.document import DocumentError


@pytest.fixture
def job(tmp_path: Path, own_modules: None) -> Path:
    (tmp_path / "toy_to_simulate.py").write_text(MODULE)
    file = tmp_path / "job.yaml"
    file.write_text(JOB)
    return file


def test_a_device_is_measured_once_and_fleet_files_know_it(mottle, job: Path, tmp_path: Path) -> None:
    store = tmp_path / "calibration.json"
    first = mottle("calibrate", job, "--out", store, "--most", 8, "--json").data
    assert [size for size, _ in first["seconds"]] == [1, 2, 4, 8]
    assert (first["device"], first["memory_limit"], first["reused"]) == ("cpu", None, False)
    second = mottle("calibrate", job, "--out", store, "--most", 8, "--json").data
    assert second == {**first, "reused": True}
    outcome = mottle("calibrate", job, "--out", store)
    assert "cpu: saturated from" in outcome.out
    assert "--again measures anew" in outcome.out

    fleet = tmp_path / "fleet.yaml"
    fleet.write_text("workers: [{sample_s: {calibrated: {file: calibration.json, device: cpu}}}]\n")
    assert read_fleet(fleet).workers[0].sample_s == pytest.approx(first["best_sample_s"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{file: calibration.json, device: H100}", "no calibration of one model on 'H100'"),
        ("{file: missing.json, device: cpu}", "missing.json cannot be read"),
        ("{file: calibration.json}", "wanted {file: calibration.json, device: cpu}"),
        ("{file: calibration.json, device: gpu}", "say which model"),
        ("{file: calibration.json, device: gpu, model: b}", ""),
    ],
)
def test_what_a_fleet_file_cannot_find_in_a_calibration_is_said_with_its_line(tmp_path: Path, options: str, message: str) -> None:
    curve = {"best_sample_s": 0.25}
    data = {"format": 1, "devices": {"cpu": {"a": curve}, "gpu": {"a": curve, "b": {"best_sample_s": 0.5}}}}
    (tmp_path / "calibration.json").write_text(json.dumps(data))
    file = tmp_path / "fleet.yaml"
    file.write_text(f"seed: 1\nworkers:\n  - sample_s: {{calibrated: {options}}}\n")
    if not message:
        assert read_fleet(file).workers[0].sample_s == 0.5
        return
    with pytest.raises(DocumentError, match=message) as caught:
        read_fleet(file)
    assert caught.value.faults[0].line == 3


def test_a_file_that_is_no_calibration_is_left_alone(mottle, job: Path, tmp_path: Path) -> None:
    store = tmp_path / "notes.json"
    store.write_text('["mine"]')
    outcome = mottle("calibrate", job, "--out", store)
    assert outcome.code == 2
    assert "is no calibration file" in outcome.err
    assert store.read_text() == '["mine"]'


def test_the_slowest_link_of_each_kind_of_device_counts() -> None:
    quick, slow = Link(10, 10**9), Link(20, 10**8)
    found = slowest(["H200", "cpu", "cpu"], {(0, 1): quick, (0, 2): slow, (1, 2): quick})
    assert found == {"H200": (2e-6, 1e8), "cpu": (2e-6, 1e8)}
    assert slowest(["cpu"], {(0, 0): quick}) == {"cpu": (1e-6, 1e9)}


@pytest.mark.ray
def test_links_are_timed_once_and_fleet_files_know_them(mottle, job: Path, tmp_path: Path, local_ray: None) -> None:
    store = tmp_path / "calibration.json"
    first = mottle("calibrate", job, "--out", store, "--most", 2, "--links", "auto", "--json").data
    assert first["links"].keys() == {"cpu"}
    assert first["links"]["cpu"]["bandwidth_bytes_per_s"] > 1e6
    assert 0 < first["links"]["cpu"]["latency_s"] < 1
    again = mottle("calibrate", job, "--out", store, "--links", "auto")
    assert "MB/s" in again.out
    assert "as known" in again.out

    fleet = tmp_path / "fleet.yaml"
    calibrated = "{calibrated: {file: calibration.json, device: cpu}}"
    fleet.write_text(f"workers: [{{sample_s: 0.1, bandwidth_bytes_per_s: {calibrated}, latency_s: {calibrated}}}]\n")
    (workers,) = read_fleet(fleet).workers
    assert {"bandwidth_bytes_per_s": workers.bandwidth_bytes_per_s, "latency_s": workers.latency_s} == first["links"]["cpu"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{calibrated: {file: calibration.json, device: H100}}", "no link of 'H100'"),
        ("{calibrated: {file: missing.json, device: cpu}}", "missing.json cannot be read"),
        ("{calibrated: {device: cpu}}", "wanted a number, or {calibrated"),
        ("{measured: {}}", "wanted a number, or {calibrated"),
    ],
)
def test_links_that_a_fleet_file_cannot_find_are_said_with_their_line(tmp_path: Path, value: str, message: str) -> None:
    (tmp_path / "calibration.json").write_text('{"format": 1, "devices": {}, "links": {"cpu": {"latency_s": 0.1}}}')
    file = tmp_path / "fleet.yaml"
    file.write_text(f"workers:\n  - sample_s: 1\n    bandwidth_bytes_per_s: {value}\n")
    with pytest.raises(DocumentError, match=message) as caught:
        read_fleet(file)
    assert caught.value.faults[0].line == 3

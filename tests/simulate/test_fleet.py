"""Fleet files and traces: what is read, and what is said about a wrong one."""

import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mottle.core.errors import ConfigError
from mottle.simulate import Fault, Fleet, Lognormal, Messages, Servers, Trace, Validator, Workers, Workload, fleet_yaml, read_fleet
from mottle.simulate.speed import Pace
from mottle.simulate.tracefile import read_trace, write_trace
from mottle.storage.document import DocumentError

WHOLE = """\
seed: 3
currency: USD
workload: {batch_size: 32, micro_batch_size: 8, model_bytes: 44695848, num_samples: 50000}
workers:
  - {name: fast, count: 2, sample_s: 2e-3, bandwidth_bytes_per_s: 1.25e9, latency_s: 50e-6, price_per_hour: 3.5}
  - name: spot
    count: 4
    sample_s: {lognormal: {median_s: 0.01, sigma: 0.3}}
    overhead_s: 0.001
  - {name: old, sample_s: {trace: {file: old.csv}}}
servers: {bandwidth_bytes_per_s: 2.5e9, step_s: 0.001}
validator: {sample_s: 0.001, evaluation_s: 2}
messages: {delay_s: [0, 0.01], repeat: 0.1}
detect_s: 16
faults:
  - {kind: crash, worker: spot-1, at_s: 60}
  - {kind: join, group: spot, at_s: 90}
  - {kind: slow, worker: spot-4, factor: 3, at_s: 120, for_s: 30}
  - {kind: pause, worker: fast-0, at_samples: 1000, for_s: 5}
  - {kind: leave, worker: fast-1, at_s: 200}
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "fleet.yaml"
    file.write_text(text)
    return file


def wrong_with(folder: Path, text: str) -> list[str]:
    """What is said about that file, without the folder."""
    with pytest.raises(DocumentError) as caught:
        read_fleet(written(folder, text))
    return [str(fault).replace(f"{folder}/", "") for fault in caught.value.faults]


def test_a_whole_file(tmp_path: Path) -> None:
    write_trace(tmp_path / "old.csv", Trace(at_s=(0.0, 10.0), sample_s=(0.02, 0.05)))
    fleet = read_fleet(written(tmp_path, WHOLE))
    assert fleet == Fleet(
        seed=3,
        currency="USD",
        workload=Workload(batch_size=32, micro_batch_size=8, model_bytes=44695848, num_samples=50000),
        workers=(
            Workers(name="fast", count=2, sample_s=0.002, bandwidth_bytes_per_s=1.25e9, latency_s=50e-6, price_per_hour=3.5),
            Workers(name="spot", count=4, sample_s=Lognormal(median_s=0.01, sigma=0.3), overhead_s=0.001),
            Workers(name="old", sample_s=Trace(at_s=(0.0, 10.0), sample_s=(0.02, 0.05))),
        ),
        servers=Servers(bandwidth_bytes_per_s=2.5e9, step_s=0.001),
        validator=Validator(sample_s=0.001, evaluation_s=2),
        messages=Messages(delay_s=(0, 0.01), repeat=0.1),
        detect_s=16,
        faults=(
            Fault(kind="crash", worker="spot-1", at_s=60),
            Fault(kind="join", group="spot", at_s=90),
            Fault(kind="slow", worker="spot-4", factor=3, at_s=120, for_s=30),
            Fault(kind="pause", worker="fast-0", at_samples=1000, for_s=5),
            Fault(kind="leave", worker="fast-1", at_s=200),
        ),
    )
    assert fleet.names == ("fast-0", "fast-1", "spot-0", "spot-1", "spot-2", "spot-3", "old-0")


def test_a_fleet_that_is_written_is_read_again(tmp_path: Path) -> None:
    text = WHOLE.replace("{trace: {file: old.csv}}", "0.05")
    fleet = read_fleet(written(tmp_path, text))
    assert read_fleet(written(tmp_path, fleet_yaml(fleet, note="made by\na test"))) == fleet


ONE = "workers:\n  - {sample_s: 0.01}\n"


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("workers:\n  - {sample_s: -1}\n", ["fleet.yaml:2: workers.0.sample_s: wanted seconds above 0 and at most 100,000"]),
        ("workers:\n  - {sample_s: 0}\n", ["fleet.yaml:2: workers.0.sample_s: wanted seconds above 0"]),
        ("workers:\n  - {sample_s: .nan}\n", ["fleet.yaml:2: workers.0.sample_s: wanted seconds above 0"]),
        ("workers:\n  - {sample_s: 1e7}\n", ["fleet.yaml:2: workers.0.sample_s: wanted seconds above 0 and at most 100,000"]),
        ("workers:\n  - {sample_s: true}\n", ["fleet.yaml:2: workers.0.sample_s: wanted seconds above 0"]),
        ("workers:\n  - {count: 3}\n", ["fleet.yaml:2: workers.0.sample_s: is needed"]),
        ("workers:\n  - name: a\n    sample_s: 1\n    count: 1.5\n", ["fleet.yaml:4: workers.0.count: wanted an integer at least 0"]),
        ("workers:\n  - {sample_s: 1, count: -2}\n", ["fleet.yaml:2: workers.0.count: wanted an integer at least 0"]),
        (
            "workers:\n  - {sample_s: 1, count: 10000000}\n",
            ["fleet.yaml:2: workers.0.count: wanted an integer at least 0 and at most 1,000,000"],
        ),
        ("workers:\n  - {sample_s: 1, count: 0}\n", ["fleet.yaml:1: workers: wanted 1 to 1,000,000 workers at the start, got 0"]),
        ("workers: []\n", ["fleet.yaml:1: workers: wanted 1 to"]),
        ("seed: 1\n", ["fleet.yaml:1: workers: is needed"]),
        ("workers:\n  - {sample_s: 1, bandwidth_bytes_per_s: 0}\n", ["workers.0.bandwidth_bytes_per_s: wanted a number at least 1"]),
        ("workers:\n  - {sample_s: 1, latency_s: 1e9}\n", ["workers.0.latency_s: wanted a number at least 0 and at most 3,600"]),
        (
            "workers:\n  - {sample_s: 1, bandwith: 5}\n",
            ["fleet.yaml:2: workers.0.bandwith: unknown key 'bandwith'; did you mean 'bandwidth_bytes"],
        ),
        (
            "workers:\n  - {sample_s: {lognormal: {median_s: 1, sigma: -1}}}\n",
            ["workers.0.sample_s.lognormal.sigma: wanted a number at least 0"],
        ),
        (
            "workers:\n  - {sample_s: {lognormal: {median: 1, sigma: 1}}}\n",
            ["unknown key 'median'; did you mean 'median_s'", "median_s: is needed"],
        ),
        ("workers:\n  - {sample_s: {normal: {}}}\n", ["workers.0.sample_s: unknown compute time 'normal'; did you mean 'lognormal'"]),
        ("workers:\n  - {sample_s: {trace: {file: no.csv}}}\n", ["no.csv: cannot be read: No such file"]),
        (
            ONE + "faults:\n  - {kind: crash, at_s: 1, worker: ghost-0}\n",
            ["fleet.yaml:4: faults.0: no worker is called 'ghost-0'; known: worker-0"],
        ),
        (ONE + "faults:\n  - {kind: join, at_s: 1, group: ghosts}\n", ["fleet.yaml:4: faults.0: no group is called 'ghosts'"]),
        (ONE + "faults:\n  - {kind: crash, worker: worker-0}\n", ["fleet.yaml:4: faults.0.at_s: or at_samples is needed"]),
        (ONE + "faults:\n  - {kind: crash, at_s: -1, worker: worker-0}\n", ["fleet.yaml:4: faults.0.at_s: wanted a number at least 0"]),
        (ONE + "faults:\n  - {kind: crush, at_s: 1}\n", ["fleet.yaml:4: faults.0.kind: wanted one of crash, leave, recall, join"]),
        (
            ONE + "faults:\n  - {kind: slow, at_s: 1, worker: worker-0}\n",
            ["fleet.yaml:4: faults.0.factor: is needed for a fault of kind slow"],
        ),
        (ONE + "faults:\n  - {kind: crash, at_s: 1, worker: worker-0, factor: 2}\n", ["faults.0.factor: is not for a fault of kind crash"]),
        (
            "workers:\n  - {sample_s: 1, attack: sign_flop}\n",
            ["fleet.yaml:2: workers.0.attack: unknown attack 'sign_flop'; did you mean 'sign_flip'"],
        ),
        (
            "workers:\n  - {sample_s: 1, attack: {ipm: {epsilon: 0.5}}}\n",
            ["workers: the attack of worker looks at others' updates; open the channel with collusion: true"],
        ),
        (ONE + "messages: {delay_s: [3, 1]}\n", ["fleet.yaml:3: messages.delay_s: wanted [least, most]"]),
        (ONE + "exchange: gossip\n", ["fleet.yaml:3: exchange: wanted servers or ring, got 'gossip'"]),
        (ONE + "workload: {batch_size: 0, model_bytes: 4}\n", ["fleet.yaml:3: workload.batch_size: wanted an integer at least 1"]),
        (ONE + "seed: 1\nseed: 2\n", ["fleet.yaml:4: seed: given twice, first in line 3"]),
        ("workers:\n  - {sample_s: 1}\n  - {sample_s: 2}\n", ["fleet.yaml:1: workers: groups need names of their own, got worker, worker"]),
        ("- a\n- b\n", ["fleet.yaml: wanted a mapping of keys such as workers: and servers:, got list"]),
        (
            "workers:\n  - {sample_s: -1}\n  - {sample_s: 1, latency_s: -1}\n",
            ["fleet.yaml:2: workers.0.sample_s", "fleet.yaml:3: workers.1.latency_s"],
        ),
    ],
)
def test_a_wrong_file_is_refused_with_line_and_key(tmp_path: Path, text: str, wrong: list[str]) -> None:
    said = wrong_with(tmp_path, text)
    assert len(said) == len(wrong), said
    for message, part in zip(said, wrong, strict=True):
        assert part in message


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "trace.csv:1: wanted the header at_s,sample_s, got nothing"),
        ("t,s\n0,1\n", "trace.csv:1: wanted the header at_s,sample_s, got t,s"),
        ("at_s,sample_s\n", "trace.csv: at_s: wanted as many times as values and at least one"),
        ("at_s,sample_s\n0,0.1\n1,x\n", "trace.csv:3: wanted two numbers, got 1,x"),
        ("at_s,sample_s\n0,0.1\n1\n", "trace.csv:3: wanted two numbers, got 1"),
        ("at_s,sample_s\n0,0.1\n1,-2\n", "trace.csv:3: sample_s: wanted seconds above 0"),
        ("at_s,sample_s\n0,0.1\n1,nan\n", "trace.csv:3: sample_s: wanted seconds above 0"),
        ("at_s,sample_s\n0,0.1\n5,1\n4,1\n", "trace.csv:4: at_s: wanted a later time than 5.0, got 4.0"),
        ("at_s,sample_s\n3,0.1\n", "trace.csv:2: at_s: wanted 0, where the trace begins, got 3.0"),
    ],
)
def test_a_wrong_trace_is_refused_with_its_line(tmp_path: Path, text: str, wrong: str) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(text)
    with pytest.raises(DocumentError) as caught:
        read_trace(file)
    assert wrong in str(caught.value)
    fleet = written(tmp_path, "workers:\n  - {sample_s: {trace: {file: trace.csv}}}\n")
    with pytest.raises(DocumentError, match=r"trace\.csv"):
        read_fleet(fleet)


def test_the_api_refuses_what_the_file_refuses() -> None:
    with pytest.raises(ConfigError, match=r"latency_s wanted a number at least 0 .*; sample_s wanted seconds"):
        Workers(sample_s=-1, latency_s=-1)
    with pytest.raises(ConfigError, match="no worker is called 'worker-1'"):
        Fleet(workers=(Workers(sample_s=1),), faults=(Fault(kind="crash", worker="worker-1", at_s=1),))


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.lists(st.integers(), max_size=3), st.just({"a": 1})
)


@given(data=st.data())
def test_whatever_stands_in_a_fleet_file_is_a_fleet_or_a_fault_with_its_line(data: st.DataObject) -> None:
    """One value of a sound file is replaced by anything at all."""
    document = yaml.safe_load(WHOLE.replace("{trace: {file: old.csv}}", "0.05").replace("e9", ".0e+9"))
    inner, key = document, data.draw(st.sampled_from(sorted(document)))
    while isinstance(inner[key], dict | list) and inner[key] and data.draw(st.booleans()):
        inner = inner[key]
        key = data.draw(st.sampled_from(sorted(inner) if isinstance(inner, dict) else range(len(inner))))
    inner[key] = data.draw(SCALARS)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "fleet.yaml"
        file.write_text(yaml.safe_dump(document, sort_keys=False))
        try:
            faults = () if isinstance(read_fleet(file), Fleet) else None
        except DocumentError as error:
            faults = error.faults
        assert faults is not None
        assert all(fault.line or not fault.key for fault in faults)


@given(seed=st.integers(0, 2**63 - 1), slot=st.integers(0, 10**6), piece=st.integers(0, 10**6))
def test_chance_depends_on_nothing_but_who_and_which(seed: int, slot: int, piece: int) -> None:
    time = Lognormal(median_s=0.01, sigma=0.5)
    first, _ = Pace(time, seed, slot).sample_s(piece, 0)
    again = Pace(time, seed, slot)
    again.sample_s(0, 5)
    assert again.sample_s(piece, 10**9)[0] == first > 0


def test_lognormal_times_have_their_median_and_spread() -> None:
    pace = Pace(Lognormal(median_s=0.01, sigma=0.5), 1, 2)
    times = sorted(pace.sample_s(piece, 0)[0] for piece in range(4001))
    assert times[2000] == pytest.approx(0.01, rel=0.05)
    assert times[3366] / times[2000] == pytest.approx(2.718281828**0.5, rel=0.06)  # one sigma above the median

"""The parts of a gang that need no cluster: what stages send through Ray, what a cluster is put together from, which groups are refused."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.actors import live
from torch import Tensor, nn

from mottle.actors import transport
from mottle.actors.channels import Formation, GlooChannel, Inbox, RayChannel, TornError, call_store, open_store
from mottle.actors.discovery import Found, cluster_of, link_of
from mottle.actors.job import processes
from mottle.actors.link import ShardLink
from mottle.actors.probing import rounded
from mottle.core.errors import ConfigError
from mottle.core.layout import Range
from mottle.engines.placed import Form
from mottle.placement import DEVICE_CLASSES, Link, plan
from mottle.sdk import WorkerGroup
from mottle.sdk.local import missing_resources
from mottle.tune.crew import bundles

FORMATION = Formation(3, (0, 1), "127.0.0.1", 0)


# --- channels ---------------------------------------------------------------------------------------------------------------------------


def test_what_comes_of_another_formation_is_not_taken_for_this_one() -> None:
    inbox = Inbox()
    inbox.put(2, 1, 16, [torch.zeros(2)])
    inbox.put(3, 1, 16, [torch.ones(2)])
    assert torch.equal(inbox.take(3, 1, 16)[0], torch.ones(2))
    inbox.tear(3)
    with pytest.raises(TornError, match="given up the step"):
        inbox.take(3, 1, 16)
    with pytest.raises(TornError):
        inbox.take(2, 1, 16)


def test_who_waits_for_a_stage_that_is_gone_hears_so() -> None:
    inbox, heard = Inbox(), []

    def wait() -> None:
        try:
            RayChannel(FORMATION, 0, [], inbox).expect(1, 16, [Form((2,), torch.float32)])()
        except TornError as error:
            heard.append(str(error))

    waiting = threading.Thread(target=wait)
    waiting.start()
    inbox.tear(3)
    waiting.join()
    assert heard == ["another stage is gone, or has given up the step"]


def gloo_pair() -> tuple[GlooChannel, GlooChannel]:
    store = open_store("127.0.0.1")
    made: dict[int, GlooChannel] = {}

    def join() -> None:
        made[1] = GlooChannel(FORMATION, 1, call_store("127.0.0.1", store.port), "127.0.0.1")

    other = threading.Thread(target=join)
    other.start()
    made[0] = GlooChannel(FORMATION, 0, store, "127.0.0.1")
    other.join()
    return made[0], made[1]


def test_gloo_brings_tensors_of_every_kind_in_order_and_tells_of_a_stage_that_left() -> None:
    here, there = gloo_pair()
    sent = [torch.arange(6).view(2, 3).T, torch.tensor([True, False]), torch.zeros(0, 4), torch.ones(3, dtype=torch.bfloat16)]
    forms = [Form(tuple(each.shape), each.dtype) for each in sent]
    arrive = there.expect(0, 16, forms)
    again = there.expect(0, 16, forms)
    here.send(1, 16, sent)
    here.send(1, 16, [each.logical_not() if each.dtype == torch.bool else each + 1 for each in sent])
    for got, want in zip(arrive(), sent, strict=True):
        assert torch.equal(got, want)
    assert torch.equal(again()[0], sent[0] + 1)
    here.settle()
    waiting = there.expect(0, 17, [Form((1,), torch.float32)])
    del here
    with pytest.raises(TornError, match="the connection to another stage broke"):
        waiting()


# --- versions ---------------------------------------------------------------------------------------------------------------------------


class Shard:
    """A way to a shard that holds these values and counts how often it is read."""

    def __init__(self, values: Tensor, start: int) -> None:
        self.values, self.start, self.asked = values, start, 0

    def ask(self, method: str, reader: str, number: int, cuts: Any, *, large: bool) -> Any:
        assert (method, reader, number) == ("read_cut", "work/7", 3)
        self.asked += 1
        return lambda: transport.publish_cut(transport.publish(self.values), cuts, self.start)


def test_one_reading_of_each_shard_gives_every_stage_its_own_ranges() -> None:
    values = torch.arange(10.0)
    ranges = (Range(0, 6), Range(6, 10), Range(10, 10))
    shards = [Shard(values[:6], 0), Shard(values[6:], 6), Shard(values[10:], 10)]
    ways: Any = {number: [shard] for number, shard in enumerate(shards)}
    cuts = (((Range(0, 2), Range(4, 5)), (Range(2, 4),)), ((), (Range(6, 10),)), ((), ()))
    first, second = ShardLink(ways, ranges, 4, 0).read_cut("work/7", 3, cuts)
    assert [None if each is None else each.tolist() for each in first] == [[0.0, 1.0, 4.0], [], None]
    assert [None if each is None else each.tolist() for each in second] == [[2.0, 3.0], [6.0, 7.0, 8.0, 9.0], None]
    assert [shard.asked for shard in shards] == [1, 1, 0]


# --- a cluster --------------------------------------------------------------------------------------------------------------------------

HOST = DEVICE_CLASSES["cpu-8"]
GPU = ("cuda:0", "t4", 14 << 30, DEVICE_CLASSES["t4"])


def test_a_cluster_has_gpus_before_processors_node_by_node_with_links_of_their_tiers() -> None:
    inside, between = Link(80, 12_000_000_000), Link(500, 1_000_000_000)
    found = [Found("10.0.0.1", [GPU, ("cpu", "cpu", 9 << 30, HOST)], inside), Found("10.0.0.2", [("cpu", "cpu", 5 << 30, HOST)], None)]
    made = cluster_of(["aaaa", "bbbb"], found, {(0, 1): between})
    assert [device.id for device in made.devices] == ["10.0.0.1/cuda:0", "10.0.0.1/cpu", "10.0.0.2/cpu"]
    assert made.nodes["10.0.0.1/cpu"] == "aaaa"
    assert made.links["10.0.0.1/cuda:0", "10.0.0.1/cpu"] == inside
    assert made.links["10.0.0.2/cpu", "10.0.0.1/cuda:0"] == made.default_link == between
    assert {device.kind for device in made.devices} == {"t4", "cpu"}
    made_plan = plan(nn.Linear(8, 8), torch.empty(4, 8), cluster=made)
    assert set(made_plan.devices_used) <= {device.id for device in made.devices}


def test_processors_of_unlike_rates_are_of_classes_of_their_own() -> None:
    found = [Found("a", [("cpu", "cpu", 1 << 30, HOST)], None), Found("b", [("cpu", "cpu", 1 << 30, DEVICE_CLASSES["cpu-32"])], None)]
    made = cluster_of(["n1", "n2"], found, {(0, 1): Link(1, 1)})
    assert [device.kind for device in made.devices] == ["cpu", "cpu of b"]


def test_two_sizes_give_latency_and_bandwidth() -> None:
    link = link_of(50e-6, 50e-6 + (16 << 20) / 1e9)
    assert link.lat == 500
    assert link.bytes_per_s is not None
    assert abs(link.bytes_per_s / 1e9 - 1) < 0.01


def test_rates_are_rounded_so_that_equal_machines_count_as_equal() -> None:
    assert rounded(100e9) == rounded(104e9)
    assert abs(rounded(3.3e9) / 3.3e9 - 1) < 0.13


def test_devices_and_a_cluster_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="either devices or a cluster"):
        plan(nn.Linear(2, 2), torch.empty(1, 2), ["cpu"], cluster="auto")
    with pytest.raises(ConfigError, match="unknown cluster 'atuo'; did you mean 'auto'"):
        plan(nn.Linear(2, 2), torch.empty(1, 2), cluster="atuo")


# --- groups -----------------------------------------------------------------------------------------------------------------------------


def gang(**options: Any) -> WorkerGroup:
    return WorkerGroup(engine={"placed": {"stages": 3, **options}})


def test_a_gang_counts_with_all_of_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 5.0})
    assert processes(gang()) == 3
    assert processes(WorkerGroup()) == 1
    assert missing_resources((gang(), WorkerGroup(count=3))) == "6 CPU (the cluster has 5)"
    assert bundles([gang()]) == [{}, {"CPU": 1.0}, {"CPU": 1.0}, {"CPU": 1.0}]


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(live.NUM_FEATURES, live.NUM_CLASSES), nn.Linear(live.NUM_FEATURES, live.NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.a(x) if float(x.sum()) > 0 else self.b(x)
        return answer


@pytest.mark.parametrize(
    ("model", "group", "message"),
    [
        (live.perceptron, gang(schedule="2f2b"), "schedule '2f2b' is unknown; known: 1f1b, dsp, gpipe"),
        (live.perceptron, gang(slots=-1), "slots must be an integer of at least 0"),
        (live.perceptron, gang(calibrate="op"), "calibrate 'op' is unknown; did you mean 'ops'"),
        (live.perceptron, WorkerGroup(engine={"placed": {"stages": 2, "schedule": "dsp"}}), "it needs a strategy that has some: local_sgd"),
        (live.perceptron, gang(microbatches=0), "microbatches must be an integer of at least 1"),
        (live.perceptron, WorkerGroup(engine={"placed": {"stages": 1}}), "stages must be an integer of at least 2"),
        (live.perceptron, WorkerGroup(engine="placed"), "engine 'placed' needs stages"),
        (live.perceptron, WorkerGroup(engine={"torch": {"autocast": "bf16"}}), "leave options out"),
        (live.perceptron, WorkerGroup(engine="plaecd"), "unknown engine 'plaecd'; did you mean 'placed'"),
        (
            live.perceptron,
            WorkerGroup(engine={"placed": {"stages": 2}}, attack="sign_flip"),
            "attack needs the whole update in one process",
        ),
        (live.perceptron, gang(), "can be cut into 2 stages at most, 3 were asked for"),
        (Branching, WorkerGroup(engine={"placed": {"stages": 2}}), "no static graph, so it cannot be cut into stages"),
    ],
)
def test_what_cannot_be_a_gang_is_refused_before_anything_starts(tmp_path: Path, model: Any, group: WorkerGroup, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        live.trainer(tmp_path, model, scaling_config=group)

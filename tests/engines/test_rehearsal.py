"""What a process of a gang measures before it has a stage: ops and loss of the whole model, and its way to another process."""

from concurrent.futures import ThreadPoolExecutor

import torch
from tests.engines.gang import Queues
from tests.engines.test_placed import SIZE, Tied, data, seeded, weighted

from mottle.engines import layout_of
from mottle.engines.flat import flatten
from mottle.engines.placed import captured_call, rehearse, time_link
from mottle.placement import DEVICE_CLASSES
from mottle.placement.staging import Member, cut_stages


def test_a_rehearsal_times_every_op_and_the_loss_and_leaves_the_model_as_it_was() -> None:
    model = seeded(Tied)().train()
    layout, batch = layout_of(model), data(Tied)(0, SIZE)
    before_D, random = flatten(model, layout).clone(), torch.random.get_rng_state()
    captured = captured_call(model, weighted, batch)
    found = rehearse(captured, model, weighted, batch, SIZE, torch.device("cpu"))
    assert set(found.units) == {unit.id for unit in captured.units}
    assert found.loss.forward > 0 < found.loss.backward
    assert torch.equal(flatten(model, layout), before_D)  # BatchNorm's statistics among them
    assert torch.equal(torch.random.get_rng_state(), random)
    cut = cut_stages(captured, [Member(DEVICE_CLASSES["cpu-8"], measured=found.units, loss=found.loss)] * 2, 2)
    total = sum(times.forward + times.backward for times in (*found.units.values(), found.loss))
    assert abs(sum(map(sum, cut.times_ns)) - total) <= 4  # rounded up, twice a stage


def test_both_ends_of_a_link_find_its_latency_and_bandwidth() -> None:
    queues = Queues()
    with ThreadPoolExecutor(2) as pool:
        ends = [pool.submit(time_link, queues.end(stage), 1 - stage, begins=stage == 0) for stage in range(2)]
        links = [end.result() for end in ends]
    for link in links:
        assert link.lat >= 1
        assert link.bytes_per_s is not None
        assert link.bytes_per_s >= 1

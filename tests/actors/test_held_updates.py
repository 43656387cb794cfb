"""Strategies that keep updates back until more have come, on less data than brings them together. No Ray: literal events."""

import pytest

from mottle import strategies
from mottle.core import protocol as p
from mottle.core.brain import Brain
from mottle.core.config import BrainConfig

NUM_POSITIONS = 20
SHARD = p.ReplicaId(0, 0)


def answers(brain: Brain, commands: list[p.Command]) -> list[p.Event]:
    """What one worker and one shard that do as they are told send back."""
    facts: list[p.Event] = []
    for command in commands:
        match command:
            case p.Compute(work_id, worker, _, parts, _):
                samples = sum(len(part.lease) for part in parts)
                facts.append(p.Receipt(SHARD, p.update_name(work_id), worker, samples, True, 1))
            case p.Batch():
                facts += [p.Stepped(SHARD, step.version) for step in command.commands if isinstance(step, p.Step)]
    return facts


@pytest.mark.parametrize("max_samples", [None, 30 * NUM_POSITIONS])
def test_a_buffer_of_more_updates_than_two_passes_hold_is_filled_by_further_passes(max_samples: int | None) -> None:
    """Every update is a whole pass and a step takes ten of them."""
    strategy = strategies.build({"fedbuff": {"buffer_size": 10}}, {"batch_size": NUM_POSITIONS})
    brain = Brain(BrainConfig(num_positions=NUM_POSITIONS, max_samples=max_samples), strategy)
    facts: list[p.Event] = [p.Joined(0), p.Started(p.Version(0, 0))]
    for _ in range(80):
        if not facts:
            break
        facts += answers(brain, brain.handle(facts.pop(0), now_ns=0))
        brain.check()
    if max_samples is None:
        assert brain.finished is None
        assert brain.version.number >= 5
    else:
        assert (brain.finished, brain.version.number, brain.samples) == ("samples", 3, max_samples)
    assert all(epoch.applied == NUM_POSITIONS for epoch in brain.book.epochs[:10])

"""Whether a job's rounds of local steps are as long as it says."""

from mottle.core.strategy import Strategy
from mottle.strategies.local_rounds import LocalRounds


def short_rounds_warning(strategy: Strategy, num_positions: int) -> str | None:
    """What to tell the user before the run starts, where rounds are cut short because they end with their data epoch; else None.

    Args:
        num_positions: samples of an epoch.
    """
    if not isinstance(strategy, LocalRounds):
        return None
    config = strategy.config
    possible = -(-num_positions // config.batch_size)
    if possible >= config.local_steps:
        return None
    return (
        f"rounds end with their epoch: of {config.local_steps} local steps of {config.batch_size} samples each, an epoch of "
        f"{num_positions} has {possible}; lower local_steps or batch_size to choose the length yourself"
    )

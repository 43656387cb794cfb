"""Losses of candidate models: by how much each update alone would lower the loss on trusted data.

Source: Xie, Koyejo, Gupta, "Zeno", ICML 2019, arXiv 1805.10032; `robust-aggregation.md` A11. One sample for all updates of a round, the
mean loss in evaluation mode, losses added in float64 before they are subtracted. An update moves the parameters only: normalisation layers
keep the statistics of the version.
"""

import math

from mottle.actors.held_out import read_rows
from mottle.actors.job import Job
from mottle.actors.link import ShardLink
from mottle.core import protocol as p
from mottle.core.errors import MottleError
from mottle.data import draw_rows
from mottle.engines import TorchEngine


class ScoreError(MottleError):
    """The updates of a round cannot be scored."""


def descents(order: p.Score, job: Job, engine: TorchEngine, shards: ShardLink) -> tuple[float, ...]:
    """Loss of the version minus loss of (version - learning rate * mean gradient), for each update; NaN where that is not finite.

    Raises:
        ScoreError: the job has no trusted data, or the loss of the version itself is not finite.
    """
    if job.validation is None:
        raise ScoreError("the rule compares losses on trusted data, and the job has no validation_data")
    lr = order.lr if order.lr is not None else float(job.strategy_defaults["lr"])
    lr *= 1.0 if job.schedule is None else job.schedule(order.samples)
    rows = draw_rows(job.validation.num_rows, order.num_samples, order.seed, "validation/score", order.request)
    batch = read_rows(job, job.validation, rows, "score/sample", order.request)

    def loss() -> float:
        return engine.evaluate([(batch, len(rows))], {})["loss"]

    shards.load(engine, f"score/{order.request}", order.version.number)
    base_D = engine.values().clone()
    before = loss()
    if not math.isfinite(before):
        raise ScoreError(f"the loss of version {order.version.number} itself is {before}: the model is broken")
    params = job.layout.num_params
    found = []
    for name in order.names:
        for start, piece in shards.means(name):
            stop = min(start + len(piece), params)
            engine.load(base_D[start:stop] - lr * piece[: max(0, stop - start)].to(base_D.device), start)
        after = loss()
        found.append(before - after if math.isfinite(after) else math.nan)
    return tuple(found)

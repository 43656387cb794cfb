"""Reading validation and test data: rows with random transforms come out the same whenever the same reading is repeated."""

from typing import Any

from mottle.actors.job import Job
from mottle.data import derive_seed
from mottle.data.order import IntArray
from mottle.data.source import Source


def read_rows(job: Job, source: Source, rows: IntArray, purpose: str, *place: int) -> Any:
    """The batch of these rows, each row's transforms seeded by run, purpose, place and row, unless the job seeds no samples.

    Args:
        purpose: of the reading, as `derive_seed` takes it.
        place: which reading it is; the same place gives the same batch.
    """
    if not job.loader.seed_samples:
        return source.fetch(rows)
    return source.fetch(rows, [derive_seed(job.seed, purpose, *place, row) for row in rows.tolist()])

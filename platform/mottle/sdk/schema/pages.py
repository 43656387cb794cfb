"""The pages of `docs/` that are written from code, so that they cannot tell another story."""

from pathlib import Path

from mottle.sdk.schema import ray_fields
from mottle.sdk.schema.job import keys_markdown, schema_text

BEGIN = "<!-- written by python -m mottle.sdk.schema: -->\n"
END = "<!-- until here -->\n"


def pages(docs: Path) -> dict[Path, str]:
    """What each page should hold; of `jobs.md` only the part between the two marks is written, and the rest is taken as it is."""
    jobs = docs / "jobs.md"
    before, _, rest = jobs.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return {
        docs / "job.schema.json": schema_text(),
        docs / "ray-configs.md": ray_fields.markdown(),
        jobs: f"{before}{BEGIN}\n{keys_markdown()}\n{END}{after}",
    }

"""`python -m mottle.sdk.schema [DOCS]`: bring the written parts of the docs up to date."""

import sys
from pathlib import Path

from mottle.sdk.schema.pages import pages

for page, text in pages(Path(sys.argv[1] if len(sys.argv) > 1 else "docs")).items():
    page.write_text(text, encoding="utf-8")
    print(page)

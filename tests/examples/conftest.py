"""The examples are scripts beside each other, imported as a user's own: from their folder."""

import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"

# Left there: the actors of a run look for modules where the process that starts them does.
sys.path[:0] = [str(EXAMPLES / "digits"), str(EXAMPLES / "gpt")]

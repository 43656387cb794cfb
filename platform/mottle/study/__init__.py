"""Studies: many small runs side by side, and their pictures."""

from mottle.study.robustness import Study, run_robustness, specs_from_text
from mottle.study.robustness_cell import Cell, Outcome, run_cell
from mottle.study.robustness_report import Matrix, repeat_command

__all__ = ["Cell", "Matrix", "Outcome", "Study", "repeat_command", "run_cell", "run_robustness", "specs_from_text"]

"""Colours and signs of the report, told apart by colour-blind eyes and on paper (Okabe and Ito 2008, without the yellow).

Each verdict and each moment has a sign or a dash of its own as well, so that no statement rests on colour alone.
"""

INK, SOFT, GRID, PAPER = "#1f2328", "#656d76", "#e6e8eb", "#ffffff"
BLUE, ORANGE, GREEN, PINK, SKY, VERMILION, GREY = "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c959f"

WORKER_COLORS = (BLUE, ORANGE, GREEN, PINK, SKY, VERMILION, "#000000", GREY)
"""By order of joining; more workers than these are drawn as a map and not as lines."""

VERDICT_COLORS = {"accepted": BLUE, "unselected": GREY, "rejected": VERMILION, "discarded": ORANGE}

SPENT = {
    "useful_s": ("useful", BLUE),
    "waiting_s": ("waiting", "#d0d7de"),
    "stale_s": ("stale", ORANGE),
    "rejected_s": ("rejected", VERMILION),
    "redone_s": ("redone", PINK),
}
"""The parts of a worker's time, with their name and colour, in the order they are drawn."""

MOMENT_COLORS = {"joined": GREEN, "killed": VERMILION, "left": SOFT, "quarantined": ORANGE}

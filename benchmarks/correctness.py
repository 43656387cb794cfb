"""Rounds that break robust rules in practice, put to Mottle and to the libraries that are installed; prints a table in Markdown.

    python benchmarks/correctness.py

byzfl and Flower are not dependencies; `benchmarks/libraries.py` says how to install them beside Mottle.

Every case is judged by what a rule promises, not by one library's conventions. Honest rows are normal around a common vector; D = 500,
float32 unless said otherwise.

- NaN, Inf, 1e30: one of 11 rows, with a budget of 2. The result must stay among the honest values of every coordinate.
- float64: the result of rows in float64 must be in float64.
- offset: 1e5 added to everything, and one row 30 standard deviations off; 25 and 26 rows with a budget of 5. The result must be within half
  a standard deviation of the library's own result for the same rows without the offset. (From 26 rows on torch.cdist takes distances from
  inner products, which cancel.) Not asked of rules that look at the rows from zero.
- limit: as few rows as the rule's condition allows for 2 faulty ones, which are equal and 1000 off. Coordinate-wise and selecting rules
  must stay among the honest values; the others within twice the largest honest distance from the honest mean.
- half: as many faulty rows declared as honest ones. A rule with a budget must refuse.
- ties: equal rows, or values equally far from the centre. The order of the rows must not matter.
- count: a worker with an ordinary row claims a thousand million samples where others have 4. The result may not come more than half as near
  to its row as without the claim.

Letters: N rows, D coordinates.
"""

import argparse
import platform
import warnings
from collections.abc import Callable
from importlib.metadata import version

import torch
from libraries import CLIPPING_RADIUS, Aggregate, Library, installed, missing
from torch import Tensor

from mottle import aggregation
from mottle.core.errors import ConfigError

D = 500
OK, NONE = "ok", ""
VECTOR_RULES = ("geometric_median", "rfa", "centered_clipping")
"""They promise a bounded distance rather than the honest range."""
ROW_RULES = ("krum", "multi_krum", "bulyan", "nnm+median", *VECTOR_RULES)
LEAST_ROWS = {"krum": 7, "multi_krum": 7, "bulyan": 11}
"""For 2 faulty rows; 5 for the others."""
BUDGETS = ("trimmed_mean", "phocas", "mea_med", "krum", "multi_krum", "bulyan", "nnm+median")


def mottle() -> Library:
    """All rules that another library has too, and those of the same families."""

    def maker(spec_of: Callable[[int], object]) -> Callable[[int], Aggregate]:
        def make(f: int) -> Aggregate:
            rule = aggregation.build(spec_of(f))  # type: ignore[arg-type]  # specs of all forms
            return lambda rows_ND, counts: rule(rows_ND, counts)

        return make

    return Library(
        "Mottle",
        version("mottle"),
        True,
        {
            "median": maker(lambda f: "median"),
            "trimmed_mean": maker(lambda f: {"trimmed_mean": {"trim": f}}),
            "phocas": maker(lambda f: {"phocas": {"trim": f}}),
            "mea_med": maker(lambda f: {"mea_med": {"num_byzantine": f}}),
            "krum": maker(lambda f: {"krum": {"num_byzantine": f}}),
            "multi_krum": maker(lambda f: {"multi_krum": {"num_byzantine": f}}),
            "bulyan": maker(lambda f: {"bulyan": {"num_byzantine": f}}),
            "geometric_median": maker(lambda f: "geometric_median"),
            "rfa": maker(lambda f: "rfa"),
            "centered_clipping": maker(lambda f: {"centered_clipping": {"radius": CLIPPING_RADIUS}}),
            "nnm+median": maker(lambda f: {"nnm": {"num_byzantine": f, "inner": "median"}}),
        },
    )


def normal(num_rows: int, seed: int = 0) -> Tensor:
    return torch.randn(num_rows, D, generator=torch.Generator().manual_seed(seed))


def among(result_D: Tensor, honest_ND: Tensor) -> str:
    """Whether every coordinate lies between honest values."""
    if not bool(torch.isfinite(result_D).all()):
        return "NaN" if bool(torch.isnan(result_D).any()) else "infinite"
    slack = 1e-5 * float(honest_ND.abs().max())
    inside = (result_D >= honest_ND.amin(0) - slack) & (result_D <= honest_ND.amax(0) + slack)
    return OK if bool(inside.all()) else "out of range"


def near(result_D: Tensor, honest_ND: Tensor) -> str:
    """Whether the result is within twice the largest honest distance from the honest mean."""
    mean_D = honest_ND.mean(0)
    reach = 2 * float(torch.linalg.vector_norm(honest_ND - mean_D, dim=1).max())
    distance = float(torch.linalg.vector_norm(result_D - mean_D))
    return OK if distance <= reach else f"{distance / reach * 2:.0f} radii off"


def one_bad_row(bad: Callable[[Tensor], Tensor]) -> Callable[[str, Callable[[int], Aggregate]], str]:
    def judge(rule: str, make: Callable[[int], Aggregate]) -> str:
        rows_ND = normal(11)
        rows_ND[3] = bad(rows_ND[3])
        return among(make(2)(rows_ND, None), rows_ND[[row for row in range(11) if row != 3]])

    return judge


def offset(num_rows: int) -> Callable[[str, Callable[[int], Aggregate]], str]:
    def judge(rule: str, make: Callable[[int], Aggregate]) -> str:
        if rule in ("rfa", "centered_clipping"):
            return NONE
        rows_ND = normal(num_rows) + 1e5
        rows_ND[5] += 30
        exact_D = make(5)(rows_ND - 1e5, None)  # no rounding: both are multiples of 2^-7
        error = float((make(5)(rows_ND, None).double() - 1e5 - exact_D.double()).abs().max())
        return OK if error <= 0.5 else f"off by {error:.1f}"

    return judge


def float64(rule: str, make: Callable[[int], Aggregate]) -> str:
    dtype = make(2)(normal(11).double(), None).dtype
    return OK if dtype == torch.float64 else str(dtype).removeprefix("torch.")


def limit(rule: str, make: Callable[[int], Aggregate]) -> str:
    rows_ND = normal(LEAST_ROWS.get(rule, 5))
    rows_ND[:2] = 1000.0
    return (near if rule in VECTOR_RULES else among)(make(2)(rows_ND, None), rows_ND[2:])


def half(rule: str, make: Callable[[int], Aggregate]) -> str:
    if rule not in BUDGETS:
        return NONE
    try:
        make(4)(normal(8), None)
    except (ValueError, ConfigError):
        return OK
    return "answers"


def ties(rule: str, make: Callable[[int], Aggregate]) -> str:
    generator = torch.Generator().manual_seed(1)
    if rule in ROW_RULES:
        rows_ND = normal(6)[[0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5]]
    else:
        rows_ND = torch.randint(0, 5, (11, D), generator=generator).float()
    first_D = make(2)(rows_ND, None)
    for _ in range(10):
        again_D = make(2)(rows_ND[torch.randperm(11, generator=generator)], None)
        if not torch.allclose(again_D, first_D, rtol=0, atol=1e-4):
            return "order matters"
    return OK


def count(rule: str, make: Callable[[int], Aggregate]) -> str:
    rows_ND = normal(11)
    rows_ND[4] = rows_ND.mean(0) + 0.3 * rows_ND[4]
    honest_D, bought_D = (make(2)(rows_ND, [claim if row == 4 else 4 for row in range(11)]) for claim in (4, 10**9))
    before, after = (float(torch.linalg.vector_norm(each - rows_ND[4])) for each in (honest_D, bought_D))
    return OK if after >= 0.5 * before else "bought"


CASES: dict[str, Callable[[str, Callable[[int], Aggregate]], str]] = {
    "NaN": one_bad_row(lambda row_D: torch.where(torch.arange(D) == 7, torch.nan, row_D)),
    "Inf": one_bad_row(lambda row_D: torch.full_like(row_D, torch.inf)),
    "1e30": one_bad_row(lambda row_D: row_D * 1e30),
    "float64": float64,
    "offset, 25 rows": offset(25),
    "offset, 26 rows": offset(26),
    "limit": limit,
    "half": half,
    "ties": ties,
    "count": count,
}


def judged(library: Library, rule: str, case: str) -> str:
    """`ok`, what went wrong, or nothing where the case does not apply."""
    if case == "count" and not library.weighs:
        return NONE
    try:
        return CASES[case](rule, library.rules[rule])
    except Exception as error:  # whatever another library raises is its result
        return f"raises {type(error).__name__}"


def table(libraries: list[Library]) -> list[str]:
    rules = [rule for rule in libraries[0].rules if any(rule in library.rules for library in libraries)]
    lines = [f"| rule | library | {' | '.join(CASES)} |", "| --- " * (len(CASES) + 2) + "|"]
    for rule in rules:
        for library in libraries:
            if rule in library.rules:
                cells = [judged(library, rule, case) for case in CASES]
                lines.append(f"| {rule} | {library.name} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    warnings.simplefilter("ignore")  # other libraries' overflows and divisions by zero; their results are what is judged
    libraries = [mottle(), *installed()]
    names = ", ".join(f"{library.name} {library.version}" for library in libraries)
    print(f"{names}; torch {torch.__version__}, Python {platform.python_version()}")
    for name in missing():
        print(f"{name} is not installed; benchmarks/libraries.py says how to install it beside Mottle")
    print()
    print("\n".join(table(libraries)))


if __name__ == "__main__":
    main()

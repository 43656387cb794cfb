"""The benchmarks that print rows, one after the other; these go into the table of `docs/benchmarks.md`.

python -m benchmarks [--only step_time updates ...]

Each script also runs by itself and then prints more than its rows. What stands around the table, and rows that no script made, stay.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.table import PAGE, replaced, rows_of

HERE = Path(__file__).resolve().parent
ARGUMENTS: dict[str, list[str]] = {"step_time": ["--steps", "25"], "memory": ["--steps", "10"]}
"""What the page's figures are taken with, where that is not the default."""


def names() -> list[str]:
    """Scripts that tell rows, in the alphabet's order."""
    return sorted(path.stem for path in HERE.glob("*.py") if "\nfrom table import tell\n" in path.read_text())


def run(name: str) -> bool:
    """Run one script, show what it prints, put its rows into the page. Whether it ended well; a failure leaves the page as it is."""
    arguments = [f"benchmarks/{name}.py", *ARGUMENTS.get(name, [])]
    with subprocess.Popen([sys.executable, *arguments], cwd=HERE.parent, stdout=subprocess.PIPE, text=True) as script:
        assert script.stdout is not None
        output = ""
        for line in script.stdout:
            print(line, end="", flush=True)
            output += line
    if script.returncode != 0:
        print(f"{name} ended with exit code {script.returncode}: its rows stay as they were", file=sys.stderr)
        return False
    PAGE.write_text(replaced(PAGE.read_text(), name, rows_of(output, " ".join(["python", *arguments]))))
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=names(), default=names(), metavar="NAME", help=", ".join(names()))
    ended_well = []
    for name in parser.parse_args().only:
        print(f"--- {name}", flush=True)
        ended_well.append(run(name))
    return 0 if all(ended_well) else 1


if __name__ == "__main__":
    sys.exit(main())

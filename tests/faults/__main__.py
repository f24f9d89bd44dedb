"""Hurts runs in every way that is known, and prints what they survived.

python -m tests.faults [--only TEXT] [--kills 50]
"""

import argparse
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from tests.faults.scenarios import FAULTS, NotSurvived, random_kills


def main() -> int:
    """Run the faults; 1 if one was not survived."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--only", default="", help="faults with this text in their name")
    parser.add_argument("--kills", type=int, default=50, help="of the random ones")
    arguments = parser.parse_args()
    failed = 0
    print(f"{'fault':42} {'tried':>5} {'survived':>8} {'iterations lost':>15} {'calls repeated':>14}"
          f" {'seconds':>7}")  # fmt: skip
    for name, fault in FAULTS.items():
        if arguments.only not in name:
            continue
        attempt = partial(fault, kills=arguments.kills) if fault is random_kills else fault
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="asyndbt-") as folder:
            try:
                outcome = attempt(Path(folder) / "run")
                lost, repeated = outcome.lost, outcome.repeated
                row = f"{outcome.tried:5} {outcome.tried:8} {lost:15} {repeated:14}"
                failed += bool(lost or repeated)
            except NotSurvived as error:
                failed += 1
                row = f"    -       no  {error}"
        print(f"{name:42} {row} {time.monotonic() - started:7.0f}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

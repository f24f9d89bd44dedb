"""How many of so many random bit flips in a log `asyndbt verify` notices, and which it misses.

Example: python benchmarks/bitflips.py --flips 500

The log is that of a simulated run with planes, evaluations, tests, estimates and texts. Each flip
hits one bit, uniform over all that are live (see live.py), of a copy of its own. It is noticed if
`asyndbt verify` ends with another exit code than 0; to end by a signal or to take longer than
`LIMIT` seconds is to miss it.
"""

import argparse
import multiprocessing
import tempfile
from collections import Counter
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from live import Extent, extents
from machine import describe
from scipy.stats import binomtest

from asyndbt_mpi.commands.simulate import simulate_silently
from asyndbt_mpi.jobs.job import Job, Request
from asyndbt_mpi.log.errors import LogError
from asyndbt_mpi.log.verify import verify

WORKERS = 4
SETTINGS = (
    "run.iterations=300",
    "run.evaluate_every=20",
    "algorithm.tolerance=0.05",
)
LIMIT = 60.0

Outcome = Literal["noticed", "unreadable", "traceback", "missed", "crashed", "hung"]
NOTICED: tuple[Outcome, ...] = ("noticed", "unreadable", "traceback")


class Flip(NamedTuple):
    """One bit of a file, and what it belongs to."""

    byte: int
    bit: int
    place: str


def make_log(path: Path) -> None:
    """A finished log with everything in it."""
    request = Request("synthetic", SETTINGS, str(path), True, False)
    simulate_silently(Job.of(request, WORKERS), 1)


def draw(live: list[Extent], number: int, generator: np.random.Generator) -> list[Flip]:
    """So many bits, uniform over the ``live`` bytes."""
    ends = np.cumsum([each.stop - each.start for each in live])
    flips = []
    for place in generator.integers(ends[-1], size=number).tolist():
        index = int(np.searchsorted(ends, place, side="right"))
        extent = live[index]
        byte = extent.stop - (int(ends[index]) - place)
        flips.append(Flip(byte, int(generator.integers(8)), extent.place))
    return flips


def outcome(path: Path, flip: Flip, copy: Path) -> Outcome:
    """What comes of verifying a ``copy`` of the log at ``path`` with the bit turned."""
    content = bytearray(path.read_bytes())
    content[flip.byte] ^= 1 << flip.bit
    copy.write_bytes(content)
    # To start Python anew would take most of the time.
    process = multiprocessing.get_context("fork").Process(target=_verify, args=(copy,))
    process.start()
    process.join(LIMIT)
    if process.exitcode is None:
        process.kill()
        process.join()
        return "hung"
    of_code: dict[int, Outcome] = {0: "missed", 1: "noticed", 2: "unreadable", 3: "traceback"}
    return of_code.get(process.exitcode, "crashed")


def _verify(path: Path) -> None:
    try:
        code = 1 if verify(path).violations else 0
    except LogError:
        code = 2
    except Exception:
        code = 3
    raise SystemExit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flips", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(describe())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.h5"
        make_log(path)
        live = extents(path)
        sizes = Counter[str]()
        for each in live:
            sizes[each.place] += each.stop - each.start
        print(f"{path.stat().st_size:,} bytes, of which {sum(sizes.values()):,} are live")
        flips = draw(live, arguments.flips, np.random.default_rng(arguments.seed))
        outcomes = [outcome(path, flip, Path(folder) / "copy.h5") for flip in flips]
    print(f"{'':24}{'live bytes':>12}{'flips':>8}{'noticed':>9}")
    for place, size in sorted(sizes.items()):
        there = [found for flip, found in zip(flips, outcomes, strict=True) if flip.place == place]
        noticed = sum(found in NOTICED for found in there)
        print(f"{place:24}{size:12,}{len(there):8}{noticed:9}")
    noticed = sum(found in NOTICED for found in outcomes)
    interval = binomtest(noticed, len(flips)).proportion_ci(method="wilson")
    print(f"{noticed} of {len(flips)} noticed: {100 * noticed / len(flips):.1f} %"
          f" (95 % interval {100 * interval.low:.1f} - {100 * interval.high:.1f})")  # fmt: skip
    print(", ".join(f"{kind} {number}" for kind, number in sorted(Counter(outcomes).items())))
    for flip, found in zip(flips, outcomes, strict=True):
        if found not in NOTICED:
            print(f"{found}: byte {flip.byte}, bit {flip.bit}, {flip.place}")


if __name__ == "__main__":
    main()

"""`make fuzz`: a million hostile messages, and answers, logs, configurations and data besides.

    python -m tests.fuzz [SHARE]

Seeds are fixed, so that all of it can be repeated; SHARE (1 by default) of the cases are tried, on all
cores. Whatever is neither taken nor refused ends it with the seed and the case.
"""

import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

from tests.fuzz import answers, configuration, logs, messages, rows


class Part(NamedTuple):
    """``fuzz`` with each of so many ``seeds`` on so many ``cases``."""

    what: str
    fuzz: Callable[[int, int], Counter[str]]
    seeds: int
    cases: int


PARTS = [
    Part("messages between ranks", messages.fuzz, 20, 50_000),
    Part("runs on rows, with their logs", rows.fuzz, 10, 30),
    Part("answers of servers", answers.fuzz, 10, 50_000),
    Part("configurations and data", configuration.fuzz, 10, 20_000),
    Part("logs", logs.fuzz, 10, 200),
]


def main(share: float = 1.0) -> None:
    """Print a table of what came of all cases."""
    print("| what | cases | seconds | what came of them |\n| --- | --- | --- | --- |")
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for part in PARTS:
            started = time.perf_counter()
            cases = max(1, round(part.cases * share))
            found = pool.map(part.fuzz, range(part.seeds), [cases] * part.seeds)
            outcomes = sum(found, Counter[str]())
            seconds = time.perf_counter() - started
            told = ", ".join(f"{name} {count:,}" for name, count in sorted(outcomes.items()))
            print(f"| {part.what} | {outcomes.total():,} | {seconds:.0f} | {told} |", flush=True)


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))

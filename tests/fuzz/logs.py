"""Damaged and hostile logs, through `asyndbt verify` and `show`.

    python -m tests.fuzz.logs [SEED [CASES]]

A finished log has bytes turned, runs of bytes replaced, or its end cut off. It is whole, or what is
wrong is said, or it is refused: in a process of its own, which must not crash, take longer than
`LIMIT` seconds or more memory than `MEMORY`.
"""

import io
import multiprocessing
import random
import resource
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from asyndbt_mpi.log.errors import LogError
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.verify import verify
from asyndbt_mpi.view.summary import print_summary
from tests.log.simulated_run import configuration, write_log

LIMIT = 60.0
MEMORY = 2**32
"""Bytes of addresses, most of which libraries reserve."""

OUTCOMES = {0: "whole", 3: "violations", 4: "refused"}
OTHERWISE = {1: "another exception", None: "no end"}


def fuzz(seed: int, cases: int) -> Counter[str]:
    """How often each outcome came of ``cases`` logs.

    Raises
    ------
    AssertionError
        A process ended in any other way.
    """
    generator = random.Random(seed)
    outcomes: Counter[str] = Counter()
    with TemporaryDirectory() as folder:
        whole = Path(folder) / "whole.h5"
        write_log(whole, configuration())
        content = whole.read_bytes()
        for number in range(cases):
            damaged = Path(folder) / "damaged.h5"
            damaged.write_bytes(_damaged(generator, content))
            code = _in_a_process(damaged)
            if code not in OUTCOMES:
                kept = Path(f"fuzzed-{seed}-{number}.h5").resolve()
                kept.write_bytes(damaged.read_bytes())
                how = OTHERWISE.get(code, f"exit code {code}")
                raise AssertionError(f"seed {seed}, log {number}: {how}; the log is kept in {kept}")
            outcomes[OUTCOMES[code]] += 1
    return outcomes


def _damaged(generator: random.Random, content: bytes) -> bytes:
    damaged = bytearray(content)
    for _ in range(generator.choice([1, 1, 2, 5])):
        # HDF5's own structures are scattered; the first of them stand at the start.
        place = generator.randrange(len(damaged) if generator.random() < 0.7 else 4096)
        match generator.randrange(4):
            case 0:
                damaged[place] ^= 1 << generator.randrange(8)
            case 1:
                damaged[place] = generator.choice([0, 1, 0x7F, 0x80, 0xFF])
            case 2:
                length = generator.choice([2, 4, 8, 8, 64])
                value = generator.choice([b"\0", b"\xff", b"\x7f", b"\1"]) * length
                damaged[place : place + length] = value
            case 3:
                source = generator.randrange(len(damaged))
                damaged[place : place + 64] = damaged[source : source + 64]
    if generator.random() < 0.1:
        del damaged[generator.randrange(len(damaged)) :]
    return bytes(damaged)


def _in_a_process(path: Path) -> int | None:
    # To start Python anew would take most of the time.
    process = multiprocessing.get_context("fork").Process(target=_read, args=(path,))
    process.start()
    process.join(LIMIT)
    if process.exitcode is None:
        process.kill()
        process.join()
        return None
    return process.exitcode


def _read(path: Path) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        violations = verify(path).violations
        with Log(path) as log:
            print_summary(log, Console(file=io.StringIO()))
    except LogError:
        raise SystemExit(4) from None
    raise SystemExit(3 if violations else 0)


if __name__ == "__main__":
    seed, cases = ([*map(int, sys.argv[1:]), 0, 200])[:2] if sys.argv[1:] else (0, 200)
    for name, count in sorted(fuzz(seed, cases).items()):
        print(f"{name:24} {count}")

"""What tuning buys: AsynDBT against what a user would otherwise do with the same calls.

Example: python benchmarks/quality.py --data FOLDER --output runs/quality

FOLDER has the folders snips, clinc and glue/SST-2, each with train.jsonl and dev.jsonl; a task
whose folder is missing is left out. A cell (task, method, seed) that is finished is one file below
--output, and is not made again; answers of the language model are kept there as well. Seeds take
turns, so that a benchmark that was interrupted still compares like with like.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from machine import describe
from quality_cells import Key, Mismatch, finished, make, read
from quality_methods import METHODS, USUAL
from quality_table import tables
from quality_tasks import TASKS, Trial

QUICK = {
    "seeds": 1,
    "tasks": ["reviews", "requests"],
    "test": 50,
    "jobs": 2,
    "methods": ["untuned", "random", "search-calibrated", "now-calibrated"],
}


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data"), metavar="FOLDER")
    parser.add_argument("--output", type=Path, default=Path("runs/quality"), metavar="FOLDER")
    parser.add_argument("--seeds", type=int, default=5, help="0, 1, ... (default %(default)s)")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=USUAL)
    parser.add_argument(
        "--calls", type=int, default=1200, help="of all workers, tests apart (default %(default)s)"
    )
    parser.add_argument("--test", type=int, default=100, help="test rows (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--table", action="store_true", help="only print what is finished")
    parser.add_argument(
        "--quick", action="store_true", help="less of everything, for a first look in minutes"
    )
    # What is given beside --quick stays.
    if parser.parse_known_args()[0].quick:
        parser.set_defaults(**QUICK)
    return parser.parse_args()


def main() -> None:
    arguments = parsed()
    tasks = list(available(arguments))
    keys = [
        Key(arguments.calls, seed, task, method)
        for seed in range(arguments.seeds)
        for task in tasks
        for method in arguments.methods
    ]
    try:
        if not arguments.table:
            run(arguments, keys)
        cells = finished(keys, arguments.test, arguments.output)
    except (Mismatch, ValueError) as error:
        sys.exit(str(error))
    print(f"{describe()}; {arguments.calls:,} calls, {arguments.test} test rows")
    for line in tables(cells, arguments.methods, tasks):
        print(line)


def available(arguments: argparse.Namespace) -> Iterator[str]:
    """The tasks whose data are there; a line about each of the others."""
    for name in arguments.tasks:
        folder = arguments.data / TASKS[name].folder
        if TASKS[name].folder and not folder.is_dir():
            print(f"{name} is left out: {folder} is no folder; see --data", file=sys.stderr)
        else:
            yield name


def run(arguments: argparse.Namespace, keys: list[Key]) -> None:
    """Make the cells of ``keys`` that are missing, task by task under each seed."""
    groups: dict[tuple[int, str], list[Key]] = {}
    for key in keys:
        if read(key, arguments.test, arguments.output) is None:
            groups.setdefault((key.seed, key.task), []).append(key)
    with ProcessPoolExecutor(arguments.jobs) as pool:
        futures = [pool.submit(make_group, arguments, group) for group in groups.values()]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def make_group(arguments: argparse.Namespace, keys: list[Key]) -> None:
    """Make cells of one task and seed, which share answers."""
    seed, task = keys[0].seed, keys[0].task
    answers = arguments.output / "answers"
    trial = Trial(task, seed, arguments.test, arguments.data, answers, os.getpid())
    for key in keys:
        seconds = make(trial, key, arguments.test, arguments.output)
        print(f"seed {seed}, {task}, {key.method}: {seconds:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

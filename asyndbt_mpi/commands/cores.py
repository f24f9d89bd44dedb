"""Many pieces of work that know nothing of each other, on all cores of this machine."""

import itertools
import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from asyndbt_mpi.view.bar import Count

T = TypeVar("T")


def on_all_cores(
    work: Sequence[T],
    do: Callable[[T, int], None],
    name: Callable[[T], str],
    unit: str,
    total: int,
) -> list[str]:
    """``do`` each piece, with so many cores for it; what failed, one line each.

    ``total`` are all pieces, with those that were done before; ``unit`` is what they are called.
    """
    cores = len(os.sched_getaffinity(0))
    processes = max(1, min(cores, len(work)))
    # Each process has one core: several threads of numerical libraries would compete.
    os.environ.setdefault("OMP_NUM_THREADS", str(cores // processes))
    failures: list[str] = []
    waiting = iter(work)
    running: dict[Future[None], T] = {}
    pool = ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), initializer=_end_with_parent
    )
    progress = Count(total, unit, done=total - len(work))
    with pool, progress:
        while True:
            # No more than can run at once, because the pool's queue cannot be withdrawn.
            for piece in itertools.islice(waiting, processes - len(running)):
                running[pool.submit(do, piece, cores // processes)] = piece
            if not running:
                return failures
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                piece, error = running.pop(future), future.exception()
                if error:
                    failures.append(f"{name(piece)}: {type(error).__name__}: {error}")
                if isinstance(error, BrokenProcessPool):
                    return [*failures, f"a process died (out of memory?): the {unit} end here"]
                progress.add(1)


def _end_with_parent() -> None:
    """Let this process end when the one that started it does, even by a kill."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()

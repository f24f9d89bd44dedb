"""The progress bar of a run."""

import os
import sys
import time
from types import TracebackType

import numpy as np
from tqdm import tqdm

from asyndbt_mpi.protocol.records import Evaluation, Event, EventKind, Iteration, Record

MOST_NAMES = 8
"""With more workers than this, the active ones are counted and not named."""
SECONDS = 0.5
"""Between two refreshes. Under mpiexec a rank cannot tell a terminal from a file, for its output
goes through a pipe to the launcher either way ..."""
BATCH_SECONDS = 30.0
"""... but in a batch job nobody is watching."""
WIDTH = 80


class Progress:
    """Shows iteration, objective, active workers, worst delay, calls, tokens/s and time left."""

    def __init__(self, iterations: int, workers: int) -> None:
        self.workers = workers
        self.ready = 0
        self.calls = 0
        self.prompt_tokens = 0
        self._started = time.perf_counter()
        self._bar = tqdm(
            total=iterations,
            unit="it",
            ncols=int(os.environ.get("COLUMNS", WIDTH)),
            mininterval=BATCH_SECONDS if "SLURM_JOB_ID" in os.environ else SECONDS,
            bar_format="{desc}{n_fmt}/{total_fmt} |{bar:8}| {elapsed}<{remaining}{postfix}",
        )
        self._bar.set_description_str(f"waiting for {workers} workers ")

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self._bar.write(line, file=sys.stderr)

    def update(self, record: Record) -> None:
        """Show what ``record`` says."""
        match record:
            case Event(kind=EventKind.HELLO):
                self.ready += 1
                waiting = self.ready < self.workers
                ready = f"{self.ready}/{self.workers} workers ready "
                self._bar.set_description_str(ready if waiting else "")
            case Iteration():
                self._show(record)
            case Evaluation():
                self._count(record.calls, record.prompt_tokens)

    def _show(self, iteration: Iteration) -> None:
        for used in iteration.reports:
            self._count(used.report.costs.calls, used.report.costs.prompt_tokens)
        if iteration.estimation:
            self._count(iteration.estimation.calls, iteration.estimation.prompt_tokens)
        active = [str(index + 1) for index in np.flatnonzero(iteration.active)]
        named = " ".join(active) if self.workers <= MOST_NAMES else str(len(active))
        rate = self.prompt_tokens / (time.perf_counter() - self._started)
        self._bar.set_postfix_str(
            f"loss {iteration.objective:.3f}, active {named}, late {iteration.delay.max()},"
            f" {self.calls} calls, {rate:.0f} tok/s",
            refresh=False,
        )
        self._bar.update(1)

    def _count(self, calls: int, prompt_tokens: int) -> None:
        self.calls += calls
        self.prompt_tokens += prompt_tokens

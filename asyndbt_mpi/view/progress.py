"""The progress bar of a run."""

import os
import sys
import time
from types import TracebackType
from typing import TextIO

import numpy as np
from tqdm import tqdm

from asyndbt_mpi.log.text import printable
from asyndbt_mpi.protocol.records import Event, EventKind, Iteration, Record

MOST_NAMES = 8
"""With more workers than this, the active ones are counted instead of named."""
WIDTH = 80
SECONDS = 0.5
"""Between two refreshes on a terminal, ..."""
PLAIN_SECONDS = 15.0
"""... and without one, as in a batch job."""
ERASE_LINE_ABOVE = "\x1b[1A\x1b[2K"


class LineByLine:
    """A stream for the bar that writes each of its states as a separate line.

    mpiexec passes on a rank's output only when a line is complete: a bar that merely returned to
    the start of its line would appear when the run is over. On a terminal, each line first erases
    the one before.
    """

    encoding = "utf-8"

    def __init__(self, stream: TextIO, erase: bool) -> None:
        self.stream = stream
        self.erase = erase
        self._bar_above = False

    def write(self, text: str) -> None:
        """Write a state of the bar."""
        line = text.strip("\r\n").rstrip()
        if line:
            self._print(line)
            self._bar_above = True

    def say(self, line: str) -> None:
        """Write a line that stays; the bar continues below it."""
        self._print(printable(line))
        self._bar_above = False

    def flush(self) -> None:
        """Pass on what was written."""
        self.stream.flush()

    def _print(self, line: str) -> None:
        erasure = ERASE_LINE_ABOVE if self.erase and self._bar_above else ""
        self.stream.write(f"{erasure}{line}\n")
        self.stream.flush()


class Progress:
    """Shows iteration, objective, active workers, worst delay, calls, tokens/s and time left.

    ``done`` of the ``iterations``, with ``calls`` calls, were made before this run was resumed.
    Without ``tokens``, as for a function, there is no tokens/s.
    """

    def __init__(
        self, iterations: int, workers: int, done: int = 0, calls: int = 0, tokens: bool = True
    ) -> None:
        self.workers = workers
        self.tokens = tokens
        self.ready = 0
        self.calls = calls
        self.prompt_tokens = 0
        self._gone: set[int] = set()
        self._started = time.perf_counter()
        # Under mpiexec a rank's output is a pipe, whether or not a terminal is at its other end.
        watched = not {"CI", "SLURM_JOB_ID"} & set(os.environ) and "TERM" in os.environ
        self._stream = LineByLine(sys.stderr, erase=watched)
        self._bar = tqdm(
            total=iterations,
            initial=done,
            desc=f"waiting for {workers} workers ",
            file=self._stream,
            ncols=int(os.environ.get("COLUMNS", WIDTH)),
            mininterval=SECONDS if watched else PLAIN_SECONDS,
            bar_format="{desc}{n_fmt}/{total_fmt} |{bar:8}| {elapsed}<{remaining}{postfix}",
        )

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
        self._stream.say(line)

    def update(self, record: Record) -> None:
        """Show what ``record`` says."""
        match record:
            case Event():
                self.calls += record.costs.calls
                self.prompt_tokens += record.costs.prompt_tokens
                if record.kind in (EventKind.LOST, EventKind.EXCLUDED):
                    self._gone.add(record.worker - 1)
                if record.kind is EventKind.HELLO:
                    self._gone.discard(record.worker - 1)
                    self.ready += 1
                    waiting = self.ready < self.workers
                    ready = f"{self.ready}/{self.workers} workers ready "
                    self._bar.set_description_str(ready if waiting else "")
            case Iteration():
                self._show(record)

    def _show(self, iteration: Iteration) -> None:
        active = [str(index + 1) for index in np.flatnonzero(iteration.active)]
        named = " ".join(active) if self.workers <= MOST_NAMES else str(len(active))
        # In a resumed run only workers that were lost report that they are ready.
        self._bar.set_description_str("", refresh=False)
        late = max(d for i, d in enumerate(iteration.delay.tolist()) if i not in self._gone)
        rate = self.prompt_tokens / (time.perf_counter() - self._started)
        speed = f", {rate:.0f} tok/s" if self.tokens else ""
        self._bar.set_postfix_str(
            f"loss {iteration.objective:.3f}, active {named}, late {late},"
            f" {tqdm.format_sizeof(self.calls)} calls{speed}",
            refresh=False,
        )
        self._bar.update(1)

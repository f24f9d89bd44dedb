"""The progress of a run, as the run itself shows it."""

from contextlib import AbstractContextManager, nullcontext
from typing import Self

import numpy as np

from asyndbt_mpi.config import Config
from asyndbt_mpi.log.text import printable
from asyndbt_mpi.protocol.final_tests import number_of_tests
from asyndbt_mpi.protocol.records import Event, EventKind, Iteration, Record
from asyndbt_mpi.view.bar import Bar, Pace, duration, fitted, share_done, waiting

MOST_NAMES = 8
"""With more workers than this, the active ones are counted instead of named."""


def loading(config: Config) -> AbstractContextManager[None]:
    """Show that the run's model is being loaded, if it has one."""
    llm = config.llm
    if llm.is_function:
        return nullcontext()
    verb = "loading" if llm.backend == "transformers" else "connecting to"
    return waiting(printable(f"{verb} {llm.model}"))


class Progress:
    """Shows iterations, objective, active workers, worst delay, calls, tokens/s and time left.

    Before the first iteration it shows how many workers are ready, and after the last one how many
    prompts were scored in the races and tests. ``done`` iterations, with ``calls`` calls, were made
    before this run was resumed.
    """

    def __init__(self, config: Config, workers: int, done: int = 0, calls: int = 0) -> None:
        self.workers = workers
        self.total = config.run.iterations
        self.tests = number_of_tests(config, workers)
        self.evaluates = bool(config.run.evaluate_every)
        self.loading = "loading the model: " if config.llm.backend == "transformers" else ""
        self.counts_tokens = not config.llm.is_function
        self.done = done
        self.ready = 0
        self.raced = self.tested = 0
        self.calls = calls
        self.prompt_tokens = 0
        self._gone: set[int] = set()
        self._newest: Iteration | None = None
        self._closing: Pace | None = None
        self._pace = Pace()
        self._bar = Bar(self._text)

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.__exit__(None, None, None)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self._bar.say(line)

    def idle(self) -> None:
        """Show how the time passes."""
        self._bar.tick()

    def update(self, record: Record) -> None:
        """Show what ``record`` says."""
        match record:
            case Event():
                self._count(record)
            case Iteration():
                self.done = record.number + 1
                self._newest = record
                self._pace.step(self.done)
        self._bar.tick()

    def _count(self, event: Event) -> None:
        self.calls += event.costs.calls
        self.prompt_tokens += event.costs.prompt_tokens
        match event.kind:
            case EventKind.LOST | EventKind.EXCLUDED:
                self._gone.add(event.worker - 1)
            case EventKind.HELLO:
                self._gone.discard(event.worker - 1)
                self.ready += 1
            case EventKind.CLOSING if self.evaluates:
                self._bar.keep()
                self._closing = Pace()
            case EventKind.RACE:
                self.raced += 1
            case EventKind.TEST:
                self.tested += 1

    def _text(self, width: int) -> str:
        if self._closing:
            tests = [share_done(self.tested, self.tests, "tests")] if self.tests else []
            raced = f"{self.raced} prompts raced"
            return fitted([*tests, raced, duration(self._closing.elapsed)], width)
        # In a resumed run only workers that were lost report that they are ready.
        if not self.done:
            ready = f"{self.loading}{self.ready}/{self.workers} workers ready"
            what = ready if self.ready < self.workers else "waiting for the first answers"
            return fitted([what, duration(self._pace.elapsed)], width)
        return fitted([
            share_done(self.done, self.total),
            self._pace.text(self.done, self.total),
            *self._of_newest(),
            f"{self.calls:,} calls",
            *self._speed(),
        ], width)  # fmt: skip

    def _of_newest(self) -> list[str]:
        """Of the newest iteration."""
        if self._newest is None:
            return []
        active, delay = self._newest.active, self._newest.delay.tolist()
        names = [str(index + 1) for index in np.flatnonzero(active)]
        named = " ".join(names) if self.workers <= MOST_NAMES else str(len(names))
        late = max((d for index, d in enumerate(delay) if index not in self._gone), default=0)
        return [f"loss {self._newest.objective:.3f}", f"active {named}", f"late {late}"]

    def _speed(self) -> list[str]:
        if not self.counts_tokens:
            return []
        return [f"{self.prompt_tokens / self._pace.elapsed:,.0f} tokens/s"]

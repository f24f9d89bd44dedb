"""Every way in which a run ends, with every feature in use: ended, resumed, compared.

    python -m tests.faults.matrix

prints the table of docs/faults.md.
"""

import itertools
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from asyndbt_mpi.commands.replay import replay
from asyndbt_mpi.jobs.codes import BAD_USAGE, DONE, FAILED, TOO_FEW_WORKERS
from asyndbt_mpi.jobs.resume import at_its_end
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.verify import verify
from asyndbt_mpi.protocol.records import EventKind
from tests.faults.cluster import Life, Mishap, Plan, start
from tests.faults.harness import check

ITERATIONS = 16
SETTINGS = (
    "run.evaluate_every=0",
    "prompt.fragment_length=3",
    "algorithm.active_workers=2",
    "algorithm.min_workers=2",
    "algorithm.max_delay=4",
    "algorithm.plane_period=100",
    "algorithm.tolerance=0",
)
PLANES = (
    "algorithm.plane_period=3",
    "algorithm.lower_steps=2",
    "algorithm.lower_gradient=black_box",
)
TESTED = ("run.evaluate_every=3",)
COSTS = tuple(
    f"{group}/{name}"
    for group in ("report", "lower", "evaluation", "event")
    for name in ("llm_calls", "prompt_tokens", "completion_tokens")
)
"""What a cache has known of an answer that was asked for again."""
NO_FEATURE = Plan()


@dataclass(frozen=True)
class Feature:
    """What is in use: ``settings`` of a ``source``, and what happens anyway."""

    settings: tuple[str, ...] = ()
    plan: Plan = NO_FEATURE
    source: str = "synthetic"
    leave_out: tuple[str, ...] = ()

    @property
    def lies(self) -> bool:
        """A worker reports what its answers do not give, which it does no more once resumed."""
        return bool(self.plan.liar)


EXCLUSION = Plan(mishaps=(Mishap(17, "exclude", 4),))
LOSS = Plan(mishaps=(Mishap(13, "lose", 3), Mishap(28, "return", 3)))

FEATURES = {
    "none": Feature(),
    "planes, all": Feature(PLANES),
    "planes, quorum": Feature((*PLANES, "algorithm.lower_participation=quorum")),
    "evaluation": Feature(TESTED),
    "budget": Feature((*TESTED, "budget.calls=1000000", "budget.seconds=100000")),
    "early stopping": Feature((*TESTED, "run.early_stopping_patience=1000")),
    "cache": Feature(
        (*PLANES, "estimator.samples=2", "estimator.batch=2", "task.test=0", "llm.device=cpu"),
        source="reviews",
        leave_out=COSTS,
    ),
    "exclusion": Feature((*PLANES, *TESTED), EXCLUSION),
    "loss, return": Feature((*PLANES, *TESTED), LOSS),
    "iterates = 4": Feature((*PLANES, "log.iterates=4"), leave_out=("iteration/z", "iteration/gradient", "report/p", "report/q")),
    "p off the simplex": Feature((*PLANES, *TESTED), Plan(liar=2)),
    "phi off the simplex": Feature((*PLANES, *TESTED), Plan(liar=2, lies="phi")),
    "q off the simplex": Feature(TESTED, Plan(liar=2, lies="q")),
}  # fmt: skip


class Cell:
    """A run with a ``feature`` in ``folder``, beside the same one that is never disturbed."""

    def __init__(
        self, feature: Feature, folder: Path, undisturbed: Path, verifies: bool = True
    ) -> None:
        self.feature = feature
        self.verifies = verifies
        self.path = folder / "run.h5"
        self.undisturbed = undisturbed

    def start(self, *settings: str, **plan: object) -> Life:
        """A life of the run; see `Plan`."""
        return live(self.feature, self.path, *settings, **plan)

    def resume(self, *settings: str, **plan: object) -> Life:
        """One in which everybody is honest."""
        return self.start(*settings, liar=0, **plan)

    # ------------------------------------------------------------ what is checked

    def ended(self, life: Life, code: int, status: str, at_end: bool = False) -> None:
        """The life ended as is said, and the log says so, too."""
        check(life.code == code, f"exit code {life.code}, {code} is due: {life.said}")
        with Log(self.path) as log:
            check(log.status == status, f"status {log.status}, {status} is due")
            check(at_its_end(log, life.job.config) == at_end, "what `asyndbt status` says")

    def same(self, life: Life) -> str:
        """It has finished, and is bit by bit the run that was never ended."""
        whole = self.whole(life)
        if self.feature.lies:
            return whole
        compare(self.path, self.undisturbed, self.feature.leave_out)
        return "same"

    def whole(self, life: Life) -> str:
        """It has finished, with all iterations and every invariant."""
        self.ended(life, DONE, "finished", at_end=True)
        with Log(self.path) as log:
            check(log.committed == ITERATIONS, f"{log.committed} iterations")
        if self.verifies:
            violations = verify(self.path).violations
            check(not violations, f"verify: {violations[:2]}")
        return "whole"

    def untouched(self, life: Life, before: dict[str, bytes]) -> None:
        """It was not resumed, and nothing was written."""
        check(self.files() == before, "the log was changed")
        check(life.said, "not a word of why")

    def files(self) -> dict[str, bytes]:
        """All files of the log."""
        return {each.name: each.read_bytes() for each in self.path.parent.glob("run.h5*")
                if each.is_file()}  # fmt: skip


def live(feature: Feature, path: Path, *settings: str, **plan: object) -> Life:
    """A life of the run at ``path``."""
    every = (*SETTINGS, *feature.settings, f"run.iterations={ITERATIONS}", *settings)
    return start(path, replace(feature.plan, **plan), every, feature.source)


def compare(one: Path, other: Path, leave_out: tuple[str, ...]) -> None:
    """All that two logs hold, but that one was resumed."""
    with Log(one) as a, Log(other) as b:
        counts = [log["event/kind"] != EventKind.RESUMED for log in (a, b)]
        for group, columns in a.groups.items():
            for path in (column.path for column in columns if column.path not in leave_out):
                rows = [log[path] for log in (a, b)]
                if group == "event":
                    rows = [each[kept] for each, kept in zip(rows, counts, strict=True)]
                same = len(rows[0]) == len(rows[1]) and np.array_equal(
                    *rows, equal_nan=rows[0].dtype.kind == "f"
                )
                check(same, f"{path} differs")


# ---------------------------------------------------------------- the ways to end

MOMENTS = (3, 11, 15, 19, 27, 31)
"""Events after which a run is ended; 12 to 30 are amid estimates of phi, losses and exclusions."""


def more_iterations(cell: Cell) -> str:
    """It finishes, and is to make more iterations."""
    cell.ended(cell.start("run.iterations=7"), DONE, "finished", at_end=True)
    return cell.same(cell.resume())


def finished(cell: Cell) -> str:
    """It finishes, and nothing is left to do."""
    cell.ended(cell.start(), DONE, "finished", at_end=True)
    before = cell.files()
    again = cell.resume()
    cell.ended(again, DONE, "finished", at_end=True)
    cell.untouched(again, before)
    return "over"


def budget_of_calls(cell: Cell) -> str:
    """It ends by its budget of calls, is resumed with the same, and then with a larger one."""
    with Log(cell.undisturbed) as log:
        calls = int(log["event/llm_calls"].sum())
    limit = f"budget.calls={int(0.8 * calls)}"
    cell.ended(cell.start(limit), DONE, "finished", at_end=True)
    with Log(cell.path) as log:
        check(0 < log.committed < ITERATIONS, f"{log.committed} iterations")
    before = cell.files()
    cell.untouched(cell.resume(limit), before)
    return cell.same(
        cell.resume(*(("budget.calls=1000000",) if cell.feature.settings else ("budget.calls=0",)))
    )


def budget_of_seconds(cell: Cell) -> str:
    """As by that of calls, amid whatever goes on."""
    cell.ended(cell.start("budget.seconds=27"), DONE, "finished", at_end=True)
    before = cell.files()
    cell.untouched(cell.resume("budget.seconds=27"), before)
    return cell.same(cell.resume("budget.seconds=0"))


def early_stopping(cell: Cell) -> str:
    """It has stopped early: more iterations do not help."""
    stopping = (
        "run.evaluate_every=1",
        "run.early_stopping_patience=1",
        "steps.p=1e-9",
        "steps.q=1e-9",
    )
    longer = f"run.iterations={4 * ITERATIONS}"
    cell.ended(cell.start(*stopping, longer), DONE, "finished", at_end=True)
    with Log(cell.path) as log:
        check(log.committed < 4 * ITERATIONS, "it did not stop")
    before = cell.files()
    again = cell.resume(*stopping, f"run.iterations={8 * ITERATIONS}")
    cell.ended(again, DONE, "finished", at_end=True)
    cell.untouched(again, before)
    return "over"


def signalled(cell: Cell, moment: int) -> str:
    """SIGTERM: an orderly end, as interrupted."""
    life = cell.start(term=moment)
    life.code = DONE
    cell.ended(life, DONE, "interrupted")
    return cell.same(cell.resume())


def killed(cell: Cell, moment: int) -> str:
    """kill -9, some events after the last batch was written."""
    cell.ended(cell.start(kill=moment, unwritten=moment % 3), FAILED, "running")
    return cell.same(cell.resume())


def killed_in_its_tests(cell: Cell) -> str:
    """kill -9 once the iterations are over."""
    with Log(cell.undisturbed) as log:
        last = len(log["event/kind"])
    cell.ended(cell.start(kill=last - 3), FAILED, "running")
    return cell.same(cell.resume())


def resumed_twice(cell: Cell) -> str:
    """Killed, resumed and signalled, resumed and killed, resumed."""
    cell.start(kill=16)
    cell.resume(term=24)
    cell.resume(kill=30, unwritten=2)
    became = cell.same(cell.resume())
    if became == "same" and cell.feature.source == "synthetic":  # else it asks the real model
        difference = replay(cell.path).difference
        check(difference is None, f"replay: {difference}")
    return became


def too_few_lost(cell: Cell) -> str:
    """Fewer than algorithm.min_workers are left; when resumed, all are there again."""
    lost = tuple(Mishap(20 + worker, "lose", worker) for worker in (1, 2, 3, 4))
    cell.ended(
        cell.start(mishaps=(*cell.feature.plan.mishaps, *lost)), TOO_FEW_WORKERS, "interrupted"
    )
    return cell.whole(cell.resume())


def too_few_stay_away(cell: Cell) -> str:
    """As before, but they do not come back: it ends in run.worker_timeout."""
    lost = tuple(Mishap(20 + worker, "lose", worker) for worker in (1, 2, 3, 4))
    cell.start(mishaps=(*cell.feature.plan.mishaps, *lost))
    cell.ended(cell.resume(absent=(1, 2, 3, 4)), TOO_FEW_WORKERS, "interrupted")
    return cell.whole(cell.resume())


def too_few_excluded(cell: Cell) -> str:
    """Who was excluded stays so: no resumed run can go on."""
    out = tuple(Mishap(24 - worker, "exclude", worker) for worker in (3, 2, 1))
    cell.ended(
        cell.start(mishaps=(*cell.feature.plan.mishaps, *out)), TOO_FEW_WORKERS, "interrupted"
    )
    before = cell.files()
    again = cell.resume()
    cell.ended(again, TOO_FEW_WORKERS, "interrupted")
    cell.untouched(again, before)
    return "code 3"


def refused(cell: Cell) -> str:
    """A worker does not want the run as it is; later it does."""
    life = cell.start(refuses=2)
    cell.ended(life, BAD_USAGE, "interrupted")
    return cell.same(cell.resume())


ENDS: dict[str, list[Callable[[Cell], str]]] = {
    "finished": [finished],
    "finished, then more iterations": [more_iterations],
    "budget.calls reached": [budget_of_calls],
    "budget.seconds reached": [budget_of_seconds],
    "stopped early": [early_stopping],
    "SIGTERM at 6 events": [lambda cell, at=at: signalled(cell, at) for at in MOMENTS],
    "SIGKILL at 6 events": [lambda cell, at=at: killed(cell, at) for at in MOMENTS],
    "SIGKILL in the tests": [killed_in_its_tests],
    "killed, signalled, killed": [resumed_twice],
    "too few left, all come back": [too_few_lost],
    "too few left, nobody comes back": [too_few_stay_away],
    "too few left by exclusion": [too_few_excluded],
    "refused by a worker": [refused],
}  # fmt: skip


class Matrix:
    """The cells, in ``folder``; undisturbed runs are made once.

    ``briefly`` tries one of the moments at which a run can be ended, another one in each column,
    and verifies the logs that are not compared bit by bit alone.
    """

    def __init__(self, folder: Path, briefly: bool = False) -> None:
        self.folder = folder
        self.briefly = briefly
        self._numbers = itertools.count()

    def undisturbed(self, name: str) -> Path:
        """The run with the feature, never ended."""
        path = self.folder / f"undisturbed-{list(FEATURES).index(name)}.h5"
        if not path.exists():
            check(live(FEATURES[name], path).code == DONE, "the undisturbed run")
        return path

    def cell(self, end: str, name: str) -> str:
        """What became of the run.

        Raises
        ------
        NotSurvived
            It is not what has to become of it.
        """
        became = set()
        attempts = ENDS[end]
        if self.briefly:
            attempts = [attempts[list(FEATURES).index(name) % len(attempts)]]
        for attempt in attempts:
            folder = self.folder / str(next(self._numbers))
            folder.mkdir()
            cell = Cell(FEATURES[name], folder, self.undisturbed(name), not self.briefly)
            became.add(attempt(cell))
        return " / ".join(sorted(became))


def main() -> None:
    """Print the table."""
    started = time.monotonic()
    print(f"| how it ends | {' | '.join(FEATURES)} |")
    print("| --- |" + " --- |" * len(FEATURES))
    with tempfile.TemporaryDirectory(prefix="asyndbt-") as folder:
        matrix = Matrix(Path(folder))
        for end in ENDS:
            row = [matrix.cell(end, name) for name in FEATURES]
            print(f"| {end} | {' | '.join(row)} |", flush=True)
    runs = len(FEATURES) * sum(len(each) for each in ENDS.values())
    print(f"\n{runs} runs in {time.monotonic() - started:.0f} seconds", file=sys.stderr)


if __name__ == "__main__":
    main()

"""The faults: each a function that raises `NotSurvived` where the run did not get over it."""

import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from asyndbt_mpi.llm.openai import ROUNDS, TRIAL
from asyndbt_mpi.log.errors import LogError
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.verify import verify
from tests.faults.harness import NotSurvived, Run, check, finish
from tests.helpers import ROOT

SILENCE = "6.0"
"""Seconds; workers have to be able to start in them."""

CONCURRENCY = 2
"""Requests of a worker at one time."""

NO_DELAY = {"delay.model": "none", "delay.mean": "0"}

EARLY = 15
"""Iterations after which a run is hurt."""


@dataclass(frozen=True)
class Outcome:
    """How often a fault was tried, and what it cost."""

    tried: int = 1
    lost: int = 0
    repeated: int = 0


def of(run: Run, tried: int = 1) -> Outcome:
    """The outcome of a run that was hurt ``tried`` times."""
    return Outcome(tried, run.lost, run.repeated)


# ---------------------------------------------------------------- workers that die


def kill_a_worker(
    folder: Path, number: signal.Signals = signal.SIGKILL, workers: tuple[int, ...] = (1, 2, 3)
) -> Outcome:
    """Each worker in turn dies; under ULFM the rest go on to the end, exit code 0."""
    for worker in workers:
        run = Run(folder)
        run.start(ulfm=True)
        run.until_committed(EARLY)
        run.send(worker, number)
        check(run.end() == 0, f"worker {worker}: {run.said()}")
        check(run.happened("LOST", worker), "the log does not say it")
        run.account()
        run.whole()
        complete(run)
    return of(run, len(workers))


def complete(run: Run) -> None:
    """All iterations are there."""
    with Log(run.log) as log:
        due = log.config.run.iterations
        check(log.committed == due, f"{log.committed} iterations of {due}")


def segmentation_fault(folder: Path) -> Outcome:
    """As by a kill, for a bug in a library."""
    return kill_a_worker(folder, signal.SIGSEGV, workers=(2,))


def kill_all_but_one(folder: Path) -> Outcome:
    """S = 2 becomes 1."""
    run = Run(folder)
    run.start(ulfm=True)
    run.until_committed(EARLY)
    for worker in (1, 3):
        run.send(worker, signal.SIGKILL)
    check(run.end() == 0, run.said())
    run.account()
    run.whole()
    complete(run)
    return of(run, 2)


def kill_too_many(folder: Path) -> Outcome:
    """Fewer than algorithm.min_workers: exit code 3, what is there is saved and can go on."""
    run = Run(folder, settings={"algorithm.min_workers": "2"})
    run.start(ulfm=True)
    run.until_committed(EARLY)
    for worker in (1, 2):
        run.send(worker, signal.SIGKILL)
    code = run.end()
    check(code == 3, f"exit code {code}: {run.said()}")
    check("min_workers is 2" in run.said(), run.said())
    run.account()
    run.whole("interrupted")
    finish(run)
    complete(run)
    return of(run, 2)


def exception_in_a_worker(folder: Path) -> Outcome:
    """Without any help from MPI: the worker says so itself."""
    run = Run(folder, environment={"FAIL_AT": "20", "FAIL_RANK": "2"})
    run.start()
    check(run.end() == 0, run.said())
    check(run.happened("LOST", 2), "the log does not say it")
    run.account()
    run.whole()
    complete(run)
    return of(run)


def excluded_below_min_workers(folder: Path) -> Outcome:
    """A malformed message leaves too few: exit code 3, and so again for as often as it is tried."""
    misbehaves = {"MISBEHAVES": "short", "FAIL_RANK": "2"}
    run = Run(folder, settings={"algorithm.min_workers": "3"}, environment=misbehaves)
    for attempt in range(3):
        run.start()
        code = run.end()
        check(code == 3, f"exit code {code}: {run.said()}")
        check("min_workers is 3" in run.said(), run.said())
        check(not attempt or "excluded for good: 2" in run.said(), run.said())
        run.environment.pop("MISBEHAVES", None)
        run.account()
        run.whole("interrupted")
        with Log(run.log) as log:
            check(log.starts == 1, "it was resumed")
    return of(run, 3)


def off_the_simplex(folder: Path) -> Outcome:
    """A worker's p is its own choice: the run is resumed with what the server made of it."""
    misbehaves = {"MISBEHAVES": "p", "FAIL_RANK": "2"}
    run = Run(folder, settings={"run.iterations": "60"}, environment=misbehaves)
    run.start()
    check(run.end() == 0, run.said())
    run.account()
    del run.environment["MISBEHAVES"]
    for iterations in ("90", "120"):
        run.settings["run.iterations"] = iterations
        run.start()
        check(run.end() == 0, run.said())
        check("what worker 2 reported from iteration" in run.said(), run.said())
        run.account()
        check(not verify(run.log).violations, "verify")
        complete(run)
    # Reports that came after a run's end are asked for again where it is to go on.
    return Outcome(2, run.lost)


def without_ulfm(folder: Path) -> Outcome:
    """A plain mpiexec ends the job: nothing committed is lost, the message says how to go on."""
    run = Run(folder)
    run.start()
    run.until_committed(EARLY)
    run.send(2, signal.SIGKILL)
    check(run.end() != 0, "mpiexec says that all is well")
    check("--resume" in run.said(), f"no word of --resume: {run.said()}")
    run.account()
    finish(run)
    complete(run)
    return of(run)


# ---------------------------------------------------------------- workers that fall silent


def stopped_for_good(folder: Path) -> Outcome:
    """A process that hangs is lost after run.worker_timeout, and ended at the end."""
    outcomes = []
    for ulfm in (True, False):
        run = Run(folder, settings={"run.worker_timeout": SILENCE})
        run.start(ulfm=ulfm)
        run.until_committed(EARLY)
        run.send(3, signal.SIGSTOP)
        check(run.end() == 0, run.said())
        check(run.happened("LOST", 3), "the log does not say it")
        run.account()
        run.whole()
        complete(run)
        outcomes.append(run)
    return of(outcomes[-1], 2)


def stopped_and_back(folder: Path) -> Outcome:
    """It is let in again with fresh state, and reports again."""
    run = Run(folder, settings={"run.worker_timeout": SILENCE, "run.iterations": "400"})
    run.start()
    run.until_committed(EARLY)
    run.send(3, signal.SIGSTOP)
    run.until(lambda log: 5 in log["event/kind"])
    run.send(3, signal.SIGCONT)
    run.until(lambda log: 6 in log["event/kind"])
    check(run.end() == 0, run.said())
    run.account()
    run.whole()
    complete(run)
    with Log(run.log) as log:
        [back] = log["event/iteration"][log["event/kind"] == 6]
        later = log["report/iteration"][log["report/worker"] == 3]
        check((later > back).any(), "it never reported again")
    return of(run)


# ---------------------------------------------------------------- the server, the job


def kill_the_server(folder: Path) -> Outcome:
    """Rank 0 dies, under ULFM and without it, and the run is resumed."""
    run = Run(folder)
    for number, ulfm in enumerate((True, False), start=1):
        run.start(ulfm=ulfm)
        run.until_committed(number * EARLY)
        run.send(0, signal.SIGKILL)
        check(run.end() != 0, "mpiexec says that all is well")
        run.account()
    finish(run)
    complete(run)
    return of(run, 2)


def signalled(folder: Path) -> Outcome:
    """SIGTERM to the server, SIGUSR1 to all, amid a long batch: exit code 0 within 10 seconds."""
    run = Run(folder, settings={"delay.slow_workers": "1", "delay.slow_factor": "50000",
                                "algorithm.max_delay": "1000",
                                "algorithm.lower_gradient": "black_box",
                                "algorithm.lower_participation": "quorum"})  # fmt: skip
    for count, number in enumerate((signal.SIGTERM, signal.SIGUSR1), start=1):
        run.start()
        run.until_committed(count * EARLY)
        started = time.monotonic()
        if number is signal.SIGTERM:
            run.send(0, number)
        else:
            assert run.process is not None
            run.process.send_signal(number)
        code = run.end()
        check(code == 0, f"{number.name}: exit code {code}: {run.said()}")
        seconds = time.monotonic() - started
        check(seconds < 10, f"{number.name}: took {seconds:.0f} seconds")
        run.account()
        run.whole("interrupted")
    return of(run, 2)


def committed(run: Run) -> int:
    """Iterations in the log; 0 if there is none yet."""
    try:
        with Log(run.log) as log:
            return log.committed
    except LogError:
        return 0


def random_kills(folder: Path, kills: int = 50) -> Outcome:
    """Everything is killed at random moments, and resumed each time."""
    generator = random.Random(0)
    run = Run(folder, workers=2, settings={"run.iterations": "100000", "delay.mean": "0.02"})
    for kill in range(kills):
        before = committed(run)
        run.start()
        # While it starts, opens its log or goes through it again; but the first kills, of which a
        # short test has no more, find it at work, however slow the machine is.
        if kill >= 4 and generator.random() < 0.6:
            time.sleep(generator.uniform(0.2, 4.0))
        else:
            run.until_committed(before + generator.randint(3, 20))
        check(run.process is not None and run.process.poll() is None, run.said())
        run.kill()
        run.account()
        if committed(run) and kill % 5 == 0:  # it takes as long as a start; all at the end
            violations = verify(run.log).violations
            check(not violations, f"verify: {violations[:3]}")
    with Log(run.log) as log:
        run.settings["run.iterations"] = str(log.committed + 20)
        check(log.committed > 2 * kills, f"only {log.committed} iterations: nothing was tested")
    finish(run)
    complete(run)
    return of(run, kills)


# ---------------------------------------------------------------- the disk


@contextlib.contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    """A file system of so many megabytes; only root can make one."""
    place = Path(f"/tmp/asyndbt-faults-{os.getpid()}")
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False, capture_output=True)
        place.rmdir()


def disk_full(folder: Path) -> Outcome:
    """The log ends whole with a clear line, and goes on when there is room again."""
    del folder
    with small_disk(16) as disk:
        run = Run(disk / "run", settings={"run.iterations": "100000", **NO_DELAY})
        run.start()
        code = run.end()
        check(code == 1, f"exit code {code}: {run.said()}")
        check("No space left on device" in run.said(), run.said())
        run.account()
        with Log(run.log) as log:
            check(log.committed > EARLY, f"{log.committed} iterations")
            run.settings["run.iterations"] = str(log.committed + 20)
        check(not verify(run.log).violations, "verify")
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        finish(run)
        complete(run)
        return of(run)


# ---------------------------------------------------------------- the API


def rude_api(folder: Path) -> Outcome:
    """429, 500, slow, truncated, malformed, refused answers; and a kill amid them."""
    folder.mkdir(parents=True, exist_ok=True)
    ledger = folder.parent / "api-ledger"
    ledger.unlink(missing_ok=True)
    with subprocess.Popen(
        [sys.executable, "tests/llm/api_server.py", "--port", "0", "--rude", "1",
         "--ledger", str(ledger)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as server:  # fmt: skip
        try:
            assert server.stdout is not None
            url = server.stdout.readline().split()[-1]
            settings = {
                "run.iterations": "12", "run.evaluate_every": "0", "algorithm.plane_period": "5",
                "llm.backend": "openai", "llm.model": "toy", "llm.base_url": url,
                "llm.api": "completion", "llm.timeout": "2.0", "llm.attempts": "12",
                "llm.concurrency": str(CONCURRENCY),
                **NO_DELAY,
                "task.train_per_class": "3", "estimator.samples": "2", "estimator.batch": "4",
            }  # fmt: skip
            run = Run(folder, source="reviews", settings=settings)
            run.start()
            run.until_committed(4)
            run.kill()
            run.account()
            asked = len(ledger.read_text().splitlines())
            finish(run)
            complete(run)
            lines = [line.split("\t") for line in ledger.read_text().splitlines()]
            check(len(lines) > asked, "nothing was asked after the restart")
            rude = sum(done not in ("answer", "refusal") for _, done in lines)
            check(rude > 10, f"only {rude} rude answers: nothing was tested")
            trial = hashlib.sha256(TRIAL.encode()).hexdigest()
            paid = Counter(prompt for prompt, done in lines if done == "answer" and prompt != trial)
            twice = sum(count - 1 for count in paid.values())
            under_way = run.workers * ROUNDS * CONCURRENCY
            check(twice <= under_way, f"{twice} prompts paid twice, {under_way} were under way")
            return of(run)
        finally:
            server.kill()


FAULTS: dict[str, Callable[[Path], Outcome]] = {
    "SIGKILL of each worker in turn": kill_a_worker,
    "SIGSEGV of a worker": segmentation_fault,
    "SIGKILL of all workers but one": kill_all_but_one,
    "SIGKILL below min_workers": kill_too_many,
    "exception in a worker, no ULFM": exception_in_a_worker,
    "malformed message, below min_workers": excluded_below_min_workers,
    "p off the simplex, resumed twice": off_the_simplex,
    "SIGKILL of a worker, no ULFM": without_ulfm,
    "SIGSTOP for good, with and without ULFM": stopped_for_good,
    "SIGSTOP and back": stopped_and_back,
    "SIGKILL of rank 0, with and without ULFM": kill_the_server,
    "SIGTERM, SIGUSR1 amid a long batch": signalled,
    "random SIGKILL of everything": random_kills,
    "disk full (tmpfs)": disk_full,
    "rude API, and a kill": rude_api,
}

__all__ = ["FAULTS", "NotSurvived", "Outcome", "random_kills"]

"""Whose prompt a run recommends."""

from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.log.reader import Log


def recommended(log: Log, worker: int | None = None) -> tuple[int, str]:
    """Whose prompt, and why; that of ``worker``, if it is given.

    Never chosen by the test rows, which are to say how good it is. A worker's loss is its own word:
    nobody else has its rows and demonstrations.

    Raises
    ------
    ConfigurationError
        No prompt was scored, or none of that worker.
    """
    raced, validated = log.winners, log.best
    if worker is not None:
        if not 1 <= worker <= log.workers:
            raise ConfigurationError(f"--worker {worker}: the run has workers 1 to {log.workers}")
        if worker not in raced | validated:
            raise ConfigurationError(f"--worker {worker}: the run has scored no prompt of it")
        return worker, f"asked for as that of worker {worker}"
    if not raced | validated:
        raise ConfigurationError(
            f"{log.path}: has no scored prompt; run with run.evaluate_every greater than 0"
        )
    found, where = (raced, "its race") if raced else (validated, "its validation rows")
    best = min(found, key=lambda each: found[each].loss)
    why = f"the least loss of all workers in {where} (its own rows): {found[best].loss:.3f}"
    if log.config.defence.tolerated(log.workers):
        why += ", by its own word; --worker chooses one that is trusted"
    return best, why

"""The package from Python: the functions behind ``import asyndbt_mpi as adbt``.

They run AsynDBT, Algorithm 1 of Ma et al., Scientific Reports (2026). A run is described by a
`Config`, and by what only Python can provide: your own black box (`LossFunction`) and estimator of
its gradients (`Estimator`).

Sizes: R workers; M positions of the prompt's fragment, N words; U classes, V demonstrations of
each; I prompts per assignment; T iterations.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asyndbt_mpi.algorithm.types import BoolArray, FloatArray, IntArray
from asyndbt_mpi.assemble import Place, check_server, delays_of_workers, prepare
from asyndbt_mpi.commands import predict as of_predict
from asyndbt_mpi.commands import prompt as of_prompt
from asyndbt_mpi.commands.replay import Comparison
from asyndbt_mpi.commands.replay import replay as replay_log
from asyndbt_mpi.commands.simulate import simulate_silently, virtual_cluster
from asyndbt_mpi.commands.start import start
from asyndbt_mpi.config import Config, ConfigurationError
from asyndbt_mpi.jobs.codes import BAD_USAGE, DONE
from asyndbt_mpi.jobs.job import Job, Request
from asyndbt_mpi.jobs.own import Own
from asyndbt_mpi.jobs.precision import settled
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.text import printable
from asyndbt_mpi.log.verify import Verification
from asyndbt_mpi.log.verify import verify as verify_log
from asyndbt_mpi.protocol.records import Iteration
from asyndbt_mpi.task.dataset import Row, text_of
from asyndbt_mpi.task.function import LossFunction
from asyndbt_mpi.task.tuned import TunedPrompt
from asyndbt_mpi.transport.launcher import Misfit
from asyndbt_mpi.transport.virtual import VirtualCluster
from asyndbt_mpi.view.summary import learnt_prompts

NONE = -1
"""In place of a demonstration: the worker's is unknown."""


class RunError(RuntimeError):
    """A run could not continue: too few workers were left, it diverged, or it was interrupted."""


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a run, read from its log.

    Attributes
    ----------
    path : path of the log; ``Log(result.path)`` has every iterate
    status : "finished" or "interrupted"
    iterations : T, the number of committed iterations
    words : the M words of the consensus; [] if ``log.iterates`` left out the last z
    demonstrations : int array (R, U): the number of the demonstration for each worker and class;
        -1 for a worker none of whose reports was used, or whose best prompt shows none, and of all
        with ``log.private``
    calls : calls of the black box by all workers, tests included
    """

    path: Path
    status: str
    iterations: int
    words: list[str]
    demonstrations: IntArray
    calls: int

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> "Result":
        """Read the result from the log at ``path``.

        Raises
        ------
        LogError
            It is not a log, or damaged.
        """
        with Log(path) as log:
            z = log.rows("iteration/z", log.committed)[0]
            known = not np.isnan(z).any()
            words = [log.vocabulary[word] for word in z.argmax(axis=1)] if known else []
            demonstrations = np.full((log.workers, log.shapes.classes), NONE)
            for worker, (_, shown) in learnt_prompts(log).items():
                demonstrations[worker - 1] = NONE if log.config.log.private else shown
            calls = int(log["event/llm_calls"].sum())
            return cls(Path(path), log.status, log.committed, words, demonstrations, calls)


@dataclass(frozen=True, slots=True)
class State:
    """The iterates after one iteration; the arrays are the caller's own.

    Attributes
    ----------
    iteration : from 1
    time : seconds of the virtual clock
    objective : mean of the newest losses of the workers that have reported, in the losses' unit; by
        the rule of [defence], if it tolerates liars
    z : array (M, N), the consensus; each row is a distribution over the words
    p : array (R, M, N), each worker's words, as in its newest report that was used
    q : array (R, U, V), each worker's demonstrations, likewise; NaN with ``log.private``
    active : bool array (R,), the workers whose reports this iteration used
    delay : int array (R,), iterations since each worker's last report was used
    """

    iteration: int
    time: float
    objective: float
    z: FloatArray
    p: FloatArray
    q: FloatArray
    active: BoolArray
    delay: IntArray


def simulate(
    config: Config,
    workers: int = 3,
    output: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    black_box: LossFunction | None = None,
    estimator: Callable[..., Any] | None = None,
) -> Result:
    """Run in this process, under a virtual clock in which only the delays of [delay] take time.

    Exceptions in the black box propagate; everything committed before is in the log.

    Parameters
    ----------
    workers : R
    output : the log, instead of ``run.output``
    overwrite : replace the log if there is one
    resume : continue the log if there is one; needs the same black box and estimator
    black_box : takes the place of a language model and data; its sizes replace those of [prompt]
    estimator : class or function that makes an `Estimator` from the shapes (R, M, N) of p and
        (R, U, V) of q

    Raises
    ------
    ConfigurationError
        Settings or arguments are wrong, or the function returned something other than losses; one
        line says what.
    Diverged
        A step led to numbers that are not finite.
    ModelError
        The language model cannot be loaded or reached.

    Examples
    --------
    >>> import asyndbt_mpi as adbt
    >>> config = adbt.load("synthetic", ["run.iterations=40"])
    >>> def loss(worker, words, demonstrations):  # the second word, everywhere
    ...     return (words != 1).mean(axis=1)
    >>> box = adbt.LossFunction(loss, adbt.Shapes(2, 3, 1, 2), ["red", "green", "blue"])
    >>> result = adbt.simulate(config, workers=3, output="runs/colours.h5", black_box=box)
    >>> result.words
    ['green', 'green']
    >>> result.demonstrations.shape, result.iterations, result.status
    ((3, 1), 40, 'finished')
    """
    request = _request(config, output, overwrite, resume, black_box, estimator)
    job = Job.of(request, _checked(workers))
    simulate_silently(job, _cores(), resume)
    return Result.of(job.path)


def run(
    config: Config,
    output: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    black_box: LossFunction | None = None,
    estimator: Callable[..., Any] | None = None,
) -> Result | None:
    """Run under mpiexec: every rank calls this; rank 0 is the server, every other a worker.

    ``mpiexec -n 4 python my_run.py`` starts it. The black box is called on the workers only, by
    each for itself. Parameters are those of `simulate`, the same on all ranks.

    Returns
    -------
    Result | None
        The result at rank 0, None at the others. (Under ``mpiexec --with-ft ulfm`` the workers'
        processes end with the run.)

    Raises
    ------
    ConfigurationError
        The run is refused; on all ranks, with the same line.
    RunError
        The run could not continue; likewise.
    """
    request = _request(config, output, overwrite, resume, black_box, estimator)
    try:
        mpi = start(config.run.worker_timeout)
    except Misfit as error:
        raise ConfigurationError(str(error)) from error
    try:
        outcome = mpi.launch_from_python(request)
    except mpi.Refused as error:
        outcome = mpi.Outcome(error.code, error.why)
    if outcome.code != DONE:
        kind = ConfigurationError if outcome.code == BAD_USAGE else RunError
        raise kind(printable(outcome.problem)) from None
    return None if outcome.path is None else Result.of(outcome.path)


def iterate(
    config: Config,
    workers: int = 3,
    *,
    black_box: LossFunction | None = None,
    estimator: Callable[..., Any] | None = None,
) -> Iterator[State]:
    """Like `simulate`, but one iteration at a time; writes nothing. Stop when you like.

    Parameters and errors are those of `simulate`; faulty parameters raise at once.

    Examples
    --------
    >>> import asyndbt_mpi as adbt
    >>> for state in adbt.iterate(adbt.load("synthetic"), workers=2):
    ...     if state.z.max(axis=1).min() > 0.9:  # every word is nearly certain
    ...         break
    >>> state.z.shape, state.p.shape
    ((8, 16), (2, 8, 16))
    """
    own = Own.of(black_box, estimator)
    configured = own.configured(config)
    check_server(configured)
    materials = prepare(configured, _checked(workers), own)
    configured = materials.configured(configured)
    configured, _ = settled(configured, materials, Place(0, _cores()))
    delays = delays_of_workers(configured, workers)
    return _states(virtual_cluster(configured, materials, delays, _cores()))


def _states(cluster: VirtualCluster) -> Iterator[State]:
    p, q = cluster.workers.p.copy(), cluster.workers.q.copy()
    for records in cluster.steps():
        for record in records:
            if isinstance(record, Iteration):
                for used in record.reports:
                    p[used.worker - 1], q[used.worker - 1] = used.report.p, used.report.q
                yield State(
                    record.number + 1, record.time, record.objective, record.z.copy(), p.copy(),
                    q.copy(), record.active.copy(), record.delay.copy(),
                )  # fmt: skip
    if cluster.server.limit and not cluster.server.iteration:
        raise ConfigurationError(f"{cluster.server.limit}: too small for one iteration")


def replay(
    path: str | os.PathLike[str],
    *,
    config: Config | None = None,
    black_box: LossFunction | None = None,
    estimator: Callable[..., Any] | None = None,
) -> Comparison:
    """Replay a run in the logged order of arrivals, and compare every iterate, bit by bit.

    The black box is asked again, so a change in its answers is found.

    Parameters
    ----------
    config : the run's own; needed if the run read files or asked a server, because paths and
        addresses are never taken from a log
    black_box, estimator : those of the run

    Returns
    -------
    Comparison
        How many ``iterations`` are identical, and the first ``difference``, None if there is none.

    Raises
    ------
    LogError
        The file is not a log.
    ConfigurationError
        The run had a different black box or estimator, or its data or model are not here.

    Examples
    --------
    >>> import asyndbt_mpi as adbt
    >>> config = adbt.load("synthetic", ["run.iterations=5"])
    >>> result = adbt.simulate(config, output="runs/replayed.h5")
    >>> adbt.replay(result.path).difference is None
    True
    """
    return replay_log(path, config, Own.of(black_box, estimator))


def verify(path: str | os.PathLike[str]) -> Verification:
    """Check that a log is intact and satisfies every invariant of the algorithm.

    Returns
    -------
    Verification
        ``violations``, and ``notes`` on what could not be checked, one line each. A log without
        violations is sound.

    Raises
    ------
    LogError
        The file is not a log.

    Examples
    --------
    >>> import asyndbt_mpi as adbt
    >>> config = adbt.load("synthetic", ["run.iterations=5"])
    >>> adbt.verify(adbt.simulate(config, output="runs/verified.h5").path).violations
    []
    """
    return verify_log(path)


def tuned_prompt(
    path: str | os.PathLike[str],
    *,
    config: Config | None = None,
    data: str | os.PathLike[str] | None = None,
    worker: int | None = None,
) -> TunedPrompt:
    """The prompt that the run with the log at ``path`` recommends, as `asyndbt prompt` writes it.

    Parameters
    ----------
    config : the run's own; needed if it used files, because no path is taken from a log
    data : in the place of its ``task.path``
    worker : whose prompt, 1 to R, instead of the recommended one

    Raises
    ------
    LogError
        The log cannot be read, or was made with other data.
    ConfigurationError
        The run has no prompt in words, or its data are not there.
    """
    return of_prompt.tuned_prompt(
        Path(path), config, None if data is None else os.fspath(data), worker
    )


def predict(
    prompt: TunedPrompt, rows: Sequence[Mapping[str, str]], config: Config | None = None
) -> FloatArray:
    """Probabilities (B, U) of the labels for ``rows``, which map each column to its text.

    Without ``config`` the model is the one that the prompt was tuned for.

    Raises
    ------
    ConfigurationError
        A row lacks a column, or the configuration has no language model.
    ModelError
        It cannot be loaded or reached.

    Examples
    --------
    >>> prompt = adbt.read_prompt("prompt.json")  # doctest: +SKIP
    >>> adbt.predict(prompt, [{"sentence1": "Remind me at six"}]).argmax(axis=1)  # doctest: +SKIP
    array([0])
    """
    for number, row in enumerate(rows):
        try:
            for column in prompt.columns:
                text_of(row, column)
        except ValueError as error:
            raise ConfigurationError(f"rows[{number}]: {error}") from error
    config = config or of_predict.model_settings(prompt, ())
    of_predict.check_model(prompt, config)
    model = of_predict.model_of(config)
    probabilities: FloatArray = np.exp(
        prompt.log_probabilities(model, [Row(row, 0) for row in rows])
    )
    return probabilities


def _request(
    config: Config,
    output: str | os.PathLike[str] | None,
    overwrite: bool,
    resume: bool,
    black_box: LossFunction | None,
    estimator: Callable[..., Any] | None,
) -> Request:
    name = None if output is None else os.fspath(output)
    own = Own.of(black_box, estimator)
    return Request("", (), name, overwrite, False, resume, config, own)


def _checked(workers: int) -> int:
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ConfigurationError(f"workers = {workers!r}: must be a whole number of at least 1")
    return workers


def _cores() -> int:
    return len(os.sched_getaffinity(0))

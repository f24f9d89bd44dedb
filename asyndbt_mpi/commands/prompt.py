"""`asyndbt prompt`: the prompt that a run recommends, as a file to use elsewhere."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from asyndbt_mpi.assemble import Materials, check_materials, prepare
from asyndbt_mpi.config import Config, ConfigurationError
from asyndbt_mpi.jobs.given import configuration
from asyndbt_mpi.log.reader import Best, Log
from asyndbt_mpi.protocol.messages import Candidate, Split
from asyndbt_mpi.protocol.race import is_same
from asyndbt_mpi.task.prompts import in_texts, log_priors
from asyndbt_mpi.task.tuned import (
    Demonstration,
    Model,
    Origin,
    Tested,
    TunedPrompt,
    as_jinja,
    as_request,
    as_text,
)
from asyndbt_mpi.view import intervals
from asyndbt_mpi.view.accuracy import setback
from asyndbt_mpi.view.outcomes import newest_tests, outcomes
from asyndbt_mpi.view.recommended import recommended

FORMATS: dict[str, Callable[[TunedPrompt], str]] = {
    "json": TunedPrompt.to_json,
    "text": as_text,
    "openai": as_request,
    "jinja": as_jinja,
}


def tuned_prompt(
    path: Path, given: Config | None, data: str | None = None, worker: int | None = None
) -> TunedPrompt:
    """The prompt of ``worker`` in the log at ``path``, or else the recommended one.

    ``given`` is the run's own configuration, needed if it used files; ``data`` is in the place of
    its task.path.

    Raises
    ------
    LogError
        The log cannot be read, or its run was made with other data than are there now.
    ConfigurationError
        The run has no prompt in words, or its data are not available.
    """
    with Log(path) as log:
        if log.config.llm.is_function:
            raise ConfigurationError(f"{path}: is of a function, which has no prompt in words")
        log.check_public("a prompt has demonstrations")
        config = configuration(log, given, asks_model=False, data=data)
        materials = prepare(config, log.workers)
        check_materials(log, materials)
        chosen, why = recommended(log, worker)
        return _exported(log, materials, chosen, why)


def setback_of(path: Path) -> str:
    """What to warn of whoever uses a prompt of the log at ``path``; "" if there is nothing."""
    with Log(path) as log:
        return setback(outcomes(log))


def check_output(path: str, *inputs: Path) -> None:
    """Refuse to write over what is read, over any log, or into a folder that there is not.

    Raises
    ------
    ConfigurationError
    """
    output = Path(path)
    try:
        is_read = any(output.samefile(each) for each in inputs if each.exists() and output.exists())
    except (OSError, ValueError):
        return  # reading or writing says what is wrong
    if is_read or h5py.is_hdf5(path):
        what = "is what is read" if is_read else "is an HDF5 file"
        raise ConfigurationError(f"--output {path}: {what}; give another name")
    if not output.parent.is_dir():
        # Before a model is loaded.
        raise unwritable(path, FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))


def write(path: str, text: str) -> None:
    """Write a file.

    Raises
    ------
    ConfigurationError
        That is not possible.
    """
    try:
        Path(path).write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:
        raise unwritable(path, error) from error


def unwritable(path: str, error: OSError | ValueError) -> ConfigurationError:
    """What to say of a file that cannot be written."""
    reason = error.strerror if isinstance(error, OSError) else error
    return ConfigurationError(f"--output {path}: cannot be written: {reason}")


def _exported(log: Log, materials: Materials, worker: int, why: str) -> TunedPrompt:
    assert materials.data is not None
    held, task = materials.data[worker], log.config.task
    best = log.winners.get(worker) or log.best[worker]
    words, shown = in_texts(best.words, best.demonstrations, log.vocabulary, held.pool)
    split, bias = _bias(log, worker, best)
    prior = [] if bias is None else log_priors(held)[split].tolist()
    llm = log.config.llm
    names = ("backend", "model", "precision", "api", "scores")
    return TunedPrompt(
        template=task.template,
        labels=task.labels,
        label_column=task.label_column,
        words=words or [],
        demonstrations=[Demonstration(texts=dict(row.texts), label=row.label) for row in shown],
        calibration=task.calibration,
        bias=[] if bias is None else bias.tolist(),
        log_prior=prior,
        model=Model.model_validate({name: getattr(llm, name) for name in names}),
        tested=_tested(log, worker, best),
        origin=Origin(
            run=log.config.run.name,
            worker=worker,
            chosen=why,
            data_digest=log.data_digest,
            seed=log.seed,
            package_version=log.package_version,
        ),
    )


def _bias(log: Log, worker: int, best: Best) -> tuple[Split, np.ndarray | None]:
    """What calibrates the scores, and of which rows: of the test rows if there were any.

    Else those of the worker's race, whose rows have its own class shares.
    """
    if log.config.task.calibration == "none":
        return Split.TEST, None
    names = ("split", "worker", "candidate", "iteration", "words", "demonstrations", "bias")
    splits, workers, candidates, iterations, words, shown, biases = (
        log[f"evaluation/{name}"] for name in names
    )
    # The untuned prompt is tested without calibration, too.
    own = (workers == worker) & ((splits != Split.TEST) | (candidates != Candidate.UNTUNED))
    for split in (Split.TEST, Split.RACE, Split.VALIDATION):
        places = np.flatnonzero((splits == split) & own)
        # The newest, in a race that on the most rows.
        for place in places[np.argsort(iterations[places], kind="stable")][::-1].tolist():
            prompt = words[place], shown[place]
            if is_same(prompt, (best.words, best.demonstrations)):
                bias: np.ndarray = biases[place]
                if np.isfinite(bias).all():
                    return split, bias
    raise ConfigurationError(f"{log.path}: lacks what calibrates the prompt of worker {worker}")


def _tested(log: Log, worker: int, best: Best) -> Tested | None:
    """How it did on the test rows, if it was tested."""
    outcome = outcomes(log).get(Candidate.TUNED)
    if outcome is None or worker not in outcome.answers:
        return None
    names = ("worker", "candidate", "words", "demonstrations")
    tests = newest_tests(log)
    workers, candidates, words, shown = (log[f"evaluation/{name}"][tests] for name in names)
    (row,) = np.flatnonzero((workers == worker) & (candidates == Candidate.TUNED))
    # A resumed run may have found a better one, and not tested it yet.
    if not is_same((words[row], shown[row]), (best.words, best.demonstrations)):
        return None
    accuracy = intervals.accuracy(outcome.right([worker]))
    return Tested(
        rows=outcome.right([worker]).shape[1],
        accuracy=accuracy.value,
        low=accuracy.low,
        high=accuracy.high,
        loss=outcome.losses[worker],
    )

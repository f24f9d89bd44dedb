"""`asyndbt baseline`: another method on the rows, the model and the calls of a configuration."""

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from asyndbt_mpi.assemble import Materials, Place, check_server, language_model, prepare, rows_fit
from asyndbt_mpi.baselines.encoder import encoder
from asyndbt_mpi.baselines.methods import least_calls, method
from asyndbt_mpi.baselines.pmi import digest_of_texts
from asyndbt_mpi.baselines.result import Costs, Result
from asyndbt_mpi.baselines.trial import Counted, Spent, Trial
from asyndbt_mpi.config import Config, ConfigurationError, load
from asyndbt_mpi.doctor.processes import versions
from asyndbt_mpi.jobs.answer_cache import Answers, make_folder
from asyndbt_mpi.jobs.precision import settled
from asyndbt_mpi.view import intervals
from asyndbt_mpi.view.outcomes import score
from asyndbt_mpi.view.say import say

DIGITS = 6
"""Of a log-probability; float32 has no more."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asked for.

    ``calls`` None are those of the configuration; ``texts`` "" are those that ship.
    """

    method: str
    source: str
    assignments: tuple[str, ...]
    workers: int
    calls: int | None
    encoder: str
    texts: str
    output: Path


def usual_calls(config: Config) -> int:
    """What the samples of a run cost if no prompt comes twice, or budget.calls."""
    if config.budget.calls:
        return config.budget.calls
    estimator, active = config.estimator, config.algorithm.active_workers
    return config.run.iterations * active * estimator.samples * estimator.batch


def check(asked: Asked) -> tuple[Config, Materials]:
    """The settings and the rows of a method; nothing is loaded, written or paid for.

    Raises
    ------
    ConfigurationError
        Something is wrong with them.
    """
    config = load(asked.source, asked.assignments)
    if config.llm.is_function:
        raise ConfigurationError(
            f"llm.backend = {config.llm.backend!r}: methods are compared on language models"
        )
    if not config.task.test:
        raise ConfigurationError("task.test = 0: there are no rows to compare methods on")
    check_server(config)
    materials = prepare(config, asked.workers)
    return materials.configured(config), materials


def check_calls(asked: Asked, config: Config, materials: Materials) -> int:
    """The calls that the method may pay for before its tests.

    Raises
    ------
    ConfigurationError
        They are too few.
    """
    calls = usual_calls(config) if asked.calls is None else asked.calls
    least = least_calls(asked.method, config, materials)
    if calls < least:
        raise ConfigurationError(
            f"--calls: {calls} are too few for {asked.method}, which needs at least {least}"
        )
    return calls


def baseline(asked: Asked, cores: int | None = None, writer: int = 0) -> Result:
    """Run a method, test what it found, and write its result.

    The log of a run of AsynDBT is beside it, with the ending .h5. ``writer`` numbers this process
    among those that keep answers in the same folder.

    Raises
    ------
    ConfigurationError
        Something is wrong with the configuration, or the calls are too few.
    ModelError
        The model cannot be found, loaded or reached.
    """
    if asked.output.is_dir() or asked.output.suffix != ".json":
        raise ConfigurationError(f"--output {asked.output}: give the name of a file, FILE.json")
    config, materials = check(asked)
    calls = check_calls(asked, config, materials)
    make_folder(config, asked.output)
    workers = range(1, asked.workers + 1)
    fits = rows_fit(config, materials, workers)
    place = Place(0, cores or len(os.sched_getaffinity(0)))
    config, decision = settled(config, materials, place)
    if decision:
        say(str(decision), err=True)
        chosen = f"llm.precision={decision.precision}"
        asked = replace(asked, assignments=(*asked.assignments, chosen))
    model = language_model(config, place, Answers(asked.output, writer))
    assert model is not None
    if not fits:
        rows_fit(config, materials, workers)  # now the model is on this machine
    trial = Trial(
        *(asked.source, asked.assignments, config, materials, Counted(model)),
        calls,
        encoder(asked.encoder),
        asked.texts,
        asked.output.with_suffix(".h5"),
    )
    result = _run(trial, asked)
    result.write(asked.output)
    return result


def _run(trial: Trial, asked: Asked) -> Result:
    with trial.counted.counting() as tuning:
        predictions = method(asked.method)(trial)
    if tuning.calls > trial.calls:
        raise RuntimeError(f"{asked.method} spent {tuning.calls} calls of {trial.calls}")
    with trial.counted.counting() as tests:
        found = {worker: predict() for worker, predict in predictions.items()}
    config, materials = trial.config, trial.materials
    return Result(
        method=asked.method,
        calls=trial.calls,
        encoder=asked.encoder,
        texts=digest_of_texts(asked.texts),
        config=config.to_toml(),
        workers=len(trial.data),
        seed=config.run.seed,
        task=config.task.name,
        data_digest=materials.data_digest,
        model=trial.counted.description,
        model_digest=trial.counted.digest,
        versions=versions(),
        tuning=_costs(tuning),
        tests=_costs(tests),
        labels=[row.label for row in trial.data[1].test],
        log_probabilities={
            str(worker): np.round(logs, DIGITS).tolist() for worker, logs in found.items()
        },
        details=trial.details,
    )


def _costs(spent: Spent) -> Costs:
    return Costs(**asdict(spent))


def summary(result: Result) -> list[str]:
    """How good a method is and what it cost, in lines."""
    found = {worker: score(*each) for worker, each in result.scores().items()}
    share = intervals.accuracy(np.stack([each.right for each in found.values()]))
    loss = float(np.mean([each.losses.mean() for each in found.values()]))
    each = ", ".join(f"{100 * each.right.mean():.1f}" for each in found.values())
    tuning, tests = result.tuning, result.tests
    return [
        f"{result.method}: accuracy {100 * share.value:.1f} % ({100 * share.low:.1f} to"
        f" {100 * share.high:.1f}), loss {loss:.3f}, on {len(result.labels)} test rows"
        f" (workers: {each})",
        f"tuning: {tuning.calls:,} calls, {tuning.prompt_tokens + tuning.completion_tokens:,}"
        f" tokens, {tuning.seconds:.0f} s; tests: {tests.calls:,} calls",
    ]

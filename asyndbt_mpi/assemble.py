"""Builds the objects of a run from a configuration: the one place that chooses implementations."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from asyndbt_mpi.adversary.boxes import Flipped, Invented
from asyndbt_mpi.algorithm.types import FloatArray
from asyndbt_mpi.config import Config, ConfigurationError
from asyndbt_mpi.inputs.sections import Delay, Llm, TaskSection
from asyndbt_mpi.jobs.answer_cache import Answers, open_store
from asyndbt_mpi.jobs.memory import check_memory
from asyndbt_mpi.jobs.own import Own
from asyndbt_mpi.llm.base import LanguageModel, ModelError, NoModel
from asyndbt_mpi.llm.cache import CachedModel
from asyndbt_mpi.llm.local.quickly import quickly
from asyndbt_mpi.llm.servers.bounds import Bounds
from asyndbt_mpi.llm.servers.key import read_key
from asyndbt_mpi.log.errors import LogError
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.protocol.blackbox import BlackBox
from asyndbt_mpi.protocol.messages import Hello, Shapes
from asyndbt_mpi.protocol.private import Home
from asyndbt_mpi.protocol.worker import Workers
from asyndbt_mpi.task import calibration
from asyndbt_mpi.task.dataset import Dataset, Row, load
from asyndbt_mpi.task.fit import check_fit
from asyndbt_mpi.task.labels import table as written
from asyndbt_mpi.task.mislabelled import mislabelled
from asyndbt_mpi.task.partition import WorkerData, split
from asyndbt_mpi.task.prompts import PromptBlackBox
from asyndbt_mpi.task.rehearsal import longest_prompts
from asyndbt_mpi.task.synthetic import Synthetic
from asyndbt_mpi.task.template import Template, check_labels, columns_of, without_space
from asyndbt_mpi.task.unquoted import unquoted
from asyndbt_mpi.task.vocabulary import load_vocabulary
from asyndbt_mpi.transport.delay import Delays

if TYPE_CHECKING:
    from asyndbt_mpi.llm.openai import OpenAIModel

SYNTHETIC_CLASSES = 2


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker runs: its number among the workers of the node, and its cores.

    ``sharing`` processes of the job have a model, and share a server's limits; ``on_gpu`` of them
    share this one's GPU, if it has one.
    """

    local_rank: int
    cores: int
    sharing: int = 1
    on_gpu: int = 1


@dataclass(frozen=True, slots=True)
class Materials:
    """What every rank can work out for itself; a function has neither template nor data.

    ``data`` is indexed by the number of the worker; ``data_digest`` covers all of it and the
    template, and is "" without them. ``own`` is what Python code has provided. ``labels_taken``
    are labels by value, if the data and not the configuration name them; ``data_notes`` are what
    was changed when the data were read, in lines. The ``malicious`` workers' data are as these have
    them, perhaps with wrong labels.
    """

    shapes: Shapes
    vocabulary: list[str]
    template: Template | None
    data: dict[int, WorkerData] | None
    data_digest: str = ""
    own: Own = field(default_factory=Own)
    labels_taken: dict[str, str] = field(default_factory=dict)
    data_notes: list[str] = field(default_factory=list)
    malicious: frozenset[int] = frozenset()

    def configured(self, config: Config) -> Config:
        """``config`` with the labels of the data, as a log keeps it."""
        if not self.labels_taken:
            return config
        task = config.task.model_copy(update={"labels": self.labels_taken})
        return config.model_copy(update={"task": task})

    def remarks(self, config: Config) -> list[str]:
        """`notes` and `warnings`, each of which says which it is."""
        notes = [f"note: {line}" for line in self.notes(config)]
        return notes + [f"warning: {line}" for line in self.warnings(config)]

    def notes(self, config: Config) -> list[str]:
        """What was changed in the data or taken from them, one line each."""
        if not self.labels_taken:
            return self.data_notes
        return [
            *self.data_notes,
            f"task.labels are taken from column {config.task.label_column!r}:"
            f" {written(self.labels_taken)}",
        ]

    def warnings(self, config: Config) -> list[str]:
        """What the data do not allow, or is likely to be a mistake, one line each."""
        found = [without_space(self.template)] if self.template else []
        rows = len(next(iter(self.data.values())).test) if self.data else 0
        if not self.data or not config.run.evaluate_every or rows >= config.task.test:
            return [line for line in found if line]
        found.append(
            f"{config.task.rows_wanted}, but only {rows} rows are left to test on; intervals will"
            " be wider"
        )
        return [line for line in found if line]


def prepare(config: Config, workers: int, own: Own | None = None) -> Materials:
    """Load and check everything that needs no language model.

    Raises
    ------
    ConfigurationError
        Something is wrong with the configuration, given ``workers``, or with the data.
    """
    own = own or Own()
    own.check(config)
    algorithm, prompt = config.algorithm, config.prompt
    for name, value in (
        ("algorithm.active_workers", algorithm.active_workers),
        ("algorithm.min_workers", algorithm.min_workers),
        ("delay.slow_workers", config.delay.slow_workers),
    ):
        if value > workers:
            raise ConfigurationError(f"{name} = {value}: the run has only {workers} workers")
    malicious = _malicious(config, workers)
    vocabulary = load_vocabulary(prompt.vocabulary, prompt.vocabulary_size)
    dataset = None if config.llm.is_function else _dataset(config)
    classes = len(dataset.labels if dataset else config.task.label_texts) or SYNTHETIC_CLASSES
    if own.black_box:
        classes = own.black_box.shapes.classes
    shapes = Shapes(
        prompt.fragment_length,
        prompt.vocabulary_size,
        classes,
        prompt.pool,
        config.estimator.losses,
    )
    check_memory(config, shapes, workers)
    if dataset is None:
        calibration.check(config, None)
        return Materials(shapes, vocabulary, None, None, own=own, malicious=malicious)
    template = Template(config.task.template, dataset.labels)
    calibration.check(config, template)
    parts = split(dataset, config.task, prompt.pool, workers, config.run.seed)
    data = dict(enumerate(parts, start=1))
    digest = _digest(config.task, template.columns, data, dataset.taken)
    # Only now, because the digest is to tell whether somebody's files differ.
    attack = config.adversary.attack
    data |= {worker: mislabelled(data[worker], attack) for worker in malicious}
    kept = digest, own, dataset.taken, dataset.notes, malicious
    return Materials(shapes, vocabulary, template, data, *kept)


def _malicious(config: Config, workers: int) -> frozenset[int]:
    """The malicious ones among so many ``workers``."""
    adversary = config.adversary
    if adversary.needs > workers:
        raise ConfigurationError(
            f"adversary.workers = {adversary.workers}: the run has only {workers} workers"
        )
    malicious = adversary.of(workers)
    if malicious and adversary.attack == "bad_demonstrations" and config.llm.is_function:
        raise ConfigurationError(
            f"adversary.attack = 'bad_demonstrations': llm.backend = {config.llm.backend!r} has no"
            " demonstrations whose labels could be wrong"
        )
    return malicious


def _dataset(config: Config) -> Dataset:
    task = config.task
    if not task.template:
        raise ConfigurationError(
            f"task.template is missing: llm.backend = {config.llm.backend!r} needs a [task]"
            " with template and data, such as asyndbt data FILE suggests"
        )
    columns = columns_of(task.template)
    if task.labels:
        check_labels(task.label_texts)
    return load(task, columns, config.run.seed)


FIRST_COLUMNS = ["sentence1", "sentence2"]
"""Columns that digests have covered from the start, in this order."""


def _digest(
    task: TaskSection,
    columns: Sequence[str],
    data: Mapping[int, WorkerData],
    labels_taken: Mapping[str, str],
) -> str:
    digest = blake2b(task.template.encode(errors="surrogatepass"), digest_size=16)
    covered = FIRST_COLUMNS if set(columns) <= set(FIRST_COLUMNS) else columns
    tests: list[Row] | None = None
    for held in data.values():
        # Each split is hashed as a list, so that moving a row between splits changes the digest.
        splits = [held.train, *held.pool, held.validation]
        if held.test is not tests:  # the same for all workers
            splits.append(tests := held.test)
        rows = [
            [(*(row.texts.get(column) for column in covered), row.label) for row in split]
            for split in splits
        ]
        digest.update(json.dumps(rows).encode())
    digest.update(json.dumps(next(iter(data.values())).class_counts).encode())
    # The log's configuration has those that were taken as a table: both must come to the same.
    if table := labels_taken or (task.labels if isinstance(task.labels, dict) else {}):
        digest.update(json.dumps(table).encode())
    return digest.hexdigest()


def rows_fit(config: Config, materials: Materials, workers: Iterable[int]) -> bool:
    """Whether all rows of ``workers`` are known to fit into the model's context; see `check_fit`.

    Raises
    ------
    ConfigurationError
        One does not.
    """
    if materials.template is None or materials.data is None:
        return True
    data = {worker: materials.data[worker] for worker in workers}
    with unquoted():
        return check_fit(config, materials.template, materials.vocabulary, data)


def check_server(config: Config) -> None:
    """Check, before anything is started, that the key for the server is there.

    Raises
    ------
    ConfigurationError
        Its environment variable is not set, or holds no key.
    """
    if config.llm.backend == "openai":
        try:
            read_key(config.llm.base_url, config.llm.key_variable)
        except ModelError as error:
            raise ConfigurationError(str(error)) from error


def delays_of_workers(config: Config, workers: int) -> dict[int, Delays]:
    """The delays of every worker, by its number; a trace's workers take turns if it has fewer.

    Raises
    ------
    ConfigurationError
        The trace is not a log, or has no seconds to draw from.
    """
    traces = _traces(config.delay.trace) if config.delay.model == "trace" else [None]
    delays = {
        worker: Delays(
            config.delay, config.run.seed, worker, workers, traces[(worker - 1) % len(traces)]
        )
        for worker in range(1, workers + 1)
    }
    if config.adversary.attack == "flood":
        at_once = config.adversary.of(workers)
        delays |= {v: Delays(Delay(), config.run.seed, v, workers) for v in at_once}
    return delays


def _traces(path: str) -> list[FloatArray | None]:
    """The seconds that each worker of the log at ``path`` took for its reports."""
    try:
        with Log(path) as log:
            worker, seconds = log["report/worker"], log["report/compute_seconds"]
    except LogError as error:
        raise ConfigurationError(f"delay.trace: {error}") from error
    if not (np.isfinite(seconds).all() and (seconds >= 0).all() and (seconds > 0).any()):
        raise ConfigurationError(
            f"delay.trace: {path}: its reports are missing or damaged, or took no time"
        )
    return [seconds[worker == each] for each in np.unique(worker)]


def language_model(config: Config, place: Place, answers: Answers | None) -> LanguageModel | None:
    """The run's language model, which can take a while to load; None for a function.

    Without ``answers``, answers are kept in memory only.

    Raises
    ------
    ConfigurationError
        The folder of the answers cannot be used.
    ModelError
        The model cannot be found, loaded or reached.
    """
    if config.llm.is_function:
        return None
    model: LanguageModel
    scored_by = ""
    if config.llm.backend == "openai":
        model = served = _served(config.llm, place)
        scored_by = served.scored_by
    else:
        model = in_process(config.llm, place)
    store = open_store(config, answers, scored_by, model.digest) if answers else None
    return CachedModel(model, config.llm.cache, store) if config.llm.cache else model


def in_process(llm: Llm, place: Place) -> LanguageModel:
    """The model of `transformers`, in a precision that is decided.

    Raises
    ------
    ModelError
        It cannot be found or loaded.
    """
    with quickly():
        from asyndbt_mpi.llm.transformers import TransformersModel

    return TransformersModel(
        llm.model,
        device=llm.device,
        precision=llm.precision,
        max_tokens_per_batch=llm.max_tokens_per_batch,
        threads=llm.threads or place.cores,
        local_rank=place.local_rank,
        sharing=place.on_gpu,
    )


def gpu_of(config: Config, local_rank: int) -> str:
    """Identifies the GPU of a worker's model; "" for none.

    Also "" if none is available: loading the model then reports why.
    """
    if config.llm.backend != "transformers" or config.llm.device == "cpu":
        return ""
    # Errors of torch, a driver or a GPU must not stop here: the node's other workers are waiting.
    try:
        from asyndbt_mpi.llm.local.device import choose, identity

        return identity(choose(config.llm.device, local_rank))
    except Exception:
        return ""


def _served(llm: Llm, place: Place) -> "OpenAIModel":
    from asyndbt_mpi.llm.openai import OpenAIModel

    return OpenAIModel(
        llm.model,
        base_url=llm.base_url,
        key_variable=llm.key_variable,
        api=llm.api,
        scores=llm.scores,
        concurrency=llm.concurrency,
        timeout=llm.timeout,
        attempts=llm.attempts,
        requests_per_minute=llm.requests_per_minute,
        workers=place.sharing,
        extra_body=llm.extra_body,
    )


def workers_with_black_box(
    config: Config,
    materials: Materials,
    workers: Sequence[int],
    model: LanguageModel | None,
    home: Home | None = None,
) -> tuple[Workers, BlackBox]:
    """The state machine of the ``workers`` of this process, and the black box that answers it.

    A model in this process scores the run's longest prompts first; see `llm.transformers`.
    ``home`` takes what the workers do not tell.

    Raises
    ------
    ConfigurationError
        This machine does not have enough memory for all of them.
    ModelError
        The model cannot score them.
    """
    check_memory(config, materials.shapes, len(workers), held=len(workers))
    box: BlackBox
    own = materials.own
    if own.black_box is not None:
        box = own.black_box.of_workers(workers, config.log.private)
    elif model is None or materials.data is None or materials.template is None:
        box = Synthetic(config.run.seed, materials.shapes, workers, config.llm.heterogeneity)
    else:
        data = {worker: materials.data[worker] for worker in workers}
        positions, method = materials.shapes.positions, config.task.calibration
        texts = data, materials.template, materials.vocabulary, positions
        # Without the cache, because it is the model that is checked.
        asked = model.model if isinstance(model, CachedModel) else model
        if config.llm.backend == "transformers" and not isinstance(asked, NoModel):
            nothing = asked.longest("")  # it adds room for labels
            with unquoted():
                prompts = longest_prompts(
                    *texts, method, lambda some: [asked.longest(text) - nothing for text in some]
                )
                asked.label_log_probabilities(prompts, materials.template.labels)
        box = PromptBlackBox(*texts, model, method)
    if materials.malicious:
        box = _malicious_box(config, materials.malicious, box)
    return Workers(config, materials.shapes, box.data_sizes, own.estimator, home), box


def _malicious_box(config: Config, members: frozenset[int], box: BlackBox) -> BlackBox:
    """``box`` as the malicious ``members`` have it; see also `mislabelled`."""
    adversary = config.adversary
    if adversary.attack == "flood":
        return Invented(box, members, config.run.seed, adversary.strength)
    if adversary.attack == "label_flip" and config.llm.is_function:
        return Flipped(box, members)
    return box


def hellos(
    config: Config, materials: Materials, workers: int, in_process: LanguageModel
) -> dict[int, Hello]:
    """The hello that follows from each worker's data, with the upper bound of its answers' cost.

    ``in_process`` means that it has its own model.
    """
    llm = config.llm
    model: LanguageModel | None = None
    if llm.backend == "openai":
        model = Bounds(llm.api, llm.scores, llm.concurrency)
    elif llm.backend == "transformers":
        model = in_process
    if model and llm.cache:
        model = CachedModel(model, llm.cache)
    everyone = range(1, workers + 1)
    machines, _ = workers_with_black_box(config, materials, everyone, model)
    return {worker: machines.hello(worker, "") for worker in everyone}


def workers_without_model(
    config: Config, materials: Materials, workers: Sequence[int]
) -> tuple[Workers, BlackBox]:
    """Like `workers_with_black_box`, for a run that asks no language model."""
    return workers_with_black_box(config, materials, workers, NoModel())


def rebuild(
    log: Log, config: Config, keeps_answers: bool, own: Own | None = None
) -> tuple[Workers, BlackBox]:
    """All workers of ``log`` at their start, and the black box that answers them.

    ``config`` is the run's, with the paths and addresses that are not taken from a log: see
    `given`. Answers that the run kept on disk cost nothing; ``keeps_answers`` says whether new
    ones are added, as worker 0's.

    Raises
    ------
    LogError
        Sizes or words differ from the run's.
    ConfigurationError
        Its data or its language model are not available here.
    """
    materials = prepare(config, log.workers, own)
    check_materials(log, materials)
    place = Place(0, len(os.sched_getaffinity(0)))
    answers = Answers(Path(log.path), 0 if keeps_answers else None)
    model = language_model(config, place, answers)
    everyone = range(1, log.workers + 1)
    return workers_with_black_box(config, materials, everyone, model)


def check_materials(log: Log, materials: Materials) -> None:
    """Raise a `LogError` if sizes, words or data differ from those of the run."""
    if materials.shapes != log.shapes or materials.vocabulary != log.vocabulary:
        raise LogError(f"{log.path}: was made with a different vocabulary or different sizes")
    if log.data_digest and materials.data_digest != log.data_digest:
        raise LogError(f"{log.path}: was made with different data, or a different template")

"""`asyndbt predict`: labels and probabilities for rows, by a tuned prompt."""

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from asyndbt_mpi.algorithm.types import FloatArray
from asyndbt_mpi.assemble import Place, check_server, language_model
from asyndbt_mpi.commands.prompt import tuned_prompt, unwritable
from asyndbt_mpi.config import Config, ConfigurationError, load, load_table
from asyndbt_mpi.inputs.sections import Llm
from asyndbt_mpi.jobs.given import configuration, given_configuration
from asyndbt_mpi.llm.base import LanguageModel
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.task.dataset import Row, rows_of_table
from asyndbt_mpi.task.tables import Table, read_table
from asyndbt_mpi.task.tuned import TunedPrompt, read_prompt
from asyndbt_mpi.view.bar import Count
from asyndbt_mpi.view.progress import loading

Columns: TypeAlias = Mapping[str, Sequence[Any]]
"""Cells by the name of their column, a cell for each row."""

AT_ONCE = 64
"""Rows that are scored at once; their predictions are written before the next ones are."""


def sources(
    path: Path,
    source: str | None,
    assignments: tuple[str, ...],
    data: str | None,
    worker: int | None,
) -> tuple[TunedPrompt, Config]:
    """The prompt in a log or a file of `asyndbt prompt`, and the configuration of its model.

    ``source`` and ``assignments`` are --config and --set. Addresses and keys of servers come from
    the command line alone.

    Raises
    ------
    LogError, ConfigurationError
        As `tuned_prompt` and `read_prompt`.
    """
    if path.suffix != ".json":
        given = given_configuration(source, assignments)
        with Log(path) as log:
            config = configuration(log, given, asks_model=True, data=data)
        return tuned_prompt(path, given, data, worker), config
    if data is not None or worker is not None:
        raise ConfigurationError("--data and --worker are for a log: a prompt file has its texts")
    prompt = read_prompt(path)
    if source is None:
        config = model_settings(prompt, assignments, str(path))
    else:
        config = load(source, assignments)
    check_model(prompt, config)
    return prompt, config


def model_settings(
    prompt: TunedPrompt, assignments: Sequence[str], source: str = "the prompt"
) -> Config:
    """A configuration with the model that ``prompt`` was tuned for.

    A prompt may come from a stranger: only the shipped model is taken from it, any other, and the
    address of a server, must be named in ``assignments``.

    Raises
    ------
    ConfigurationError
        Something else has to be named, or is.
    """
    named = {assignment.partition("=")[0].strip() for assignment in assignments}
    if others := sorted(key for key in named if not key.startswith("llm.")):
        raise ConfigurationError(f"--set {others[0]}: only keys of [llm] can be set for a prompt")
    needed = {"llm.base_url"} if prompt.model.backend == "openai" else set()
    if prompt.model.model != Llm().model:
        needed.add("llm.model")
    if missing := sorted(needed - named):
        raise ConfigurationError(
            f"{source}: is for llm.model = {prompt.model.model!r} ({prompt.model.backend}); models"
            f" and addresses are never taken from a prompt: add --set {missing[0]}=..."
        )
    llm = {key: value for key, value in prompt.model.model_dump().items() if value}
    return load_table({"llm": llm}, assignments, source)


def check_model(prompt: TunedPrompt, config: Config) -> None:
    """Refuse another model than the prompt's, whose scores its calibration does not fit.

    Raises
    ------
    ConfigurationError
        Unless llm.model_may_differ.
    """
    for key, tuned_for in prompt.model.model_dump().items():
        if getattr(config.llm, key) != tuned_for and not config.llm.model_may_differ:
            raise ConfigurationError(
                f"llm.{key} = {getattr(config.llm, key)!r}, but the prompt was tuned and calibrated"
                f" for {tuned_for!r}; to use it all the same, set llm.model_may_differ = true"
            )


def model_of(config: Config) -> LanguageModel:
    """The language model that is to answer.

    Raises
    ------
    ConfigurationError
        A function is no language model, or a key is missing.
    ModelError
        It cannot be found, loaded or reached.
    """
    if config.llm.is_function:
        raise ConfigurationError("llm.backend: predictions need a language model")
    check_server(config)
    with loading(config):
        model = language_model(config, Place(0, len(os.sched_getaffinity(0))), None)
    assert model is not None
    return model


def rows_to_predict(path: Path, prompt: TunedPrompt, has_labels: bool) -> tuple[list[Row], Columns]:
    """The rows of a file, with the columns that the prompt shows; and its other columns.

    Of the latter, one that has the name of a column of predictions gets another, such as
    "label (input)".

    Raises
    ------
    ConfigurationError
        It cannot be read, lacks a column, or has no row.
    """
    try:
        table = read_table(path)
    except ConfigurationError as error:
        raise ConfigurationError(str(error).removeprefix("task.path: ")) from error
    rows = rows_of_table(table, prompt.task, prompt.columns, has_labels)
    if not rows:
        raise ConfigurationError(f"{path}: has no rows")
    return rows, _others(table, prompt)


def _others(table: Table, prompt: TunedPrompt) -> Columns:
    found, own = {}, set(_names_of_predictions(prompt))
    for column in table.columns:
        # Of Parquet not all kinds of cells are read.
        if column in prompt.columns or not any(column in each.cells for each in table.records):
            continue
        name = column
        while name in own or (name != column and name in table.columns):
            name += " (input)"
        found[name] = [_cell(record.cells.get(column)) for record in table.records]
    return found


def _cell(value: Any) -> Any:
    """A cell of JSON Lines as it was there: Python would write True, or a list's repr."""
    return json.dumps(value) if isinstance(value, bool | list | dict) else value


def _names_of_predictions(prompt: TunedPrompt) -> list[str]:
    return ["row", "label", *(f"p({label.strip()})" for label in prompt.task.label_texts)]


def predict(
    prompt: TunedPrompt,
    model: LanguageModel,
    rows: Sequence[Row],
    others: Columns,
    output: Path,
) -> FloatArray:
    """Write the number, ``others``, label and probabilities of each row.

    Returns all log-probabilities (B, U).

    Raises
    ------
    ConfigurationError
        The file cannot be written.
    ModelError
        As `LanguageModel`; what was predicted before is in the file.
    """
    try:
        # JSON allows half of a surrogate pair, UTF-8 does not.
        file = output.open("w", newline="", encoding="utf-8", errors="backslashreplace")
    except (OSError, ValueError) as error:
        raise unwritable(str(output), error) from error
    names = [label.strip() for label in prompt.task.label_texts]
    found = []
    with file, Count(len(rows), "rows") as bar:
        writer = csv.writer(file)
        first, *further = _names_of_predictions(prompt)
        writer.writerow([first, *others, *further])
        for start, logs in _parts(prompt, model, rows):
            for number, of_row in enumerate(logs, start=start + 1):
                kept = [cells[number - 1] for cells in others.values()]
                shares = [f"{share:.6f}" for share in np.exp(of_row)]
                writer.writerow([number, *kept, names[int(of_row.argmax())], *shares])
            file.flush()
            found.append(logs)
            bar.add(len(logs))
    return np.concatenate(found)


def _parts(
    prompt: TunedPrompt, model: LanguageModel, rows: Sequence[Row]
) -> Iterator[tuple[int, FloatArray]]:
    for start in range(0, len(rows), AT_ONCE):
        yield start, prompt.log_probabilities(model, rows[start : start + AT_ONCE])

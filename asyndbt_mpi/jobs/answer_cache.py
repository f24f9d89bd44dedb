"""Where a run keeps its language model's answers, and what they depend on."""

import os
from dataclasses import dataclass
from pathlib import Path

from asyndbt_mpi.config import Config, ConfigurationError
from asyndbt_mpi.inputs import ownership
from asyndbt_mpi.llm.store import AnswerStore, StoreError

DECISIVE = {
    "transformers": {"backend", "precision"},
    "openai": {"backend", "model", "base_url", "api", "extra_body"},
}
"""Keys of [llm] that answers depend on, besides the model itself and its way of scoring.  Devices,
batches and numbers of threads change them by rounding only."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Where answers are kept: beside which log, and in which worker's file.

    Worker 0 stands for all workers of a run in one process; None reads, and writes nothing.
    """

    log: Path
    worker: int | None


def folder_of(config: Config, log: Path) -> Path | None:
    """The folder of the answers kept with a run's ``log``; None if it keeps none."""
    llm = config.llm
    if llm.is_function or not (llm.cache and llm.cache_folder):
        return None
    return Path(llm.cache_folder.replace("{output}", str(log))).expanduser()


def make_folder(config: Config, log: Path) -> None:
    """Check, before anything is paid for, that the run's answers can be kept.

    Raises
    ------
    ConfigurationError
        The folder cannot be created or written to, or is not this user's own.
    """
    folder = folder_of(config, log)
    if folder is None:
        return
    try:
        ownership.make_folder(folder)
        writable = os.access(folder, os.W_OK | os.X_OK)
        why = "" if writable else "cannot be written to: no permission"
    except ownership.NotOwn as error:
        why = error.why
    except OSError as error:
        why = f"cannot be written to: {error.strerror or error}"
    if why:
        raise ConfigurationError(
            f'llm.cache_folder: {folder} {why}; choose another, or "" to keep no answers on disk'
        )


def open_store(config: Config, answers: Answers, scored_by: str, digest: str) -> AnswerStore | None:
    """The answers to the run's prompts that were paid for earlier; None if none are kept.

    ``scored_by`` is a server's way of scoring, which "auto" leaves open, else ""; ``digest`` is the
    model's.

    Raises
    ------
    ConfigurationError
        The folder or the worker's own file in it cannot be used.
    """
    folder = folder_of(config, answers.log)
    if folder is None:
        return None
    llm = config.llm
    identity = {
        "template": config.task.template,
        "digest": digest,
        "scored_by": scored_by,
        **llm.model_dump(mode="json", include=DECISIVE[llm.backend]),
    }
    try:
        return AnswerStore(folder, identity, config.task.label_texts, answers.worker)
    except StoreError as error:
        raise ConfigurationError(f"llm.cache_folder: {error}") from error

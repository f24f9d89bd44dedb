"""What is never taken from a log: which server is asked with which key, and which files are read.

A log may come from a stranger. Whatever its configuration names outside the package is taken from
the command line instead: to rebuild a run, the user gives the run's own configuration.
"""

from collections.abc import Iterator

from asyndbt_mpi.config import Config, ConfigurationError, difference, load, with_choices_of
from asyndbt_mpi.inputs.sections import Llm
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.task.vocabulary import shipped

FROM_COMMAND_LINE = {
    "task": {"path"},
    "prompt": {"vocabulary"},
    "llm": {
        *("base_url", "key_variable", "concurrency", "timeout", "attempts", "requests_per_minute"),
        *("device", "threads", "max_tokens_per_batch", "cache", "cache_folder"),
    },
}
"""Keys for the place of something, or the pace of its use: they may differ from the log's."""

NOT_USED = {
    "run": {"iterations", "output", "worker_timeout", "signals"},
    "llm": {"model_may_differ", "input_price", "output_price"},
    "budget": {"calls", "tokens", "cost", "seconds"},
}
"""Keys that may have changed when the run was resumed, and that nothing here depends on."""

HARMLESS_FOLDERS = "", Llm().cache_folder
LONGEST = 200


def given_configuration(source: str | None, assignments: tuple[str, ...]) -> Config | None:
    """The configuration given by --config and --set."""
    if source is None and assignments:
        raise ConfigurationError("--set overrides keys of --config: add --config CONFIG")
    return None if source is None else load(source, assignments)


def configuration(
    log: Log, given: Config | None, asks_model: bool, data: str | None = None
) -> Config:
    """The configuration of the run of ``log``, with the places ``given`` on the command line.

    ``asks_model`` says whether the run's language model will be asked, or only its data read;
    ``data``, if given, is in the place of task.path, and the words are then those in the log.

    Raises
    ------
    ConfigurationError
        None is given, and the log's names a place; or the two differ in other keys.
    """
    if data is not None:
        return _with_data(log, data, _configuration(log, given, asks_model, reads_files=False))
    return _configuration(log, given, asks_model, reads_files=True)


def is_needed(log: Log, asks_model: bool) -> bool:
    """Whether `configuration` refuses to work from the log alone."""
    return any(_places(log.config, asks_model, reads_files=True))


def _configuration(log: Log, given: Config | None, asks_model: bool, reads_files: bool) -> Config:
    if given is None:
        if named := ", ".join(_places(log.config, asks_model, reads_files)):
            raise ConfigurationError(
                f"{log.path}: its run used {named}, which is never taken from a log; to use it,"
                " add --config with the configuration that the run was started with (and --set, as"
                " there)"
            )
        return log.config
    besides = {
        section: FROM_COMMAND_LINE.get(section, set()) | NOT_USED.get(section, set())
        for section in FROM_COMMAND_LINE | NOT_USED
    }
    if found := difference(log.config, with_choices_of(given, log.config), besides):
        raise ConfigurationError(f"--config: {log.path} was made with {found}")
    places = {
        section: getattr(log.config, section).model_copy(
            update={key: getattr(getattr(given, section), key) for key in keys}
        )
        for section, keys in FROM_COMMAND_LINE.items()
    }
    return log.config.model_copy(update=places)


def _with_data(log: Log, data: str, config: Config) -> Config:
    task = config.task.model_copy(update={"path": data})
    words = config.prompt.model_copy(update={"vocabulary": log.vocabulary})
    return config.model_copy(update={"task": task, "prompt": words})


def _places(config: Config, asks_model: bool, reads_files: bool) -> Iterator[str]:
    """What ``config`` names outside the package, key by key."""
    llm, vocabulary = config.llm, config.prompt.vocabulary
    if reads_files and isinstance(vocabulary, str) and vocabulary not in shipped():
        yield _named("prompt.vocabulary", vocabulary)
    if llm.is_function:
        return
    if reads_files and config.task.path:
        yield _named("task.path", config.task.path)
    if not asks_model:
        return
    if llm.backend == "openai":
        yield _named("llm.base_url", llm.base_url or "OpenAI's")
        if llm.key_variable:
            yield _named("llm.key_variable", llm.key_variable)
    elif llm.model != Llm().model:
        yield _named("llm.model", llm.model)
    if llm.cache and llm.cache_folder not in HARMLESS_FOLDERS:
        yield _named("llm.cache_folder", llm.cache_folder)


def _named(key: str, value: str) -> str:
    return f"{key} = {value[:LONGEST]!r}{'...' * (len(value) > LONGEST)}"

"""What every run needs, under any transport: configuration, materials, log and progress."""

import contextlib
import os
import stat
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from asyndbt_mpi.algorithm.types import FloatArray
from asyndbt_mpi.assemble import Materials, check_server, delays_of_workers, prepare
from asyndbt_mpi.config import Config, ConfigurationError, load
from asyndbt_mpi.inputs.files import check_path, shown
from asyndbt_mpi.jobs.answer_cache import make_folder
from asyndbt_mpi.jobs.own import Own
from asyndbt_mpi.log.errors import LogError
from asyndbt_mpi.log.file import check_no_link
from asyndbt_mpi.log.home import HomeFiles, file_of
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.schema import Transport
from asyndbt_mpi.log.storage.publish import check_replaceable
from asyndbt_mpi.log.writer import Writer
from asyndbt_mpi.transport.delay import Delays


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asked for; ``debug`` shows the tracebacks of errors.

    Python code has its configuration ``given``, and may provide its ``own`` black box or estimator.
    """

    source: str
    assignments: tuple[str, ...]
    output: str | None
    overwrite: bool
    debug: bool
    resume: bool = False
    given: Config | None = None
    own: Own = field(default_factory=Own)

    def configuration(self) -> Config:
        """The requested configuration.

        Raises
        ------
        ConfigurationError
            Something is wrong with it.
        """
        if self.given is None:
            return load(self.source, self.assignments)
        return self.own.configured(self.given)


LONGEST_LOG_NAME = 180
"""Bytes: the hidden files beside a log have longer names than its own."""


def log_path(config: Config, output: str | None) -> Path:
    """The path of a run's log: ``output``, or as configured.

    Raises
    ------
    ConfigurationError
        No log can have that name.
    """
    if output is not None:
        return writable_path("--output", output)
    return writable_path("run.output", config.run.output.replace("{name}", config.run.name))


def writable_path(key: str, written: str) -> Path:
    """The value ``written`` at ``key``, as a path.

    Raises
    ------
    ConfigurationError
        No log or folder of logs can have that name.
    """
    try:
        check_path(written, LONGEST_LOG_NAME)
    except ValueError as error:
        raise ConfigurationError(f"{key} = {shown(written)}: {error}") from error
    return Path(written)


def _check_regular(path: Path) -> None:
    """Refuse to write a log in place of a folder or a device."""
    try:
        kind = path.stat().st_mode
    except OSError:  # does not exist; any obstacle is reported when the log is opened
        return
    if stat.S_ISDIR(kind):
        raise ConfigurationError(f"run.output = {shown(str(path))}: is a folder; name a file")
    if not stat.S_ISREG(kind):
        raise ConfigurationError(
            f"run.output = {shown(str(path))}: is a pipe or a device; name a file"
        )


@dataclass(frozen=True, slots=True)
class Job:
    """A checked request: everything known before a model is loaded or a log opened."""

    config: Config
    materials: Materials
    delays: dict[int, Delays]
    workers: int
    path: Path
    overwrite: bool

    @classmethod
    def of(cls, request: Request, workers: int) -> "Job":
        """Load and check the configuration and the data, and create the folder of answers.

        Raises
        ------
        ConfigurationError
            As `checked`; or the folder of the model's answers cannot be written to.
        """
        job = cls.checked(request, workers)
        make_folder(job.config, job.path)
        return job

    @classmethod
    def checked(cls, request: Request, workers: int) -> "Job":
        """Load and check the configuration and the data; nothing is written.

        Raises
        ------
        ConfigurationError
            Something is wrong with them, or the log exists and is not to be replaced.
        """
        config = request.configuration()
        check_server(config)
        materials = prepare(config, workers, request.own)
        config = materials.configured(config)
        path = log_path(config, request.output)
        _check_regular(path)
        delays = delays_of_workers(config, workers)
        if config.delay.trace and path.resolve() == Path(config.delay.trace).resolve():
            raise ConfigurationError(
                f"delay.trace = {str(path)!r}: is the log that will be written"
            )
        if request.resume and request.overwrite:
            raise ConfigurationError(
                "--resume continues a log, --overwrite replaces it: give only one of them"
            )
        if request.resume:
            _check_no_link(path)
        elif request.overwrite:
            _check_replaceable(path)
        else:
            _check_free(path)
        return cls(config, materials, delays, workers, path, request.overwrite)

    def open_log(self, transport: Transport, start: FloatArray) -> Writer:
        """A new log, which replaces an existing one if that was requested.

        Warns of keys that are set and not used, because here one process does so once a run.

        ``start`` (M, N) is z before the first iteration.

        Raises
        ------
        ConfigurationError
            The log cannot be written there, or another process does so.
        """
        if unused := self.config.unused:
            warnings.warn(unused, stacklevel=2)
        with self._opening():
            return Writer(
                self.path,
                self.config,
                self.materials.shapes,
                self.workers,
                self.materials.vocabulary,
                transport,
                start,
                overwrite=self.overwrite,
                data_digest=self.materials.data_digest,
            )

    def home(self, workers: Iterable[int]) -> HomeFiles | None:
        """Where the ``workers`` of this process keep what they do not tell, with `log.private`.

        Raises
        ------
        ConfigurationError
            It cannot be written, or has files of another run.
        """
        if not self.config.log.private:
            return None
        files = {worker: file_of(self.config, self.path, worker) for worker in workers}
        return HomeFiles(files, self.config.run.name, self.overwrite)

    def reopen_log(self, log: Log, counted: Mapping[str, int]) -> Writer:
        """``log``, opened to be continued; of some groups only ``counted`` rows count.

        Raises
        ------
        ConfigurationError
            The log cannot be written, or another process does so.
        """
        with self._opening():
            return Writer.resumed(log, self.config, counted, self.materials.data_digest)

    @contextlib.contextmanager
    def _opening(self) -> Iterator[None]:
        try:
            yield
        except LogError as error:
            raise ConfigurationError(str(error)) from error
        except OSError as error:
            raise ConfigurationError(
                f"run.output: {self.path} cannot be written: {error}"
            ) from error


def _check_no_link(path: Path) -> None:
    try:
        check_no_link(path)
    except LogError as error:
        raise ConfigurationError(f"--resume: {error}") from error


def _check_replaceable(path: Path) -> None:
    try:
        check_replaceable(path)
    except FileExistsError as error:
        raise ConfigurationError(f"--overwrite: {error.filename}: {error.strerror}") from error


def _check_free(path: Path) -> None:
    if os.path.lexists(path):
        raise ConfigurationError(
            f"{path} already exists; give another --output, --resume to continue it, or"
            " --overwrite to replace it"
        )

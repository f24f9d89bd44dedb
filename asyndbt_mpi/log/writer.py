"""Writes the log of a run, so that whatever ends the run leaves a file that can be read.

The file is in HDF5's default format, for the newer ones need repair after a kill. Rows are
gathered in memory and written in batches, each of which is committed as a whole or not at all (see
`journal`), even if a kill, a full disk, a quota or a limit on a file's size is in the way.

A run that is resumed goes on in the same file. Rows that count no more are cut off first, in the
commit that says so.
"""

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import h5py
import numpy as np

from asyndbt_mpi.algorithm.types import FloatArray
from asyndbt_mpi.config import Config
from asyndbt_mpi.log import checksums, rows, schema
from asyndbt_mpi.log.datasets import CHUNK_BYTES
from asyndbt_mpi.log.errors import LogError, LogWriteError
from asyndbt_mpi.log.file import check_no_link
from asyndbt_mpi.log.reader import Log
from asyndbt_mpi.log.schema import Transport
from asyndbt_mpi.log.storage.journal import HDF5_ERRORS, SPARE_BYTES, JournaledFile, cause_of
from asyndbt_mpi.log.storage.lock import LogLock
from asyndbt_mpi.log.storage.publish import check_free, check_replaceable, hidden, replace, settle
from asyndbt_mpi.log.tables import Tables, create
from asyndbt_mpi.protocol.messages import Shapes
from asyndbt_mpi.protocol.records import Estimation, Evaluation, Event, EventKind, Iteration, Record

SECONDS_BETWEEN_BATCHES = 0.5
LARGEST_BATCH = 512
"""Iterations; fewer where their iterates would exceed `LARGEST_BATCH_BYTES`."""
LARGEST_BATCH_BYTES = 1 << 25


class Writer:
    """Log of one run, made anew at ``path``; its folder is made if need be.

    Parameters
    ----------
    shapes, workers : sizes M, N, U, V and R
    vocabulary : N words
    z0 : array (M, N), the consensus before the first iteration
    clock : seconds; paces the batches
    overwrite : replace the log that may be at ``path``, once the new one is whole
    data_digest : of the texts of the data, by which a resume notices that they changed

    Raises
    ------
    FileExistsError
        The file exists, and is not to be replaced.
    LogError
        Another process is writing the log.
    LogWriteError
        No room for a batch, or it cannot be written; from then on only `close` is of use.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        config: Config,
        shapes: Shapes,
        workers: int,
        vocabulary: Sequence[str],
        transport: Transport,
        z0: FloatArray,
        clock: Callable[[], float] = time.monotonic,
        overwrite: bool = False,
        data_digest: str = "",
    ) -> None:
        self._prepare(Path(path), config, shapes, workers, clock)
        with contextlib.ExitStack() as undo:
            self._lock = LogLock(self.path)
            undo.callback(self._lock.release)
            (check_replaceable if overwrite else check_free)(self.path)
            made = hidden(self.path)
            undo.callback(made.unlink, missing_ok=True)
            self._disk = JournaledFile(made, True, bool(self.sync_every))
            undo.callback(self._abandon)
            self.file = h5py.File(self._disk, "w", rdcc_nbytes=2 * CHUNK_BYTES)
            with self._writing():
                self._tables = create(self.file, config, shapes, workers, vocabulary, z0)
                self._describe(config, shapes, workers, transport, data_digest)
                self._commit()
            (replace if overwrite else settle)(made, self.path)
            undo.pop_all()
        self._written = clock()

    @classmethod
    def resumed(
        cls,
        log: Log,
        config: Config,
        counted: Mapping[str, int] | None = None,
        data_digest: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> Self:
        """The writer of a run that goes on with ``log``, from iteration ``log.committed`` on.

        Of the events and evaluations that the run replays, it must not write the first
        ``log.committed_rows`` of each, or as many as ``counted`` says: they count as they are.
        Those behind are cut off.

        Raises
        ------
        LogError
            Another process is writing the log, it is a link, or its batches are damaged.
        LogWriteError
            It cannot be written; it is as it was.
        """
        writer = cls.__new__(cls)
        writer._prepare(Path(log.path), config, log.shapes, log.workers, clock)
        with contextlib.ExitStack() as undo:
            writer._lock = LogLock(writer.path)
            undo.callback(writer._lock.release)
            check_no_link(writer.path)
            _check_current(log)
            with writer._writing():
                writer._disk = JournaledFile(writer.path, True, bool(writer.sync_every))
                undo.callback(writer._abandon)
                writer._disk.settle()
                writer.file = h5py.File(writer._disk, "r+", rdcc_nbytes=2 * CHUNK_BYTES)
                writer._take_over(log, config, counted or {})
                writer._describe(config, log.shapes, log.workers, log.transport, data_digest)
                writer._commit()
            undo.pop_all()
        writer._written = clock()
        return writer

    def _prepare(
        self,
        path: Path,
        config: Config,
        shapes: Shapes,
        workers: int,
        clock: Callable[[], float],
    ) -> None:
        """What a writer knows before it has a file."""
        self.path = path
        self.clock = clock
        self.every = schema.period(config)
        self.samples = shapes.samples
        groups = schema.groups(config.algorithm.lower_distance)
        self.waiting: dict[str, list[rows.Row]] = {group: [] for group in groups}
        iteration_bytes = 8 * (workers + 1) * shapes.positions * shapes.words
        self.batch = max(1, min(LARGEST_BATCH, LARGEST_BATCH_BYTES // iteration_bytes))
        # The newest iterates where log.iterates left them out: close() stores the last ones.
        self._withheld: list[tuple[str, int, FloatArray]] = []
        # What to enter into /plane/dropped: plane, position, iteration.
        self._drops: list[tuple[int, int, int]] = []
        # What a worker's last hello said: its description, its needs and its model.
        self._hellos: dict[int, tuple[str, str, str]] = {}
        self.sync_every = config.log.sync_every
        self._settled = -math.inf
        self._starts = 1
        self._committed = 0
        self._seconds = 0.0
        self._failure: LogWriteError | None = None
        self._closed = False

    def _take_over(self, log: Log, config: Config, counted: Mapping[str, int]) -> None:
        """The tables of ``log``, without the rows that count no more."""
        self._starts = log.starts + 1
        self._seconds = np.nan_to_num(log.logging_seconds)
        self._committed = log.committed
        lengths = {group: counted.get(group, log.count(group)) for group in self.waiting}
        self._tables = Tables(self.file, config, lengths)
        if not self._tables.cut():
            raise LogError(f"{log.path}: is damaged; asyndbt verify tells where")

    def _abandon(self) -> None:
        """Let go of the file as it is on the disk."""
        with contextlib.suppress(Exception):
            self.file.close()
        self._disk.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Failures to write become a `LogWriteError`; after one, nothing is written any more."""
        if self._failure is not None:
            raise self._failure
        try:
            yield
        except LogWriteError as error:
            self._failure = error
            raise
        except HDF5_ERRORS as error:
            cause = cause_of(error)
            reason = getattr(cause, "strerror", None) or str(cause).splitlines()[0]
            self._failure = LogWriteError(
                f"{self.path}: cannot be written ({reason}); {self._committed} iterations are "
                "safe in it"
            )
            if isinstance(cause, KeyboardInterrupt):
                raise cause from error
            raise self._failure from error
        except BaseException:
            # Ctrl-C, say: what HDF5 was at halfway must not be committed.
            self._failure = LogWriteError(
                f"{self.path}: writing was interrupted; {self._committed} iterations are safe in it"
            )
            raise

    def _commit(self, spare: int = SPARE_BYTES) -> None:
        """Bring all that HDF5 was given to the disk."""
        self.file.flush()
        self._disk.commit(spare)
        if self.clock() - self._settled >= self.sync_every:
            self._disk.settle()
            self._settled = self.clock()

    def _describe(
        self,
        config: Config,
        shapes: Shapes,
        workers: int,
        transport: str,
        data_digest: str,
    ) -> None:
        """The attributes of the root, as long as the run goes on."""
        self._tables.describe(
            {
                "config": config.to_toml(),
                "seed": config.run.seed,
                "workers": workers,
                "active_workers": config.algorithm.active_workers,
                "max_delay": config.algorithm.max_delay,
                "positions": shapes.positions,
                "words": shapes.words,
                "classes": shapes.classes,
                "pool": shapes.pool,
                "transport": transport,
                "data_digest": data_digest,
                "status": "running",
                "logging_seconds": self._seconds,
                "starts": self._starts,
            }
        )

    def write(self, record: Record) -> None:
        """Take a record in; what has waited long enough, or is too much, goes to the file."""
        if isinstance(record, Event):
            self.waiting["event"].append(rows.event_row(record, self.samples))
            if record.kind is EventKind.HELLO:
                said = record.text, rows.cost_bounds_text(record.cost_bounds), record.model
                self._hellos[record.worker] = said
            return  # an iteration that it belongs to follows at once, or an idle moment
        started = self.clock()
        if isinstance(record, Evaluation):
            self._gather_evaluation(record)
        else:
            self._gather(record)
        self._seconds += self.clock() - started
        if len(self.waiting["iteration"]) >= self.batch:
            self.flush()
        else:
            self.flush_if_due()

    def write_all(self, records: Iterable[Record]) -> None:
        """Take several records in."""
        for record in records:
            self.write(record)

    def flush_if_due(self) -> None:
        """Write what has waited for `SECONDS_BETWEEN_BATCHES`; also for idle moments.

        Then events alone are written, too: their answers were paid for, and no iteration may
        come for long.
        """
        if any(self.waiting.values()) and self.clock() - self._written >= SECONDS_BETWEEN_BATCHES:
            self.flush()

    def _gather_evaluation(self, evaluation: Evaluation) -> None:
        row = self._tables.lengths["evaluation"] + len(self.waiting["evaluation"])
        self.waiting["evaluation"].append(rows.evaluation_row(evaluation))
        if evaluation.rows is not None:
            self.waiting["answer"].extend(
                rows.answer_rows(row, evaluation.rows, len(evaluation.bias))
            )

    def _gather(self, iteration: Iteration) -> None:
        keep = schema.kept(iteration.number, self.every)
        z_row = iteration.number + 1
        first_report = self._tables.lengths["report"] + len(self.waiting["report"])
        self.waiting["iteration"].append(rows.iteration_row(iteration, keep))
        self.waiting["report"].extend(
            rows.report_row(used, iteration.number, keep) for used in iteration.reports
        )
        if len(iteration.planes):
            self.waiting["dual"].append(rows.dual_block(iteration))
        if iteration.estimation is not None:
            self._gather_estimation(iteration.estimation)
        self._withheld = []
        if not keep:
            self._withheld.append(("iteration/z", z_row, iteration.z))
            self._withheld.append(("iteration/gradient", iteration.number, iteration.gradient))
            for row, used in enumerate(iteration.reports, first_report):
                self._withheld.append(("report/p", row, used.report.p))
                if used.report.q.size:  # else it stays with the worker
                    self._withheld.append(("report/q", row, used.report.q))

    def _gather_estimation(self, estimation: Estimation) -> None:
        self.waiting["lower"].append(rows.lower_row(estimation))
        self._drops.extend(
            (drop.identifier, drop.position, estimation.iteration) for drop in estimation.drops
        )
        if estimation.plane is not None:
            self.waiting["plane"].append(rows.plane_row(estimation.plane))

    def flush(self) -> None:
        """Write and commit everything that was taken in."""
        started = self.clock()
        with self._writing():
            gathered, self.waiting = self.waiting, {group: [] for group in self.waiting}
            self._tables.append(gathered)
            if self._drops:
                self._tables.enter_drops(self._drops)
                self._drops = []
            if self._hellos:
                self._tables.enter_hellos(self._hellos)
                self._hellos = {}
            self.file.flush()  # the counts come last, for those who read beside the run
            self._tables.count(self._seconds)
            self._commit()
        self._committed = self._tables.lengths["iteration"]
        self._written = self.clock()
        self._seconds += self._written - started

    def close(self, status: Literal["finished", "interrupted"]) -> None:
        """Write what waits, and the last iterates if log.iterates left them out; then close.

        After a `LogWriteError` the file is closed as it is, as interrupted. Once closed, it
        stays so: to close it again does nothing.
        """
        if self._closed:
            return
        try:
            if self._failure is None:
                self.flush()
                self._store_withheld()
        finally:
            self._let_go(status)

    def _store_withheld(self) -> None:
        with self._writing():
            self._tables.enter_iterates(self._withheld)
            self._commit()

    def _let_go(self, status: schema.Status) -> None:
        """Close the file; after a failure as it was committed last, and as interrupted."""
        self._closed = True
        try:
            if self._failure is None:
                with self._writing():
                    self._finish(status)
                return
            # The failure has been told, and the rows that are there count in any case.
            with contextlib.suppress(Exception):
                self.file.close()
            with contextlib.suppress(Exception):
                self._disk.recover()
                self.file = h5py.File(self._disk, "r+")
                self._finish("interrupted")
        finally:
            self._disk.close()
            self._lock.release()

    def _finish(self, status: schema.Status) -> None:
        self.file.attrs["status"] = status
        self.file.attrs.modify("logging_seconds", self._seconds)
        checksums.seal(self.file)
        self.file.close()
        self._disk.commit(spare=0)
        self._disk.cut()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close("finished" if error is None else "interrupted")


def _check_current(log: Log) -> None:
    """Raise a LogError if the log has grown since it was read."""
    with Log(log.path) as now:
        if (now.starts, now.committed_rows) != (log.starts, log.committed_rows):
            raise LogError(f"{log.path}: another process has written it just now; try again")

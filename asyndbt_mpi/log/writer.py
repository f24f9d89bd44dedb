"""Writes the log of a run, so that whatever ends the run leaves a file that can be read.

The file is in HDF5's default format, for the newer ones need repair after a kill. Rows are
gathered in memory and written in batches, each of which is committed as a whole or not at all (see
`journal`), even if a kill, a full disk, a quota or a limit on a file's size is in the way.

A file that was closed, or whose writer was killed, gets no more rows: a run that is continued
writes a new one, the log's next segment (see `chain`).
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

from asyndbt_mpi import __version__
from asyndbt_mpi.algorithm.types import FloatArray
from asyndbt_mpi.config import Config
from asyndbt_mpi.log import checksums, datasets, rows, schema
from asyndbt_mpi.log.batches import Batches
from asyndbt_mpi.log.datasets import CHUNK_BYTES
from asyndbt_mpi.log.errors import LogError, LogWriteError
from asyndbt_mpi.log.reader import BLOCK_BYTES, Log
from asyndbt_mpi.log.schema import Column, Transport
from asyndbt_mpi.log.storage.journal import (
    HDF5_ERRORS,
    SPARE_BYTES,
    JournaledFile,
    cause_of,
    finish,
)
from asyndbt_mpi.log.storage.lock import LogLock
from asyndbt_mpi.log.storage.publish import (
    check_free,
    check_next,
    check_replaceable,
    hidden,
    replace,
    settle,
)
from asyndbt_mpi.protocol.messages import Shapes
from asyndbt_mpi.protocol.records import Estimation, Evaluation, Event, EventKind, Iteration, Record

SECONDS_BETWEEN_BATCHES = 0.5
LARGEST_BATCH = 512
"""Iterations; fewer where their iterates would exceed `LARGEST_BATCH_BYTES`."""
LARGEST_BATCH_BYTES = 1 << 25


class Writer:
    """Log of one run, made anew at ``path``; its folder is made if need be.

    A continued run writes the log's next segment instead, from iteration ``continues.committed``
    on. Of the events and evaluations that it goes through again, it must not write the first
    ``continues.committed_rows`` of each: they count as they are.

    Parameters
    ----------
    shapes, workers : sizes M, N, U, V and R
    vocabulary : N words
    z0 : array (M, N), the consensus before the first iteration that is written
    clock : seconds; paces the batches
    continues : the log at ``path`` so far, if there is one to go on with; read here only
    counted : by group, how many of its rows count, where those behind them do not any more
    overwrite : replace the log that may be at ``path``, once the new one is whole
    data_digest : of the texts of the data, by which a resume notices that they changed

    Raises
    ------
    FileExistsError
        The file exists, and is not to be replaced.
    LogError
        Another process is writing the log, or what is to be continued cannot be read.
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
        continues: Log | None = None,
        counted: Mapping[str, int] | None = None,
        overwrite: bool = False,
        data_digest: str = "",
    ) -> None:
        self.data_digest = data_digest
        self.every = schema.period(config)
        self.samples = shapes.samples
        self.groups = schema.groups(config.algorithm.lower_distance)
        self.waiting: dict[str, list[rows.Row]] = {group: [] for group in self.groups}
        # The logical numbers of the file's first rows, and how many rows it has.
        self.first_rows = (
            continues.next_first_rows() if continues else dict.fromkeys(self.groups, 0)
        ) | dict(counted or {})
        self.lengths = dict.fromkeys(self.groups, 0)
        self.clock = clock
        iteration_bytes = 8 * (workers + 1) * shapes.positions * shapes.words
        self.batch = max(1, min(LARGEST_BATCH, LARGEST_BATCH_BYTES // iteration_bytes))
        # The newest iterates where log.iterates left them out: close() stores the last ones.
        self._withheld: list[tuple[str, int, FloatArray]] = []
        # What to enter into /plane/dropped: plane, position, iteration.
        self._drops: list[tuple[int, int, int]] = []
        # What a worker's last hello said: its description, its needs and its model.
        self._hellos: dict[int, tuple[str, str, str]] = {}

        self._committed = self.first_rows["iteration"]
        self._seconds = 0.0
        self._failure: LogWriteError | None = None
        self._closed = False

        self.path = Path(continues.next_segment if continues else path)
        self._lock = LogLock(Path(continues.path if continues else path))
        with contextlib.ExitStack() as undo:
            undo.callback(self._lock.release)
            if overwrite:
                check_replaceable(self.path)
                check_next(self.path)
            else:
                check_free(self.path, continues is not None)
            if continues:
                _check_current(continues)
                with self._writing():
                    finish(continues.files[-1].path)
            made = hidden(self.path)
            undo.callback(made.unlink, missing_ok=True)
            self._disk = JournaledFile(made, writable=True)
            self.file = h5py.File(self._disk, "w", rdcc_nbytes=2 * CHUNK_BYTES)
            undo.callback(self._let_go, "interrupted")
            self._lay_out(config, shapes, workers, vocabulary, transport, z0, continues)
            (replace if overwrite else settle)(made, self.path)
            undo.pop_all()
        self._written = clock()

    def _lay_out(
        self,
        config: Config,
        shapes: Shapes,
        workers: int,
        vocabulary: Sequence[str],
        transport: Transport,
        z0: FloatArray,
        continues: Log | None,
    ) -> None:
        """Everything that a log has before its first iteration."""
        descriptions = continues.descriptions if continues else [""] * workers
        needs = continues.needs if continues else [""] * workers
        models = continues.models if continues else [""] * workers
        texts = vocabulary, descriptions, needs, models
        with self._writing():
            datasets.create_texts(self.file, shapes, workers, *texts)
            self.datasets = {
                column.path: datasets.create(self.file, column, config, shapes, workers)
                for columns in self.groups.values()
                for column in columns
            }
            self._batches = Batches(self.file, self.groups)
            self._append(self.groups["iteration"][0], 0, [z0])
            if continues:
                self._take_over_planes(continues)
            self._batches.end(self.lengths)
            segment = continues.segments if continues else 0
            self._describe_run(config, shapes, workers, transport, segment)
            checksums.seal(self.file)
            self._sealed = checksums.parts(self.file)
            self._commit()

    def _take_over_planes(self, before: Log) -> None:
        """Copy the planes that may still be dropped."""
        columns, start = self.groups["plane"], self.first_rows["plane"]
        end = before.count("plane")
        of_row = [self.datasets[column.path] for column in columns]
        row_bytes = sum(each.dtype.itemsize * math.prod(each.shape[1:]) for each in of_row)
        step = max(1, BLOCK_BYTES // row_bytes)
        for first in range(start, end, step):
            last = min(first + step, end)
            for column in columns:
                rows_taken = list(before.rows(column.path, first, last))
                self._append(column, first - start, rows_taken)
            self._commit()  # all at once may be more than fits into memory
        self.lengths["plane"] = end - start

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

    def _describe_run(
        self, config: Config, shapes: Shapes, workers: int, transport: Transport, segment: int
    ) -> None:
        self.file.attrs.update(
            {
                "format": schema.FORMAT,
                "format_version": schema.FORMAT_VERSION,
                "package_version": __version__,
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
                "data_digest": self.data_digest,
                "status": "running",
                "logging_seconds": 0.0,
                "segment": segment,
                "segments": 1,
                "first_rows": schema.rows_by_group(self.first_rows),
                "committed_rows": schema.rows_by_group(self.lengths),
                "committed": np.int64(0),
            }
        )

    def write(self, record: Record) -> None:
        """Take a record in; what has waited long enough, or is too much, goes to the file."""
        if isinstance(record, Event):
            self.waiting["event"].append(rows.event_row(record, self.samples))
            if record.kind is EventKind.HELLO:
                said = record.text, rows.needs_text(record.needs), record.model
                self._hellos[record.worker] = said
            return  # an iteration that it belongs to follows at once, or an idle moment
        started = self.clock()
        if isinstance(record, Evaluation):
            self.waiting["evaluation"].append(rows.evaluation_row(record))
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

    def _gather(self, iteration: Iteration) -> None:
        keep = schema.kept(iteration.number, self.every)
        z_row = iteration.number - self.first_rows["iteration"] + 1
        first_report = self.lengths["report"] + len(self.waiting["report"])
        self.waiting["iteration"].append(rows.iteration_row(iteration, keep))
        self.waiting["report"].extend(
            rows.report_row(used, iteration.number, keep) for used in iteration.reports
        )
        self.waiting["dual"].extend(rows.dual_rows(iteration))
        if iteration.estimation is not None:
            self._gather_estimation(iteration.estimation)
        self._withheld = []
        if not keep:
            self._withheld.append(("iteration/z", z_row, iteration.z))
            for row, used in enumerate(iteration.reports, first_report):
                self._withheld.append(("report/p", row, used.report.p))
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
        new = False
        with self._writing():
            for group, columns in self.groups.items():
                gathered, self.waiting[group] = self.waiting[group], []
                if gathered:
                    self._append_rows(group, columns, gathered)
                    new = True
            if new:
                self._batches.end(self.lengths)
            if self._drops:
                self._enter_drops()
            if self._hellos:
                self._enter_hellos()
            self.file.flush()  # the counts come last, for those who read beside the run
            self._set("committed_rows", schema.rows_by_group(self.lengths))
            self._set("logging_seconds", self._seconds)
            self._set("committed", np.int64(self.lengths["iteration"]))
            self.file.attrs.modify(checksums.SEAL, checksums.of_parts(self._sealed))
            self._commit()
        self._committed = self.first_rows["iteration"] + self.lengths["iteration"]
        self._written = self.clock()
        self._seconds += self._written - started

    def _append_rows(
        self, group: str, columns: tuple[Column, ...], gathered: list[rows.Row]
    ) -> None:
        for column, values in zip(columns, zip(*gathered, strict=True), strict=True):
            start = self.lengths[group] + (column.path == "iteration/z")  # its row 0: the start
            self._append(column, start, values)
        self.lengths[group] += len(gathered)

    def _append(self, column: Column, start: int, values: Sequence[object]) -> None:
        some = column.dtype == schema.TEXT or (column.iterate and self.every > 1)
        append = datasets.append_some if some else datasets.append
        before = self._batches.checksums[column.path]
        self._batches.checksums[column.path] = append(
            self.datasets[column.path], column, start, values, before
        )

    def _set(self, name: str, value: object) -> None:
        """Change an attribute of the root, which is sealed again later."""
        self.file.attrs.modify(name, value)
        self._sealed[name] = checksums.of_attribute(value)

    def _enter_drops(self) -> None:
        """Bring /plane/dropped up to date, from the oldest plane that is concerned."""
        planes, positions, iterations = np.array(self._drops).T
        self._drops = []
        planes -= self.first_rows["plane"]
        first = int(planes.min())
        dropped = self.datasets["plane/dropped"][first:]
        dropped[planes - first, positions] = iterations
        self.datasets["plane/dropped"][first:] = dropped
        self._batches.renew("plane/dropped", first)

    def _enter_hellos(self) -> None:
        """Keep what workers say of themselves."""
        for column, name in enumerate(("worker/description", "worker/needs", "worker/model")):
            texts = self.file[name].asstr()[:]
            for worker, said in self._hellos.items():
                texts[worker - 1] = said[column]
            self.file[name][:] = texts
            self._sealed[name] = checksums.of_some(Column(name, "R", schema.TEXT), list(texts))
        self._hellos = {}

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
            for path, row, iterate in self._withheld:
                self.datasets[path][row] = iterate
            for path in dict.fromkeys(path for path, _, _ in self._withheld):
                first = min(row for each, row, _ in self._withheld if each == path)
                self._batches.renew(path, first)
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
        if (now.next_segment, now.committed_rows) != (log.next_segment, log.committed_rows):
            raise LogError(f"{log.path}: another process has written it just now; try again")

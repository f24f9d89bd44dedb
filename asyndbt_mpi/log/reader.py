"""Reads a log: what of its file counts, by name."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Self

import h5py
import numpy as np

from asyndbt_mpi.log import schema
from asyndbt_mpi.log.errors import LogError
from asyndbt_mpi.log.file import LogFile
from asyndbt_mpi.log.text import printable
from asyndbt_mpi.protocol.messages import Candidate, Split

__all__ = ["Best", "Candidate", "Log", "LogError", "Split", "Stationarity", "printable"]

BLOCK_BYTES = 1 << 25


@dataclass(frozen=True, slots=True)
class Stationarity:
    """What `asyndbt stationarity` has added to a log: squared norms of the parts of the gradient.

    Row n of p, q, z and lam (Q,) is of the state after iteration ``iteration[n]`` (Q,).
    ``kind`` is "exact" or "estimated"; an estimate may be below 0.
    """

    kind: str
    iteration: np.ndarray
    p: np.ndarray
    q: np.ndarray
    z: np.ndarray
    lam: np.ndarray

    @property
    def squared_norm(self) -> np.ndarray:
        """||grad G^t||^2, all parts together; (Q,)."""
        total: np.ndarray = self.p + self.q + self.z + self.lam
        return total


@dataclass(frozen=True, slots=True)
class Best:
    """A worker's prompt with the least loss on its validation rows or in its race, and when.

    words (M,) and demonstrations (U,) are indices, -1 for none.
    """

    candidate: Candidate
    iteration: int
    loss: float
    words: np.ndarray
    demonstrations: np.ndarray


class Log:
    """A log as it stood when it was opened.

    ``log["report/p"]`` is a dataset as an array, without the rows that do not count: those of
    iterations that were not committed. `keys` lists the datasets; ``"report/p" in log`` and
    ``for path in log`` work as for a dictionary. Names and shapes are those of `schema`.

    Attributes
    ----------
    committed : how many iterations count
    committed_rows : by group, how many rows are in the log; of events and evaluations they are
        what a run that is resumed replays
    status : "running", "finished" or "interrupted"
    starts : how often the run was started, the first time included
    kept_rows : by group, how many rows there were when it was started last
    file : what it is read from
    config : Config, as resolved by the run when it was started last
    shapes : Shapes, the sizes M, N, U and V
    workers : R
    active_workers : S
    max_delay : tau
    seed : of all random draws
    transport : "mpi", "virtual" or "replay"
    package_version : what wrote it
    data_digest : of the texts of the data; "" if the writer was not told
    logging_seconds : what writing the log took rank 0, of the wall clock
    every : p, q and z are there for every so-manieth iteration; the others read as NaN

    Raises
    ------
    LogError
        On opening: no such file, not HDF5, no asyndbt log, or of another format version. On
        reading: the dataset is missing or damaged, or the run was resumed in the meantime and
        some of the rows count no more.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.file = file = LogFile(self.path)
        self.committed, self.committed_rows = file.committed, file.committed_rows
        self.starts, self.kept_rows = file.starts, file.kept_rows
        self.status = file.status
        self.workers, self.active_workers = file.workers, file.active_workers
        self.max_delay, self.seed = file.max_delay, file.seed
        self.transport, self.package_version = file.transport, file.package_version
        self.data_digest = file.data_digest
        self.logging_seconds = file.logging_seconds
        self.config, self.shapes = file.config, file.shapes
        self.every = schema.period(self.config)
        self.groups = schema.groups(self.config.algorithm.lower_distance)
        self._counts: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self.file.close()

    def __repr__(self) -> str:
        name, workers = self.config.run.name, self.workers
        what = f"{name!r}, {self.status}, {self.committed} iterations of {workers} workers"
        return f"<Log {self.path!r}: {what}>"

    def keys(self) -> list[str]:
        """The paths that ``log[path]`` knows, such as "iteration/z"; those of `schema`."""
        columns = [column for group in self.groups.values() for column in group]
        columns += schema.fixed()
        if self.stationarity is not None:
            columns += schema.stationarity()
        return [column.path for column in columns]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def __contains__(self, path: object) -> bool:
        return path in self.keys()

    def __getitem__(self, path: str) -> np.ndarray:
        """The dataset ``path``, cut to the rows that count; text as an array of str."""
        rows = self.rows(path)
        if path.startswith("evaluation/"):
            rows = rows[self.rows("evaluation/iteration") <= self.committed]
        return rows

    @cached_property
    def vocabulary(self) -> list[str]:
        """The N words."""
        return list(self.rows("vocabulary"))

    @cached_property
    def descriptions(self) -> list[str]:
        """What the R workers said of themselves."""
        return list(self.rows("worker/description"))

    @cached_property
    def cost_bounds(self) -> list[str]:
        """What answers of each of the R workers can cost at most; see `rows.cost_bounds_text`."""
        return list(self.rows("worker/cost_bounds"))

    @cached_property
    def models(self) -> list[str]:
        """Digests of the language models of the R workers, "" where not known."""
        return list(self.rows("worker/model"))

    @cached_property
    def best(self) -> dict[int, Best]:
        """By worker, the best that it has found so far; none without run.evaluate_every."""
        columns = ("split", "candidate", "worker", "iteration", "loss", "words", "demonstrations")
        split, candidate, workers, *values = (self[f"evaluation/{name}"] for name in columns)
        own = (split == Split.VALIDATION) & (candidate == Candidate.TUNED) & (workers > 0)
        best: dict[int, Best] = {}
        for row in np.flatnonzero(own).tolist():
            worker = int(workers[row])
            iteration, loss, words, demonstrations = (column[row] for column in values)
            if worker not in best or loss < best[worker].loss:
                prompt = words, demonstrations
                best[worker] = Best(Candidate.TUNED, int(iteration), float(loss), *prompt)
        return best

    @cached_property
    def winners(self) -> dict[int, Best]:
        """By worker, what won its race, with the least loss of those scored on the most rows."""
        columns = ("iteration", "split", "worker", "candidate", "loss", "words", "demonstrations")
        iteration, split, workers, candidates, losses, words, shown = (
            self[f"evaluation/{name}"] for name in columns
        )
        # By searching, not by counting: a damaged log may name any row.
        first = np.searchsorted(self.answered, self._evaluations, "left")
        rows = np.searchsorted(self.answered, self._evaluations, "right") - first
        raced = (split == Split.RACE) & (iteration == self.committed)
        found = {}
        for worker in sorted(set(workers[raced].tolist())):
            of_worker = np.flatnonzero(raced & (workers == worker))
            last = of_worker[rows[of_worker] == rows[of_worker].max()]
            best = last[losses[last].argmin()]
            candidate, loss = Candidate(int(candidates[best])), float(losses[best])
            found[worker] = Best(candidate, self.committed, loss, words[best], shown[best])
        return found

    def answers(self, evaluation_row: int) -> tuple[np.ndarray, np.ndarray]:
        """The right labels (B,) and log-probabilities (B, U) behind a row of ``evaluation/...``.

        There are none (B = 0) but of workers' prompts on the test rows, and none of a function.
        """
        of_row = int(self._evaluations[evaluation_row])
        bounds = np.searchsorted(self.answered, (of_row, of_row + 1)).tolist()
        label, log_probabilities = (
            self.rows(f"answer/{name}", *bounds) for name in ("label", "log_probabilities")
        )
        of_test = label >= 0
        return label[of_test], log_probabilities[of_test]

    @cached_property
    def _evaluations(self) -> np.ndarray:
        """The rows of /evaluation that count."""
        return np.flatnonzero(self.rows("evaluation/iteration") <= self.committed)

    @cached_property
    def answered(self) -> np.ndarray:
        """The row of /evaluation that each row of /answer belongs to, in order."""
        return self.rows("answer/evaluation")

    @cached_property
    def stationarity(self) -> Stationarity | None:
        """How far from stationary the iterates are; None if nobody has worked it out."""

        def kind(file: h5py.File) -> str | None:
            group = file.get("stationarity")
            return None if group is None else str(group.attrs.get("kind"))

        found = self.file.attempt(kind)
        if found is None:
            return None
        if found not in schema.STATIONARITY_KINDS:
            raise self.file.error(f"/stationarity is of kind {found!r}")
        names = ("iteration", *schema.STATIONARITY)
        paths = [f"stationarity/{name}" for name in names]
        columns = [self.file.rows(path, 0, self.length(path)) for path in paths]
        if len({len(column) for column in columns}) > 1:
            raise self.file.error("the columns of /stationarity have different lengths")
        return Stationarity(found, *columns)

    def check_public(self, why: str) -> None:
        """Refuse a log without q, losses of samples and demonstrations; ``why`` they are needed.

        Raises
        ------
        LogError
            They stayed with the workers, with `log.private`.
        """
        if self.config.log.private:
            raise self.file.error(
                f"{why}, but q, losses of samples and demonstrations are with the workers alone"
                " (log.private = true)"
            )

    def rows(self, path: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows ``start`` to ``stop`` of those of ``path`` that count.

        Of /evaluation, whose rows are in no order, that is every row; `__getitem__` knows which
        of them count. Those are the rows that answer/evaluation names.
        """
        count = self.count(path)
        stop = count if stop is None else min(stop, count)
        rows = self.file.rows(path, start, max(start, stop))
        if path == "plane/dropped":
            rows[rows >= self.committed] = -1  # dropped by an iteration that does not count
        return rows

    def blocks(self, path: str) -> Iterator[tuple[int, np.ndarray]]:
        """``rows`` in blocks of bounded size, each with the number of its first row."""
        dtype, row = self.type_and_row(path)
        row_bytes = max(1, dtype.itemsize * math.prod(row))
        step = max(1, BLOCK_BYTES // row_bytes)
        for start in range(0, self.count(path), step):
            yield start, self.rows(path, start, start + step)

    def count(self, path: str) -> int:
        """How many rows `rows` has to offer."""
        group = path.partition("/")[0]
        if group == "iteration":
            return self.committed + (path == "iteration/z")
        if group not in self.groups:
            return self.length(path)
        if group not in self._counts:
            count = self.committed_rows[group]
            if group in schema.KEY:
                created = self.file.rows(schema.KEY[group], 0, count)
                count = int(np.searchsorted(created, self.committed))
            self._counts[group] = count
        return self._counts[group]

    def length(self, path: str) -> int:
        """How many rows ``path`` has in the file, whether they count or not."""
        return self.file.length(path)

    def type_and_row(self, path: str) -> tuple[np.dtype, tuple[int, ...]]:
        """Type of the dataset ``path`` and shape of one of its rows."""
        return self.file.type_and_row(path)

"""The datasets of a log: the one table that writer, reader and verification share.

Rows are extendible. Iterations are numbered from 0: row t of a dataset of /iteration belongs to
iteration t, except that /iteration/z has the start as row 0 and z after iteration t as row
t + 1. Workers are 1..R; a column of an array over workers is the worker's number less 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import h5py
import numpy as np

from asyndbt_mpi.algorithm.lower_level import Distance
from asyndbt_mpi.algorithm.types import IntArray
from asyndbt_mpi.config import Config
from asyndbt_mpi.protocol.messages import Candidate, Shapes, Split
from asyndbt_mpi.protocol.records import EventKind

FORMAT = "asyndbt"
FORMAT_VERSION = 5

Transport = Literal["mpi", "virtual", "replay"]
Status = Literal["running", "finished", "interrupted"]


def _names(kinds: type[IntEnum]) -> np.dtype:
    """Type of a column of codes that viewers show by name."""
    dtype: np.dtype = h5py.enum_dtype({kind.name.lower(): kind.value for kind in kinds}, "i1")
    return dtype


INTEGER = np.dtype("i8")
REAL = np.dtype("f8")
BOOL = np.dtype("bool")
TEXT: np.dtype = h5py.string_dtype()
EVENT_KIND = _names(EventKind)
SPLIT = _names(Split)
CANDIDATE = _names(Candidate)


@dataclass(frozen=True, slots=True)
class Column:
    """One dataset; ``axes`` spells the shape of its row in the letters R, M, N, U, V and I.

    A row that was left out reads as ``fill``. ``iterate`` marks p, q, z and the gradient of z,
    which log.iterates and log.compression are about.
    """

    path: str
    axes: str
    dtype: np.dtype
    fill: float = 0
    iterate: bool = False

    def row_shape(self, shapes: Shapes, workers: int) -> tuple[int, ...]:
        """Shape of one row in a run of these sizes."""
        sizes = {
            "R": workers,
            "M": shapes.positions,
            "N": shapes.words,
            "U": shapes.classes,
            "V": shapes.pool,
            "I": shapes.samples,
        }
        return tuple(sizes[axis] for axis in self.axes)


def _iterate(path: str, axes: str) -> Column:
    return Column(path, axes, REAL, fill=float("nan"), iterate=True)


def groups(distance: Distance) -> dict[str, tuple[Column, ...]]:
    """The columns of every group whose rows grow during a run.

    The order is that of the rows in `rows`. Under the l1 ``distance`` planes are signs, which
    fit into a byte.
    """
    coefficient = np.dtype("i1") if distance == "l1" else REAL
    return {
        "iteration": (
            _iterate("iteration/z", "MN"),
            _iterate("iteration/gradient", "MN"),
            Column("iteration/active", "R", BOOL),
            Column("iteration/delay", "R", np.dtype("i4")),
            Column("iteration/time", "", REAL),
            Column("iteration/objective", "", REAL),
        ),
        "report": (
            Column("report/worker", "", INTEGER),
            Column("report/seq", "", INTEGER),
            Column("report/iteration", "", INTEGER),
            Column("report/read_iteration", "", INTEGER),
            _iterate("report/p", "MN"),
            _iterate("report/q", "UV"),
            Column("report/loss", "", REAL),
            Column("report/grad_p_norm", "", REAL),
            Column("report/grad_q_norm", "", REAL),
            Column("report/prompts", "", INTEGER),
            Column("report/llm_calls", "", INTEGER),
            Column("report/prompt_tokens", "", INTEGER),
            Column("report/compute_seconds", "", REAL),
            Column("report/sent_time", "", REAL),
            Column("report/used_time", "", REAL),
        ),
        "plane": (
            Column("plane/id", "", INTEGER),
            Column("plane/created", "", INTEGER),
            Column("plane/positions", "M", BOOL),
            Column("plane/a", "RMN", coefficient),
            Column("plane/b", "MN", REAL),
            Column("plane/c", "M", REAL),
            Column("plane/dropped", "M", INTEGER, fill=-1),
        ),
        "dual": (
            Column("dual/iteration", "", INTEGER),
            Column("dual/plane", "", INTEGER),
            Column("dual/value", "M", REAL),
        ),
        "lower": (
            Column("lower/iteration", "", INTEGER),
            Column("lower/k", "RU", INTEGER),
            Column("lower/phi_p", "RMN", REAL),
            Column("lower/phi_z", "MN", REAL),
            Column("lower/h", "M", REAL),
            Column("lower/llm_calls", "", INTEGER),
            Column("lower/prompt_tokens", "", INTEGER),
        ),
        "evaluation": (
            Column("evaluation/iteration", "", INTEGER),
            Column("evaluation/worker", "", INTEGER),
            Column("evaluation/split", "", SPLIT),
            Column("evaluation/candidate", "", CANDIDATE),
            Column("evaluation/accuracy", "", REAL),
            Column("evaluation/loss", "", REAL),
            Column("evaluation/words", "M", INTEGER),
            Column("evaluation/demonstrations", "U", INTEGER),
            Column("evaluation/llm_calls", "", INTEGER),
            Column("evaluation/prompt_tokens", "", INTEGER),
            Column("evaluation/time", "", REAL),
            Column("evaluation/bias", "U", REAL),
        ),
        "answer": (
            Column("answer/evaluation", "", INTEGER),
            Column("answer/row", "", INTEGER),
            Column("answer/loss", "", REAL),
            Column("answer/label", "", INTEGER),
            Column("answer/log_probabilities", "U", REAL),
        ),
        "event": (
            Column("event/kind", "", EVENT_KIND),
            Column("event/worker", "", INTEGER),
            Column("event/number", "", INTEGER),
            Column("event/iteration", "", INTEGER),
            Column("event/time", "", REAL),
            Column("event/compute_seconds", "", REAL),
            Column("event/sent_time", "", REAL),
            Column("event/prompts", "", INTEGER),
            Column("event/llm_calls", "", INTEGER),
            Column("event/prompt_tokens", "", INTEGER),
            Column("event/completion_tokens", "", INTEGER),
            Column("event/unrecognised", "", INTEGER),
            Column("event/losses", "I", REAL),
            Column("event/accuracy", "", REAL),
            Column("event/text", "", TEXT),
        ),
    }


ROWS_BY_GROUP = np.dtype([(group, "i8") for group in groups("l1")])
"""Type of the root attributes ``committed_rows``, how many rows of each group are in the file, and
``kept_rows``, how many of them there were when the run was started last."""


def rows_by_group(rows: Mapping[str, int]) -> np.ndarray:
    """``rows`` of every group as such an attribute."""
    return np.array(tuple(rows[group] for group in ROWS_BY_GROUP.names or ()), dtype=ROWS_BY_GROUP)


FIXED = {
    "vocabulary": "N",
    "worker/description": "R",
    "worker/cost_bounds": "R",
    "worker/model": "R",
}
"""Columns of text that have their full length, spelt like a row's shape, from the start."""


def fixed() -> list[Column]:
    """The columns of `FIXED`; their axes spell their length."""
    return [Column(path, axes, TEXT) for path, axes in FIXED.items()]


CHECKSUMS = np.dtype([(column.path, "u4") for each in groups("l1").values() for column in each])
"""Type of a row of /batch/checksum: one for each column."""


def batch() -> dict[str, np.dtype]:
    """The datasets of /batch, which has a row for every batch that was committed.

    The rows that each group of the file has after it, and CRC-32 of each column's rows in it.
    """
    return {"batch/rows": ROWS_BY_GROUP, "batch/checksum": CHECKSUMS}


def bounds(column: Column, ends: Sequence[int] | np.ndarray) -> IntArray:
    """Where batches begin and end in ``column``, if their group has rows up to each of ``ends``.

    array (B+1,); the start in /iteration/z belongs to the first batch.
    """
    bounds: IntArray = np.append(0, np.asarray(ends, dtype=np.int64))
    bounds[1:] += column.path == "iteration/z"
    return bounds


STATIONARITY = ("p", "q", "z", "lam")
"""Parts of /stationarity, which is added to a log after its run, beside the column iteration."""

STATIONARITY_KINDS = ("exact", "estimated")
STATIONARITY_ATTRIBUTES = {"kind": "text", "checksum": "number"}


def stationarity() -> list[Column]:
    """The columns of /stationarity."""
    return [
        Column("stationarity/iteration", "", INTEGER),
        *(Column(f"stationarity/{name}", "", REAL) for name in STATIONARITY),
    ]


ATTRIBUTES = {
    **dict.fromkeys(("format", "package_version", "config", "transport", "status"), "text"),
    "data_digest": "text",
    **dict.fromkeys(("format_version", "seed", "workers", "active_workers", "max_delay"), "number"),
    **dict.fromkeys(("positions", "words", "classes", "pool", "logging_seconds"), "number"),
    **dict.fromkeys(("starts", "committed", "checksum"), "number"),
    **dict.fromkeys(("committed_rows", "kept_rows"), "record"),
}
"""The attributes of the root that a log can have, each a single text or number or, as a record, a
number for each group."""

KEY = {
    "report": "report/iteration",
    "plane": "plane/created",
    "dual": "dual/iteration",
    "lower": "lower/iteration",
}
"""The column, never decreasing, that tells which iteration a row of the group belongs to."""


def period(config: Config) -> int:
    """Every how-manieth iteration leaves its p, q and z in the log; 1 for all."""
    iterates = config.log.iterates
    return 1 if iterates == "all" else iterates


def kept(iteration: int, every: int) -> bool:
    """Whether the iterates of ``iteration`` are due in a log of period ``every``."""
    return (iteration + 1) % every == 0

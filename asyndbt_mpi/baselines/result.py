"""What a method achieved on one task under one seed, as one JSON file without texts of rows."""

import os
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from asyndbt_mpi.algorithm.types import FloatArray, IntArray
from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.inputs.files import read_file, shown

MOST_BYTES = 2**26

Amount = Annotated[float, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Costs(_Part):
    """Of all workers together; `trial.Spent` says how they are counted."""

    calls: Annotated[int, Field(ge=0)]
    prompt_tokens: Annotated[int, Field(ge=0)]
    completion_tokens: Annotated[int, Field(ge=0)]
    seconds: Amount


class Result(_Part):
    """A finished method.

    ``calls`` is what it was given for tuning, ``encoder`` is as on the command line, ``texts`` the
    digest of the public texts ("": those that ship). ``labels`` (B,) are the right ones of the test
    rows; ``log_probabilities`` are by worker, (B, U). ``details`` is what the method tells of
    itself.
    """

    format: Literal["asyndbt baseline 2"] = "asyndbt baseline 2"
    method: str
    calls: int
    encoder: str
    texts: str
    config: str
    workers: int
    seed: int
    task: str
    data_digest: str
    model: str
    model_digest: str
    versions: dict[str, str]
    tuning: Costs
    tests: Costs
    labels: list[int]
    log_probabilities: dict[str, list[list[float]]]
    details: dict[str, object]

    @model_validator(mode="after")
    def _fits_together(self) -> "Result":
        for worker, rows in self.log_probabilities.items():
            if len(rows) != len(self.labels):
                raise ValueError(f"worker {worker} has {len(rows)} rows of {len(self.labels)}")
            if len({len(row) for row in rows}) > 1:
                raise ValueError(f"rows of worker {worker} have different numbers of labels")
        if not self.log_probabilities:
            raise ValueError("has the predictions of no worker")
        return self

    def scores(self) -> dict[int, tuple[IntArray, FloatArray]]:
        """By worker: the right labels (B,), and the log-probabilities of all (B, U)."""
        labels = np.array(self.labels, dtype=np.int64)
        return {
            int(worker): (labels, np.array(rows)) for worker, rows in self.log_probabilities.items()
        }

    def write(self, path: Path) -> None:
        """As a whole or not at all.

        Raises
        ------
        OSError
            It cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
        unfinished.replace(path)


def read(path: Path) -> Result:
    """The result in the file ``path``.

    Raises
    ------
    ConfigurationError
        It cannot be read, or is none.
    """
    try:
        return Result.model_validate_json(read_file(path, MOST_BYTES))
    except OSError as error:
        raise ConfigurationError(f"cannot read {shown(str(path))}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigurationError(
            f"{path}: is no result of `asyndbt baseline`: {where}: {first['msg']}"
        ) from error
    except ValueError as error:
        raise ConfigurationError(f"cannot read {shown(str(path))}: {error}") from error

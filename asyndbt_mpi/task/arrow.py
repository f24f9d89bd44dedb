"""Parquet and the library `datasets`, which are optional: see `INSTALL`."""

import importlib
import io
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asyndbt_mpi.config import ConfigurationError
from asyndbt_mpi.inputs.hub import unreachable

INSTALL = 'pip install "asyndbt_mpi[data]"'

HUB = "hf:"
"""Prefix of a data set of the Hugging Face hub."""

LONGEST_ERROR = 200
"""Characters shown of another library's error."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of all columns, rows with the cells of some, and the names of class numbers."""

    names: list[str]
    rows: list[dict[str, Any]]
    class_names: dict[str, list[str]]


def parquet(content: bytes, name: str, wanted: Collection[str] | None) -> Columns:
    """The content of a Parquet file; None wants all columns of texts and numbers.

    Raises
    ------
    ConfigurationError
        pyarrow is missing, or the content is malformed.
    """
    pyarrow = _library("pyarrow", f"{name}: Parquet")
    reader = _library("pyarrow.parquet", f"{name}: Parquet")
    try:
        file = reader.ParquetFile(io.BytesIO(content))
        schema = file.schema_arrow
        chosen = [
            field.name
            for field in schema
            if (_is_plain(pyarrow, field.type) if wanted is None else field.name in wanted)
        ]
        rows = file.read(columns=chosen).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigurationError(f"{name}: is not a valid Parquet file") from error
    return Columns(schema.names, rows, dict(_named(schema.metadata or {})))


def _is_plain(pyarrow: Any, kind: Any) -> bool:
    types = pyarrow.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    return any(
        is_kind(kind) for is_kind in (types.is_string, types.is_large_string, types.is_integer)
    )


def _named(metadata: dict[bytes, bytes]) -> Iterator[tuple[str, list[str]]]:
    """Names of class numbers, as `datasets` writes them into a Parquet file."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        for column, feature in features.items():
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
                yield column, list(map(str, feature["names"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        return


def is_saved(folder: Path) -> bool:
    """Whether `datasets` saved a data set in this folder."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def saved(folder: Path, wanted: Collection[str] | None) -> dict[str, Columns]:
    """The splits of a data set that `datasets` saved; the only one is "train".

    Raises
    ------
    ConfigurationError
        The library is missing, or cannot load it.
    """
    library = _library("datasets", f"task.path = {str(folder)!r}: a saved data set")
    return _splits(str(folder), wanted, lambda: library.load_from_disk(str(folder)))


def from_hub(path: str, wanted: Collection[str] | None) -> dict[str, Columns]:
    """The splits of a data set of the hub: ``hf:OWNER/NAME`` or ``hf:OWNER/NAME/CONFIG``.

    Raises
    ------
    ConfigurationError
        The library is missing, or the hub cannot be reached within seconds, or has no such data
        set.
    """
    library = _library("datasets", f"task.path = {path!r}: a data set of the hub")
    owner, _, rest = path.removeprefix(HUB).partition("/")
    name, _, config = rest.partition("/")
    if not (owner and name):
        raise ConfigurationError(
            f"task.path = {path!r}: a data set of the hub is written {HUB}OWNER/NAME, or"
            f" {HUB}OWNER/NAME/CONFIG"
        )
    _check_reachable(path)
    return _splits(path, wanted, lambda: library.load_dataset(f"{owner}/{name}", config or None))


def _check_reachable(path: str) -> None:
    """Refuse at once where the library would try for minutes."""
    if why := unreachable():
        raise ConfigurationError(
            f"task.path = {path!r}: {why}; where it can, save the data set with datasets'"
            " save_to_disk, and give the folder"
        )


def _splits(path: str, wanted: Collection[str] | None, load: Any) -> dict[str, Columns]:
    library = importlib.import_module("datasets")
    library.disable_progress_bars()
    try:
        found = load()
    except Exception as error:  # of any of several libraries
        said = " ".join(str(error).split())[:LONGEST_ERROR]
        raise ConfigurationError(f"task.path = {path!r}: cannot be loaded: {said}") from error
    splits = found if isinstance(found, dict) else {"train": found}
    return {name: _columns(split, wanted) for name, split in splits.items()}


def _columns(split: Any, wanted: Collection[str] | None) -> Columns:
    features = split.features
    chosen = [
        name
        for name in features
        if (_is_cell(features[name]) if wanted is None else name in wanted)
    ]
    return Columns(
        list(features),
        split.select_columns(chosen).to_list(),
        {
            name: list(feature.names)
            for name, feature in features.items()
            if type(feature).__name__ == "ClassLabel"
        },
    )


def _is_cell(feature: Any) -> bool:
    """Whether it holds texts or whole numbers, as opposed to pictures or lists."""
    kind = str(getattr(feature, "dtype", ""))
    return kind in ("string", "large_string") or kind.startswith(("int", "uint"))


def _library(name: str, what: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigurationError(
            f"{what} needs {name.partition('.')[0]}, which is not installed: {INSTALL}"
        ) from error

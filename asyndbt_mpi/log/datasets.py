"""The datasets of a log's file: making them, in chunks that suit the run, and adding rows."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import h5py
import numpy as np

from asyndbt_mpi.config import Config
from asyndbt_mpi.log import checksums, schema
from asyndbt_mpi.log.schema import Column
from asyndbt_mpi.protocol.messages import Shapes

Values: TypeAlias = Sequence[Any] | np.ndarray
"""Of a column, one for each row."""

CHUNK_BYTES = 1 << 18
LONGEST_CHUNK = 512


def create(file: h5py.File, column: Column, config: Config, shapes: Shapes, workers: int) -> None:
    """The empty dataset of ``column``."""
    row = column.row_shape(shapes, workers)
    fitting = CHUNK_BYTES // (column.dtype.itemsize * int(np.prod(row)))
    chunk = max(1, min(fitting, LONGEST_CHUNK, config.run.iterations))
    if column.iterate and schema.period(config) > 1:
        chunk = 1  # so that rows left out take no room
    compression: dict[str, object] = {}
    if column.iterate and config.log.compression != "none":
        compression = {"compression": config.log.compression, "shuffle": True}
        if config.log.compression == "gzip":
            compression["compression_opts"] = 1  # more costs time and saves next to nothing
    file.create_dataset(
        column.path,
        (0, *row),
        column.dtype,
        maxshape=(None, *row),
        chunks=(chunk, *row),
        fillvalue=None if column.dtype == schema.TEXT else column.fill,
        **compression,
    )


def create_texts(
    file: h5py.File,
    shapes: Shapes,
    workers: int,
    vocabulary: Sequence[str],
    descriptions: Sequence[str],
    cost_bounds: Sequence[str],
    models: Sequence[str],
) -> None:
    """The columns of `schema.FIXED`: the N words, and what the R workers say of themselves."""
    columns = vocabulary, descriptions, cost_bounds, models
    for (path, axes), texts in zip(schema.FIXED.items(), columns, strict=True):
        length = Column(path, axes, schema.TEXT).row_shape(shapes, workers)
        dataset = file.create_dataset(path, length, schema.TEXT, maxshape=(None,))
        dataset[:] = list(texts)


def append(
    dataset: h5py.Dataset,
    column: Column,
    start: int,
    values: Values,
    checksum: int = 0,
) -> int:
    """Write one row for each of ``values`` from row ``start``, which is the dataset's end.

    The ``checksum`` is that of the rows before in their batch; that with these is returned.

    h5py's low-level calls: with batches this small, its indexing would cost more than HDF5.
    """
    row = dataset.shape[1:]
    if isinstance(values, np.ndarray):
        block = np.ascontiguousarray(values, column.dtype)
    elif row:
        # Of many small arrays this takes a fraction of what np.array takes.
        arrays = [np.asarray(value) for value in values]
        block = np.concatenate(arrays, dtype=column.dtype).reshape(len(values), *row)
    else:
        block = np.array(values, dtype=column.dtype)
    end = (start + len(values), *row)
    dataset.id.set_extent(end)
    space = h5py.h5s.create_simple(end)
    space.select_hyperslab((start, *(0 for _ in row)), block.shape)
    dataset.id.write(h5py.h5s.create_simple(block.shape), space, block)
    return checksums.of_rows(column, block, checksum)


def append_some(
    dataset: h5py.Dataset, column: Column, start: int, values: Values, checksum: int = 0
) -> int:
    """As `append`, but None leaves a row at the fill value, where it takes no room."""
    dataset.resize(start + len(values), axis=0)
    for number, value in enumerate(values, start):
        if value is not None:
            dataset[number] = value
    return checksums.of_some(column, values, checksum)

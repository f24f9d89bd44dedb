"""What is added to a log when its run is over."""

import os
import shutil

import h5py
import numpy as np

from asyndbt_mpi.log import schema
from asyndbt_mpi.log.reader import LogError, Stationarity


def add_stationarity(path: str | os.PathLike[str], found: Stationarity) -> None:
    """Put ``found`` into the log at ``path``, in place of what may be there.

    It goes into a copy, which takes the log's place once it is whole: nothing that happens on
    the way can harm the log.

    Raises
    ------
    LogError
        The copy cannot be written.
    """
    copy = f"{os.fspath(path)}.with-stationarity"
    try:
        shutil.copy2(path, copy)
        with h5py.File(copy, "r+", locking=False) as file:
            if "stationarity" in file:
                del file["stationarity"]
            group = file.create_group("stationarity")
            group.attrs["kind"] = found.kind
            for name in ("iteration", *schema.STATIONARITY):
                values: np.ndarray = getattr(found, name)
                group.create_dataset(name, data=values, maxshape=(None,), chunks=True)
        os.replace(copy, path)
    except (OSError, RuntimeError) as error:
        raise LogError(f"{copy}: cannot be written: {str(error).splitlines()[0]}") from error
    finally:
        if os.path.exists(copy):
            os.unlink(copy)
